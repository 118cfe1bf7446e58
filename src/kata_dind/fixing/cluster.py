"""A cluster's workloads, read through kubectl and its kubeconfig, a page at a time; nothing is ever written to it."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from kata_dind.errors import CommandFailed, CommandTimedOut, KubernetesError, ToolMissing
from kata_dind.fixing.around import Around, around_with
from kata_dind.fixing.mend import Mender
from kata_dind.fixing.reports import DocumentReport, PodReport
from kata_dind.host.process import find_tool, run
from kata_dind.kube.kubeconfig import find_kubeconfigs
from kata_dind.kube.resources import (
    CONFIG_MAPS,
    CUSTOM_WORKLOADS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    WORKLOADS,
    Resource,
)
from kata_dind.pod.classes import with_handlers
from kata_dind.pod.lookups import unknown_images
from kata_dind.pod.model import Place
from kata_dind.pod.policy import Policy
from kata_dind.pod.pull_secrets import pull_secrets_of, service_account_of
from kata_dind.pod.reading import items, mapping
from kata_dind.progress import Event, Report

PAGE = 200
"""Objects in one answer: at most a few megabytes."""

_TIMEOUT_SECONDS = 120.0
_MOST_OBJECTS = 64


_BESIDE_PODS = {each.kind: each for each in (CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, SECRETS, SERVICE_ACCOUNTS)}
"""What a pod may refer to, by its kind."""

_MADE_BY_LISTED = frozenset(
    (
        *("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "CronJob", "Job", "ReplicationController"),
        *("AutoscalingRunnerSet", "EphemeralRunnerSet", "EphemeralRunner"),
        *("RunnerDeployment", "RunnerReplicaSet", "RunnerSet", "Runner", "Sandbox", "SandboxClaim"),
        *("Workflow", "CronWorkflow", "ScaledJob", "PipelineRun", "TaskRun"),
    )
)
"""Controllers whose objects we read, or whose own controllers we read: what they make is not reported again."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where to look."""

    context: str = ""
    namespace: str = ""
    all_namespaces: bool = False
    kubeconfig: str = ""
    """The file that kubectl reads; empty for its own choice."""

    @property
    def name(self) -> str:
        """The cluster's name for people."""
        return f"the context {self.context!r}" if self.context else "the current context"


@dataclass(slots=True)
class _Reader:
    cluster: Cluster
    namespace: str
    report: Report
    owners: set[tuple[str, str, str]] = field(default_factory=set)
    """Controllers that we don't know, of which one pod was reported."""
    objects: dict[tuple[str, str, str], Mapping[str, Any]] = field(default_factory=dict)
    """What pods mount, by kind, namespace and name."""


def contexts() -> list[str]:
    """Return the names of kubectl's contexts. Raises KubernetesError, ToolMissing."""
    return _kubectl(Cluster(), ["config", "get-contexts", "--output", "name"]).splitlines()


def examine_cluster(cluster: Cluster, mender: Mender, *, report: Report) -> Iterator[DocumentReport]:
    """Examine the workloads of a cluster. Raises KubernetesError, ToolMissing, SpecError for no such kubeconfig.

    A workload stands for the pods that it makes. What may not be listed is left out, and an event says so.
    """
    reader = _Reader(cluster, _namespace(cluster), report)
    _require_namespace(reader)
    policy = _policy(reader, mender)
    index = 0
    for resource in [*_custom(reader), *WORKLOADS]:
        for each in _listed(reader, resource):
            owner = _owner(each)
            if owner and _is_reported_elsewhere(reader, each, owner):
                continue
            pods = _examined(reader, mender, each, policy)
            if owner:
                pods = tuple(_as_made_by(owner, pod) for pod in pods)
            yield DocumentReport(source="", index=index, line=0, text="", mended=str, pods=pods)
            index += 1


