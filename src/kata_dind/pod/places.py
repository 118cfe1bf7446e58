"""Pods in documents: a pod spec is known by its shape, wherever it stands.

`find_pods` walks a document once and stops at each pod. Kinds whose pods are spread over the document (Tekton, Argo,
runners that a controller completes) have modules of their own, which put the pod together. `translate` writes a pod's
patch as one of the document. Nothing here trusts a document: it may be deep, cyclic, or share its parts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kata_dind.manifest.patch import join_pointer, split_pointer
from kata_dind.pod.argo import argo_pods
from kata_dind.pod.buildkite import buildkite_pods, is_plugin
from kata_dind.pod.charts import class_in, container_lists, described_pods, describes_daemon, values_pod
from kata_dind.pod.embedded import parsed_text, with_fields
from kata_dind.pod.gitlab import gitlab_pods, is_configuration
from kata_dind.pod.jenkins import chart_agent_pods, is_chart_agent, is_template, jenkins_pods
from kata_dind.pod.kustomize import is_operations, operation_pods
from kata_dind.pod.model import Operation, Place, Pointer
from kata_dind.pod.parts import identity, mappings
from kata_dind.pod.reading import items, mapping, text
from kata_dind.pod.runners import (
    experimental_pods,
    is_experimental_values,
    is_scale_set_values,
    legacy_pods,
    scale_set_pods,
)
from kata_dind.pod.tekton import tekton_pods
from kata_dind.pod.wrapper import with_dollars_doubled

_DEEPEST = 100
"""Kubernetes' own documents are not half as deep."""
_DEEPEST_TEXT = 2
"""A manifest in the text of a configuration in a chart's values."""
_MOST = 10_000
"""Pods in one document; more come only of aliases that multiply."""

_Finder = Callable[[Mapping[Any, Any], Pointer], Iterable[Place]]

_KINDS: Mapping[str, tuple[str, _Finder]] = {
    "TaskRun": ("tekton.dev/", tekton_pods),
    "PipelineRun": ("tekton.dev/", tekton_pods),
    "Task": ("tekton.dev/", tekton_pods),
    "ClusterTask": ("tekton.dev/", tekton_pods),
    "Pipeline": ("tekton.dev/", tekton_pods),
    "StepAction": ("tekton.dev/", tekton_pods),
    "Workflow": ("argoproj.io/", argo_pods),
    "WorkflowTemplate": ("argoproj.io/", argo_pods),
    "ClusterWorkflowTemplate": ("argoproj.io/", argo_pods),
    "CronWorkflow": ("argoproj.io/", argo_pods),
    "RunnerDeployment": ("actions.summerwind", legacy_pods),
    "RunnerReplicaSet": ("actions.summerwind", legacy_pods),
    "RunnerSet": ("actions.summerwind", legacy_pods),
    "Runner": ("actions.summerwind", legacy_pods),
}
"""Kinds whose pods are not in one piece, with the beginning of their API group."""

_POD_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
"""What a pod or its template has. What has other fields beside `spec`, as a job of Prow's has, may take no metadata."""

_OPAQUE = frozenset({"ConfigMap", "Secret", "CustomResourceDefinition"})
"""Kinds that hold text and schemas, not pods."""

_HELM = "Helm makes the pod of these values"
_KRO = "kro takes each `${…}` in this document, of which the guest entrypoint has many, for an expression of its own"


@dataclass(frozen=True, slots=True)
class _Around:
    """What the walk has passed on its way down."""

    document: Mapping[Any, Any]
    claim_templates: object = ()
    made_by: str = ""
    incomplete: str = ""
    runtime_class: str = ""
    """The nearest that stands outside of a pod spec."""
    texts: int = 0
    """In how many texts within texts this is."""


def find_pods(document: Mapping[Any, Any] | Sequence[Any]) -> Iterator[Place]:
    """Yield each pod in a document, in its order: of any kind, of chart values, a runner's configuration, a JSON patch.

    A pod whose container or class stands elsewhere says so in `incomplete`, and `made_by` names what makes it.
    """
    if isinstance(document, Mapping) or is_operations(document):
        around = _Around(document if isinstance(document, Mapping) else {})
        yield from itertools.islice(_Walk().through(document, (), around), _MOST)


