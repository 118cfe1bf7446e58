"""What a pod is warned of or refused for, by the policy; all off by default.

Sources: Kata's advisories GHSA-2gv2-cffp-j227, GHSA-rr59-xxvx-96qr and GHSA-wwj6-vghv-5p64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from kata_dind.pod.handlers import ANNOTATIONS, Runtime, Shim, Vmm, runtime_of
from kata_dind.pod.model import Detection, Finding, PodDict, Pointer, Severity
from kata_dind.pod.policy import Answer, Policy, Sharing, matches
from kata_dind.pod.reading import containers_of, is_privileged, items, mapping, text, volumes_of
from kata_dind.pod.sentences import quoted
from kata_dind.pod.volumes import clean_path

Guarded = tuple[Answer, Finding]

_EXTRA_ARGS = "virtio_fs_extra_args"
_NO_BOUNDARY = "guard.no-boundary"
_OBEYED_SINCE = {Shim.GO: (3, 2, 0), Shim.RS: (3, 24, 0), None: (3, 2, 0)}
"""The releases since which `enable_annotations` names virtio_fs_extra_args (b1dd09a4d3, d495b77135)."""

_SOCKETS = (
    *("/run/docker.sock", "/var/run/docker.sock"),
    *("/run/containerd", "/var/run/containerd", "/run/docker/containerd", "/var/run/docker/containerd"),
    *("/run/k3s/containerd", "/run/dockershim.sock", "/var/run/dockershim.sock"),
)
_SOCKET_DIRECTORIES = frozenset(("/run", "/var/run", "/run/docker", "/var/run/docker", "/run/k3s"))
_DATA = ("/var/lib/docker", "/var/lib/containerd")
_PARENTS = frozenset(("/", "/var", "/var/lib"))


def guard(pod: PodDict, policy: Policy, detection: Detection) -> tuple[Guarded, ...]:
    """Return what the guards have to say about a pod, each with the answer that the policy gives.

    What can't be told for want of a version is a warning at most.
    """
    guards = policy.guards
    found: list[Guarded] = []
    if guards.shared_kernel is not Answer.OFF:
        found += [(guards.shared_kernel, finding) for finding in _shared_kernel(detection)]
    if guards.host_docker is not Answer.OFF:
        found += _answered(_host_docker(mapping(pod.get("spec"))), guards.host_docker)
    if guards.no_boundary is Answer.OFF and guards.open_annotations is Answer.OFF:
        return tuple(found)
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    runtime = runtime_of(detection.runtime_class, annotations, policy)
    if runtime is None:
        return tuple(found)
    if guards.no_boundary is not Answer.OFF:
        found += _answered(_no_boundary(mapping(pod.get("spec")), runtime, detection), guards.no_boundary)
        if guards.open_annotations is Answer.OFF:
            found += _answered(_leaves_boundary(annotations, runtime, policy), guards.no_boundary)
    if guards.open_annotations is not Answer.OFF:
        found += _answered(_open_annotations(annotations, runtime, policy), guards.open_annotations)
    return tuple(found)


def _answered(findings: Iterator[tuple[bool, Finding]], answer: Answer) -> list[Guarded]:
    """Give the policy's answer where a finding is sure, and a warning where it isn't."""
    return [(answer if is_sure else Answer.WARN, finding) for is_sure, finding in findings]


def _shared_kernel(detection: Detection) -> Iterator[Finding]:
    if detection.is_kata:
        return
    for engine in detection.engines:
        if engine.privileged:
            named = quoted(detection.runtime_class)
            where = f"the RuntimeClass {named}" if detection.runtime_class else "no RuntimeClass"
            yield Finding(
                "guard.shared-kernel",
                Severity.WARNING,
                f"`{engine.program}` is privileged here and shares the kernel of the node: "
                f"the pod has {where}, which is not Kata's by the policy.",
                container=engine.container,
                pointer=engine.pointer,
                hint="Give the pod a RuntimeClass of Kata's.",
            )


@dataclass(frozen=True, slots=True)
class Advisory:
    """A fault of Kata by which a VM is no boundary for a privileged container."""

    is_sure: bool
    fault: str
    """A clause, without the runtime that has it."""
    because: str
    """Why the runtime has it, or may have it."""


def advisories(runtime: Runtime) -> list[Advisory]:
    """Return the faults that a runtime has, or may have for all that is known."""
    found: list[Advisory | None] = []
    # The shim of a class that leaves it open was Go's in all versions with the fault. Dragonball has no virtiofsd.
    is_go = runtime.shim is Shim.GO or (runtime.shim is None and runtime.vmm is not None)
    if not is_go and _may_be(runtime, Vmm.QEMU, Vmm.CLOUD_HYPERVISOR) and runtime.sharing is Sharing.VIRTIO_FS:
        fault = (
            "before 3.31, Kata's Rust runtime runs virtiofsd as root and without a sandbox, within reach of the guest "
            "(GHSA-2gv2-cffp-j227)"
        )
        found.append(_until(runtime, (3, 31, 0), fault))
    if _may_be(runtime, Vmm.CLOUD_HYPERVISOR):
        fault = (
            "before 3.27, a guest on Cloud Hypervisor can write to the image that all guests boot from "
            "(GHSA-wwj6-vghv-5p64)"
        )
        found.append(_until(runtime, (3, 27, 0), fault))
    return [advisory for advisory in found if advisory is not None]


def _may_be(runtime: Runtime, *vmms: Vmm) -> bool:
    return runtime.vmm is None or runtime.vmm in vmms


def _until(runtime: Runtime, mended: tuple[int, ...], fault: str) -> Advisory | None:
    if not runtime.version:
        return Advisory(False, fault, f"the policy does not give the version of {quoted(runtime.handler)}")
    if runtime.version >= mended:
        return None
    version = f"the version of {quoted(runtime.handler)} is {_dotted(runtime)}"
    if runtime.vmm is None:
        return Advisory(False, fault, f"{version}, and what it runs is not known")
    return Advisory(True, fault, version)


def _dotted(runtime: Runtime) -> str:
    return ".".join(map(str, runtime.version))


def _no_boundary(spec: Mapping[str, Any], runtime: Runtime, detection: Detection) -> Iterator[tuple[bool, Finding]]:
    faults = advisories(runtime)
    if not faults:
        return
    engines = {engine.pointer for engine in detection.engines if engine.privileged}
    for list_name, index, container in containers_of(spec):
        pointer: Pointer = ("spec", list_name, index)
        if not is_privileged(container) and pointer not in engines:
            continue
        for fault in faults:
            finding = Finding(
                _NO_BOUNDARY,
                Severity.WARNING,
                f"The VM {'is' if fault.is_sure else 'may be'} no boundary for this privileged container: "
                f"{fault.fault}, and {fault.because}.",
                container=text(container.get("name")),
                pointer=pointer,
                hint="Use a later Kata." if runtime.version else "Give the class its version in the policy.",
            )
            yield fault.is_sure, finding


def _open_annotations(
    annotations: Mapping[str, Any], runtime: Runtime, policy: Policy
) -> Iterator[tuple[bool, Finding]]:
    if ANNOTATIONS + _EXTRA_ARGS not in annotations:
        return
    obedience, because = _obeys(runtime, policy)
    finding = Finding(
        "guard.open-annotations",
        Severity.WARNING,
        f"The annotation {_EXTRA_ARGS} lets a pod share any directory of the node with its guest, if Kata obeys it: "
        f"{because}.",
        pointer=("metadata", "annotations", ANNOTATIONS + _EXTRA_ARGS),
        hint="Remove the annotation from the pod, and from enable_annotations of the handler.",
    )
    yield obedience is _Obedience.SURE, finding


def _leaves_boundary(
    annotations: Mapping[str, Any], runtime: Runtime, policy: Policy
) -> Iterator[tuple[bool, Finding]]:
    """Say of a pod with the annotation what the other guard says, but only where Kata may obey it."""
    if _obeys(runtime, policy)[0] is not _Obedience.NONE:
        for is_sure, finding in _open_annotations(annotations, runtime, policy):
            yield is_sure, replace(finding, id=_NO_BOUNDARY)


class _Obedience(Enum):
    SURE = auto()
    UNSURE = auto()
    NONE = auto()


def _obeys(runtime: Runtime, policy: Policy) -> tuple[_Obedience, str]:
    """Tell whether a runtime obeys virtio_fs_extra_args, and by what."""
    rule = policy.class_of(runtime.name)
    handler = quoted(runtime.handler)
    if rule is not None and any(matches(pattern, _EXTRA_ARGS) for pattern in rule.enable_annotations):
        return _Obedience.SURE, f"by the policy, {handler} does"
    if (by_default := obeys_extra_args_by_default(runtime)) is None:
        return _Obedience.UNSURE, (
            "before 3.31 it does by default (GHSA-rr59-xxvx-96qr), "
            f"and the policy does not give the version of {handler}"
        )
    if by_default:
        return _Obedience.SURE, f"{runtime.version_text} does by default (GHSA-rr59-xxvx-96qr)"
    return _Obedience.NONE, f"{runtime.version_text} does not by default"


def obeys_extra_args_by_default(runtime: Runtime) -> bool | None:
    """Tell whether a runtime obeys virtio_fs_extra_args as it is installed; None where its version is not known."""
    return _OBEYED_SINCE[runtime.shim] <= runtime.version < (3, 31, 0) if runtime.version else None


def _host_docker(spec: Mapping[str, Any]) -> Iterator[tuple[bool, Finding]]:
    paths = {
        text(volume.get("name")): clean_path(text(mapping(volume.get("hostPath")).get("path")))
        for _, volume in volumes_of(spec)
        if text(mapping(volume.get("hostPath")).get("path"))
    }
    if not paths:
        return
    for list_name, index, container in containers_of(spec):
        for at, mount in enumerate(items(container.get("volumeMounts"))):
            fields = mapping(mount)
            path = paths.get(text(fields.get("name")))
            reach = _reach(path, fields) if path is not None else None
            if path is None or reach is None:
                continue
            is_sure, what = reach
            finding = Finding(
                "guard.host-docker",
                Severity.WARNING,
                f"The hostPath {quoted(path)} {what}.",
                container=text(container.get("name")),
                pointer=("spec", list_name, index, "volumeMounts", at),
                hint="Run a Docker of the pod's own, on a RuntimeClass of Kata's.",
            )
            yield is_sure, finding


def _reach(path: str, mount: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Return how a directory of the node reaches its Docker, and whether that is what it is for; None if it doesn't."""
    sub_path = text(mount.get("subPath"))
    path = clean_path(f"{path}/{sub_path}") if sub_path else path
    if path in _SOCKET_DIRECTORIES or _is_at_or_below(path, _SOCKETS):
        return True, "reaches the socket of the node's Docker or containerd, by which the node can be taken over"
    if _is_at_or_below(path, _DATA):
        if mount.get("readOnly") is True:
            return False, "shows the data of the node's Docker or containerd"
        return True, "is the data of the node's Docker or containerd, which a write destroys"
    if path in _PARENTS:
        return False, "contains the data of the node's Docker or containerd"
    return None


def _is_at_or_below(path: str, directories: tuple[str, ...]) -> bool:
    return any(path == directory or path.startswith(directory + "/") for directory in directories)