def _examined(reader: _Reader, mender: Mender, each: Mapping[str, Any], policy: Policy | None) -> tuple[PodReport, ...]:
    # Images are looked up once their pull secrets are at hand.
    pods = replace(mender, images=None).pods(each, around=Around(policy))
    wanted = {
        (kind, pod.place.namespace, name) for pod in pods if pod.detection.is_kata for kind, name in _mounted(pod.place)
    }
    asked = [pod.place for pod in pods if mender.images and unknown_images(pod.place.pod, policy or mender.policy)]
    if not wanted and not asked:
        return pods
    if len(reader.objects) > _MOST_OBJECTS:
        reader.objects.clear()
    wanted |= {key for place in asked for key in _pull_secrets(reader, place)}
    objects = [_known_object(reader, key) for key in sorted(wanted)]
    return mender.pods(each, around=around_with(objects, policy))


def _pull_secrets(reader: _Reader, place: Place) -> Iterator[tuple[str, str, str]]:
    """Yield the Secrets that a pod's images are pulled with, and the ServiceAccount that names them."""
    names = list(pull_secrets_of(place.pod))
    if account := service_account_of(place.pod):
        key = ("ServiceAccount", place.namespace, account)
        yield key
        names = list(pull_secrets_of(_known_object(reader, key)))
    yield from (("Secret", place.namespace, name) for name in names)


def _known_object(reader: _Reader, key: tuple[str, str, str]) -> Mapping[str, Any]:
    if key not in reader.objects:
        reader.objects[key] = _object(reader, *key)
    return reader.objects[key]


def _mounted(place: Place) -> Iterator[tuple[str, str]]:
    """Yield the kinds and names of the ConfigMaps and claims that a pod mounts."""
    for volume in map(mapping, items(mapping(place.pod.get("spec")).get("volumes"))):
        sources = [volume, *map(mapping, items(mapping(volume.get("projected")).get("sources")))]
        found = [("ConfigMap", mapping(source.get("configMap")).get("name")) for source in sources]
        found.append(("PersistentVolumeClaim", mapping(volume.get("persistentVolumeClaim")).get("claimName")))
        yield from ((kind, name) for kind, name in found if isinstance(name, str) and name)


def _object(reader: _Reader, kind: str, namespace: str, name: str) -> Mapping[str, Any]:
    """Read one object; an empty one if it does not exist, or may not be read."""
    resource = _BESIDE_PODS[kind]
    try:
        return {**mapping(_get(reader.cluster, resource.path(name, namespace=namespace))), "kind": kind}
    except KubernetesError as error:
        if not _is_refusal(error):
            raise
        return {}


def _as_made_by(owner: Mapping[str, Any], pod: PodReport) -> PodReport:
    place = replace(pod.place, kind=str(owner.get("kind")), name=str(owner.get("name")))
    return replace(pod, place=place)


def _namespace(cluster: Cluster) -> str:
    if cluster.all_namespaces:
        return ""
    if cluster.namespace:
        return cluster.namespace
    argv = ["config", "view", "--minify", "--output", "jsonpath={..namespace}"]
    return _kubectl(cluster, argv).strip() or "default"


def _require_namespace(reader: _Reader) -> None:
    """Raise KubernetesError for a namespace that does not exist: its lists would just be empty."""
    if not reader.namespace:
        return
    try:
        _get(reader.cluster, NAMESPACES.path(reader.namespace))
    except KubernetesError as error:
        if f'namespaces "{reader.namespace}" not found' not in error.details:
            return  # it may not be read, which says nothing about what is in it
        context = f" --context {shlex.quote(reader.cluster.context)}" if reader.cluster.context else ""
        raise KubernetesError(
            f"{reader.cluster.name} has no namespace {reader.namespace!r}",
            id="kubernetes.no-namespace",
            details=error.details,
            hint=f"kubectl{context} get namespaces",
        ) from error


def _policy(reader: _Reader, mender: Mender) -> Policy | None:
    classes = _listed(reader, RUNTIME_CLASSES)
    return with_handlers(mender.policy, classes)