class _Walk:
    """One walk through a document."""

    def __init__(self) -> None:
        self._barren: set[int] = set()
        """What was walked through and held no pod: it is not walked through for each alias."""
        self._path: set[int] = set()

    def through(self, node: object, pointer: Pointer, around: _Around) -> Iterator[Place]:
        if isinstance(node, str):
            if "\n" in node:
                yield from self._through_text(node, pointer, around)
            return
        if not isinstance(node, Mapping | list | tuple) or len(pointer) > _DEEPEST:
            return
        if id(node) in self._barren or id(node) in self._path:
            return
        found = False
        self._path.add(id(node))
        try:
            places = self._in_mapping(node, pointer, around) if isinstance(node, Mapping) else None
            for place in self._in_children(node, pointer, around) if places is None else places:
                found = True
                yield place
        finally:
            self._path.discard(id(node))
        if not found:
            self._barren.add(id(node))

    def _in_mapping(self, node: Mapping[Any, Any], pointer: Pointer, around: _Around) -> Iterable[Place] | None:
        """Return the pods of a mapping that is known; None if its children are to be walked through."""
        kind = text(node.get("kind"))
        if kind:
            if kind in _OPAQUE and "apiVersion" in node:
                return ()
            group, finder = _KINDS.get(kind, ("", None))
            if finder is not None and text(node.get("apiVersion")).startswith(group):
                return finder(node, pointer)
            if kind == "ResourceGraphDefinition":
                return (_unpatched(place, _KRO) for place in self._in_children(node, pointer, around))
        if is_template(node):
            return jenkins_pods(node, around.document)
        if is_chart_agent(node):
            return chart_agent_pods(node, around.document)
        if is_plugin(node, pointer):
            return buildkite_pods(node, pointer)
        lists = container_lists(node)
        if lists:
            return self._with_lists(node, pointer, around, lists)
        if is_pod_spec(node):
            return (_in_one_piece(node, pointer, around),)
        if is_pod_spec(node.get("spec")):
            return self._with_siblings(node, pointer, around)
        if is_scale_set_values(node):
            return (scale_set_pods(node, pointer, _enter(node, around).document),)
        if is_experimental_values(node):
            return (experimental_pods(node, pointer, _enter(node, around).document),)
        if is_configuration(node):
            return gitlab_pods(node, pointer)
        if around.runtime_class and describes_daemon(node):
            return described_pods(
                node,
                pointer,
                around.document,
                runtime_class=around.runtime_class,
                made_by=_maker(around),
            )
        return None

    def _with_lists(
        self, node: Mapping[Any, Any], pointer: Pointer, around: _Around, lists: list[str]
    ) -> Iterable[Place] | None:
        """Return the pod of values with lists of containers, and what stands beside them; None without a class."""
        inner = _enter(node, around)
        if not inner.runtime_class:
            return None
        taken = {*lists, "containers", "initContainers"}
        rest = {key: value for key, value in node.items() if key not in taken}
        pod = values_pod(
            node,
            pointer,
            inner.document,
            lists=lists,
            runtime_class=inner.runtime_class,
            made_by=_maker(inner),
        )
        return itertools.chain((pod,), self._in_children(rest, pointer, inner))

    def _with_siblings(self, node: Mapping[Any, Any], pointer: Pointer, around: _Around) -> Iterator[Place]:
        inner = _enter(node, around)
        yield _in_one_piece(node["spec"], (*pointer, "spec"), inner, parent=node)
        for key, value in node.items():
            if key not in ("spec", "metadata", "status") and isinstance(key, str):
                yield from self.through(value, (*pointer, key), inner)

    def _in_children(self, node: Any, pointer: Pointer, around: _Around) -> Iterator[Place]:
        if not isinstance(node, Mapping):
            if is_operations(node):
                yield from operation_pods(node, pointer, around.document)
            for index, value in enumerate(node):
                yield from self.through(value, (*pointer, index), around)
            return
        inner = _enter(node, around)
        for key, value in node.items():
            if isinstance(key, str) and key not in ("metadata", "status"):
                below = inner
                if key in ("values", "valuesObject") and text(inner.document.get("kind")):
                    below = replace(inner, made_by=inner.made_by or _HELM)
                yield from self.through(value, (*pointer, key), below)

    def _through_text(self, source: str, pointer: Pointer, around: _Around) -> Iterator[Place]:
        if around.texts >= _DEEPEST_TEXT:
            return
        for data in parsed_text(source):
            said = f"the manifest is text in the field {_dotted(pointer)}, which is not rewritten"
            document = data if isinstance(data, Mapping) and data.get("kind") else around.document
            inner = _Around(document, texts=around.texts + 1, made_by=around.made_by or said)
            for place in _Walk().through(data, (), inner):
                yield _unpatched(place, place.made_by or said)


