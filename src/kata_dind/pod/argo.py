"""Argo Workflows: a pod for each template that runs something; the class stands in the string podSpecPatch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.embedded import parsed_patch
from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import items, mapping, text
from kata_dind.pod.tekton import with_script

_MADE_BY = "Argo's workflow controller makes a pod for each step"


def argo_pods(document: Mapping[Any, Any], pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of each template of a Workflow or of what makes Workflows."""
    spec, at = mapping(document.get("spec")), (*pointer, "spec")
    if text(document.get("kind")) == "CronWorkflow":
        spec, at = mapping(spec.get("workflowSpec")), (*at, "workflowSpec")
    for index, template in enumerate(items(spec.get("templates"))):
        known = mapping(template)
        if any(known.get(key) for key in ("container", "script", "containerSet", "sidecars", "initContainers")):
            yield _pod(document, pointer, (spec, at), (known, (*at, "templates", index)))


def _pod(
    document: Mapping[Any, Any], pointer: Pointer, workflow: tuple[Any, Pointer], template: tuple[Any, Pointer]
) -> Place:
    pod = Assembly()
    spec, at = workflow
    own, own_at = template
    defaults, defaults_at = mapping(spec.get("templateDefaults")), (*at, "templateDefaults")
    sources = [(own, own_at), (defaults, defaults_at), (spec, at)]
    for source, where in sources:
        for key in ("securityContext", "serviceAccountName", "nodeSelector", "hostAliases"):
            if key in source and not pod.has(key):
                pod.field(key, source[key], (*where, key))
    pod.gather(
        "volumes",
        [(source.get("volumes"), (*where, "volumes")) for source, where in sources],
        into=(*own_at, "volumes"),
    )
    pod.gather(
        "initContainers",
        [(source.get("initContainers"), (*where, "initContainers")) for source, where in sources[:2]],
        into=(*own_at, "initContainers"),
    )
    _containers(pod, own, own_at)
    pod.gather(
        "containers",
        [(source.get("sidecars"), (*where, "sidecars")) for source, where in sources[:2]],
        into=(*own_at, "sidecars"),
    )
    for source in (spec, defaults, own):
        pod.overlay(parsed_patch(source.get("podSpecPatch")))
    pod.metadata(
        [(spec.get("podMetadata"), (*at, "podMetadata")), (own.get("metadata"), (*own_at, "metadata"))],
        into=(*own_at, "metadata"),
    )
    return pod.place(
        document,
        claim_templates=spec.get("volumeClaimTemplates"),
        made_by=_MADE_BY,
        patch_text=((*own_at, "podSpecPatch"), text(own.get("podSpecPatch"))),
    )


def _containers(pod: Assembly, template: Mapping[Any, Any], at: Pointer) -> None:
    container, script = template.get("container"), template.get("script")
    if isinstance(container, Mapping):
        pod.entry("containers", _named(container), {(): (*at, "container")})
    if isinstance(script, Mapping):
        pod.entry("containers", *_named_script(script, (*at, "script")))
    for index, entry in enumerate(items(mapping(template.get("containerSet")).get("containers"))):
        pod.entry("containers", entry, {(): (*at, "containerSet", "containers", index)})


def _named(container: Mapping[Any, Any]) -> Mapping[Any, Any]:
    # Argo calls it so, and a podSpecPatch speaks of it by this name.
    return container if container.get("name") else {"name": "main", **container}


def _named_script(script: Mapping[Any, Any], at: Pointer) -> tuple[object, dict[Pointer, Pointer | None]]:
    """Return a template's script as a container: its `source` is a file that its command gets as an argument."""
    source = text(script.get("source"))
    container, parts = with_script({**script, "script": source}, at, {(): at})
    if ("command", 2) in parts:
        parts["command", 2] = (*at, "source")
    return _named(mapping(container)), parts