def _custom(reader: _Reader) -> Iterator[Resource]:
    """Yield the custom resources that this cluster has, each with the version that it prefers."""
    groups = items(mapping(_get(reader.cluster, "/apis")).get("groups"))
    for group in map(mapping, groups):
        name, version = group.get("name"), mapping(group.get("preferredVersion")).get("groupVersion")
        if name not in CUSTOM_WORKLOADS or not isinstance(version, str):
            continue
        found = map(mapping, items(mapping(_get(reader.cluster, f"/apis/{version}")).get("resources")))
        served = {str(each.get("name")): each for each in found}
        for plural in CUSTOM_WORKLOADS[str(name)]:
            if each := served.get(plural):
                is_namespaced = each.get("namespaced") is not False
                yield Resource(version, plural, str(each.get("kind")), namespaced=is_namespaced)


def _listed(reader: _Reader, resource: Resource) -> Iterator[Mapping[str, Any]]:
    """Yield all objects of a resource, page by page: those of the namespace, and those that are in none."""
    following = ""
    while True:
        path = f"{resource.path(namespace=reader.namespace)}?limit={PAGE}"
        try:
            page = mapping(_get(reader.cluster, f"{path}&continue={quote(following)}" if following else path))
        except KubernetesError as error:
            if not _is_refusal(error):
                raise
            reader.report(Event("warning", f"{resource.plural} can't be listed, so they are left out"))
            return
        for item in items(page.get("items")):
            if isinstance(item, Mapping):
                # The objects of a list don't repeat what the list says.
                yield {"apiVersion": resource.version, "kind": resource.kind, **item}
        following = str(mapping(page.get("metadata")).get("continue") or "")
        if not following:
            return


def _owner(each: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the reference to the controller that made an object, if one did."""
    owners = map(mapping, items(mapping(each.get("metadata")).get("ownerReferences")))
    return next((owner for owner in owners if owner.get("controller") is True), None)


def _is_reported_elsewhere(reader: _Reader, each: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    if owner.get("kind") in _MADE_BY_LISTED:
        return True
    key = (str(mapping(each.get("metadata")).get("namespace")), str(owner.get("kind")), str(owner.get("name")))
    if key in reader.owners:
        return True
    reader.owners.add(key)
    return False


def _get(cluster: Cluster, path: str) -> Any:
    text = _kubectl(cluster, ["get", "--raw", path])
    try:
        return json.loads(text)
    except ValueError as error:
        raise KubernetesError(
            f"kubectl's answer to {path} is not JSON", id="kubernetes.answer-unreadable", details=text[:500]
        ) from error


def _kubectl(cluster: Cluster, arguments: Sequence[str]) -> str:
    if find_tool("kubectl") is None:
        raise ToolMissing(
            "kubectl is not installed, and kata-dind reads a cluster through it",
            id="host.tool-missing",
            hint="install kubectl; or, where it is: kubectl get deployments,jobs,pods -A -o json >all.json",
        )
    file = [f"--kubeconfig={path}" for path in find_kubeconfigs(cluster.kubeconfig)] if cluster.kubeconfig else []
    context = [*file, *(["--context", cluster.context] if cluster.context else [])]
    try:
        # Programs that kubectl gets credentials from need what the user's own kubectl would give them.
        done = run(["kubectl", *context, *arguments], timeout_seconds=_TIMEOUT_SECONDS, environment=os.environ)
    except (CommandFailed, CommandTimedOut) as error:
        if "current-context must exist" in error.details:
            raise KubernetesError(
                "kubectl has no current context, so there is no cluster to read",
                id="kubernetes.no-context",
                details=error.details,
                hint="give --context NAME or --kubeconfig FILE, or set KUBECONFIG",
            ) from error
        raise KubernetesError(
            f"{cluster.name} can't be read: {_last_line(error.details) or error.summary}",
            id="kubernetes.not-readable",
            details=error.details,
        ) from error
    return done.stdout


def _is_refusal(error: KubernetesError) -> bool:
    return any(word in error.details for word in ("(Forbidden)", "(NotFound)", "forbidden", "could not find the"))


def _last_line(text: str) -> str:
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return re.sub(r"^(?:error|Error from server(?: \(\w+\))?): ", "", last)