def _unpatched(place: Place, made_by: str) -> Place:
    """Return a place that no patch finds its way into."""
    return replace(place, parts=(((), None),), missing=frozenset(), patch_text=None, made_by=made_by)


def is_pod_spec(value: object) -> bool:
    """Tell whether a value is a pod spec: a mapping whose containers are a list with named images in it."""
    if not isinstance(value, Mapping):
        return False
    if not any(_are_containers(value.get(key)) for key in ("containers", "initContainers")):
        return False
    # A kind of somebody's own may have containers of another meaning beside its pods' template.
    return "template" not in value or not is_pod_spec(mapping(value["template"]).get("spec"))


def _are_containers(value: object) -> bool:
    return any(
        isinstance(entry, Mapping) and (isinstance(entry.get("image"), str) or isinstance(entry.get("name"), str))
        for entry in items(value)
    )


def _in_one_piece(
    spec: Mapping[Any, Any], pointer: Pointer, around: _Around, *, parent: Mapping[Any, Any] | None = None
) -> Place:
    """Return a pod that stands in the document as it is: with its metadata if its spec is called so."""
    parts: tuple[tuple[Pointer, Pointer | None], ...] = ((("spec",), pointer), ((), None))
    if parent is not None and ("metadata" in parent or parent.keys() <= _POD_FIELDS):
        parts = (((), pointer[:-1]),)
    return Place(
        *identity(around.document),
        pod={"spec": spec} if parent is None else parent,
        parts=parts,
        claim_templates=mappings(around.claim_templates),
        made_by=around.made_by,
        incomplete=around.incomplete,
    )


def _enter(node: Mapping[Any, Any], around: _Around) -> _Around:
    document = node if isinstance(node.get("kind"), str) and isinstance(node.get("apiVersion"), str) else None
    if document is not None and document is not around.document:
        around = replace(around, document=document, claim_templates=())
    named = class_in(node)
    if named and named != around.runtime_class:
        around = replace(around, runtime_class=named)
    claims = node.get("volumeClaimTemplates")
    return around if claims is None else replace(around, claim_templates=claims)


def _maker(around: _Around) -> str:
    """Return what makes a pod of fields that are no pod spec's."""
    kind = text(around.document.get("kind"))
    return around.made_by or (f"The controller of the kind {kind} makes the pod" if kind else _HELM)


def _dotted(pointer: Pointer) -> str:
    return ".".join(str(step) for step in pointer)


def config_maps_in(documents: Iterable[Mapping[Any, Any]]) -> dict[str, dict[str, str]]:
    """Return the data of the ConfigMaps in some documents, and in their Lists, by name. The last of a name counts."""
    found: dict[str, dict[str, str]] = {}
    for document in documents:
        for item in (document, *items(mapping(document).get("items"))):
            known = mapping(item)
            name = mapping(known.get("metadata")).get("name")
            if known.get("kind") == "ConfigMap" and isinstance(name, str):
                data = mapping(known.get("data")).items()
                found[name] = {k: v for k, v in data if isinstance(k, str) and isinstance(v, str)}
    return found


def translate(place: Place, patch: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
    """Return a pod's patch in the pointers of the place's document, and the operations that the document can't hold.

    A patch of which something is left is not to be applied, unless what is left is about `/metadata` alone: some
    documents have no place for a pod's annotations.
    """
    parts = list(place.parts)
    missing = set(place.missing)
    held: list[Operation] = []
    left: list[Operation] = []
    for operation in patch:
        pod_pointer = split_pointer(operation["path"])
        pointer = _document_pointer(parts, pod_pointer)
        if pointer is None:
            left.append(operation)
            continue
        held.append(_operation(operation, pointer, missing))
        if place.doubles_dollars and "value" in operation:
            held[-1]["value"] = with_dollars_doubled(held[-1]["value"])
        _shift(parts, operation["op"], pod_pointer, pointer)
    return _into_text(place, held, left)


def in_document(place: Place, pointer: Pointer) -> tuple[str, ...]:
    """Return the steps to a value of the pod in the document; none if it is not in there."""
    return _document_pointer(place.parts, [str(step) for step in pointer]) or ()


def _into_text(place: Place, held: list[Operation], left: list[Operation]) -> tuple[list[Operation], list[Operation]]:
    """Move single fields of the pod spec to the string that patches it, if the document has such a string."""
    fields = {
        split_pointer(operation["path"])[1]: operation["value"]
        for operation in left
        if re.fullmatch("/spec/[A-Za-z]+", operation["path"])
        and operation["op"] in ("add", "replace")
        and not isinstance(operation["value"], dict | list)
    }
    if place.patch_text is None or not fields:
        return held, left
    pointer, source = place.patch_text
    changed = with_fields(source, fields)
    if changed is None:
        return held, left
    # What is there already is replaced by an `add`, too (RFC 6902).
    held.append({"op": "add", "path": join_pointer(pointer), "value": changed})
    return held, [operation for operation in left if operation["path"].removeprefix("/spec/") not in fields]


def _operation(operation: Operation, pointer: Sequence[str], missing: set[Pointer]) -> Operation:
    parent = tuple(pointer[:-1])
    absent = next((one for one in missing if tuple(map(str, one)) == parent), None)
    moved = operation.copy()
    moved["path"] = join_pointer(pointer)
    if absent is not None and operation["op"] == "add":
        missing.discard(absent)
        moved["path"] = join_pointer(parent)
        moved["value"] = [operation["value"]]
    return moved


def _document_pointer(
    parts: Iterable[tuple[Pointer, Pointer | None]], pointer: Sequence[str]
) -> tuple[str, ...] | None:
    for pod, document in parts:
        if len(pod) <= len(pointer) and all(str(step) == pointer[at] for at, step in enumerate(pod)):
            return None if document is None else (*map(str, document), *pointer[len(pod) :])
    return None


def _shift(
    parts: list[tuple[Pointer, Pointer | None]], op: str, pod_pointer: Sequence[str], pointer: Sequence[str]
) -> None:
    """Move the parts behind an entry that was added to, or removed from, a list."""
    step = {"add": 1, "remove": -1}.get(op, 0)
    if not step or not pod_pointer[-1:] or not pod_pointer[-1].isdecimal():
        return
    for number, (pod, document) in enumerate(parts):
        moved = None if document is None else _behind(document, pointer, step)
        parts[number] = (_behind(pod, pod_pointer, step), moved)


def _behind(pointer: Pointer, changed: Sequence[str], step: int) -> Pointer:
    at = len(changed) - 1
    if len(pointer) <= at or not changed[at].isdecimal() or tuple(map(str, pointer[:at])) != tuple(changed[:at]):
        return pointer
    index = pointer[at]
    if not isinstance(index, int) or index < int(changed[at]):
        return pointer
    return (*pointer[:at], index + step, *pointer[at + 1 :])
