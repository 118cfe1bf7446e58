"""Manifests for a new daemon: a Pod, Deployment, StatefulSet or Job, of the same parts as a repair. Pure.

A pod that is rendered is one that a repair leaves alone. Its daemon listens on a unix socket and on no TCP port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.errors import SpecError
from kata_dind.manifest.patch import patched
from kata_dind.pod.annotations import REPAIRED
from kata_dind.pod.images import parse_image
from kata_dind.pod.model import Program, Repair
from kata_dind.pod.names import LABEL_SIGNS, SUBDOMAIN_SIGNS, is_label, is_label_key, is_label_value, is_subdomain
from kata_dind.pod.policy import DataRoot, Policy, RuntimeClass
from kata_dind.pod.quantity import entrypoint_size_bytes, quantity, quantity_bytes
from kata_dind.pod.repair import Script, repair
from kata_dind.pod.roots import DEFAULT_ROOTS
from kata_dind.pod.sizes import LEAST_BYTES, MOST_BYTES, is_possible, limit_for
from kata_dind.pod.wrapper import DEVICE
from kata_dind.vocabulary import DataRootKind, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSpec:
    """What is wanted."""

    kind: DataRootKind = DataRootKind.AUTO
    size: str = "20G"
    """A number and K, M, G or T, as for the guest entrypoint, or else a Kubernetes quantity: `20G` is 20 GiB, too."""
    runtime_class: str = "kata"
    workload: Workload = Workload.POD
    name: str = "dind"
    namespace: str = ""
    image: str = ""
    """Of the daemon; empty for the official one."""
    sidecar_for: str = ""
    """The image of a main container, which has the daemon as a native sidecar; empty for a daemon alone."""
    sidecar_command: tuple[str, ...] = ()
    """What the main container runs; empty for what its image does."""
    rootless: bool = False
    storage_class: str = ""
    """Of the claims: for the block kind, and for a StatefulSet."""
    cpu: str = ""
    memory: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    replicas: int = 1


SOCKET_DIRECTORY = "/run/dind"
"""Where the daemon's socket is, in each container of the pod."""

DOCKER_HOST = f"unix://{SOCKET_DIRECTORY}/docker.sock"

CLAIM = "data"
"""The name of a StatefulSet's claim template."""

_IMAGE = "docker:29-dind"
_ROOTLESS_IMAGE = "docker:29-dind-rootless"
_ROOTLESS_ROOT = "/home/rootless/.local/share/docker"
_ROOTLESS_USER = 1000
_DOCKER_GROUP = 2375
"""The group of the socket in the official images."""


def render(spec: RenderSpec, *, script: Script, policy: Policy | None = None) -> dict[str, Any]:
    """Return a manifest, its keys in the usual order, but each long command last.

    Raises SpecError for a value that is wrong, and for what the runtime class can't have.
    """
    size_bytes = _checked(spec)
    own = _policy(spec, policy or Policy(), size_bytes)
    claims = _claims(spec, size_bytes)
    pod = _pod(spec, claims)
    repaired = repair(pod, own, script=script, claim_templates=claims)
    _require_repaired(spec, repaired)
    return _object(spec, _in_order(patched(pod, repaired.patch)), claims)


def _checked(spec: RenderSpec) -> int:
    """Return the size in bytes, when all that is asked for can be written into a manifest."""
    size_bytes = entrypoint_size_bytes(spec.size) or quantity_bytes(spec.size)
    if size_bytes is None or not is_possible(size_bytes):
        least, most = quantity(LEAST_BYTES), f"{MOST_BYTES >> 40}Ti"
        raise _wrong("size", spec.size, f"a size from {least} to {most}, such as 50G")
    for field, value, is_right, allowed in (
        ("name", spec.name, is_label(spec.name), LABEL_SIGNS),
        ("namespace", spec.namespace, not spec.namespace or is_label(spec.namespace), LABEL_SIGNS),
        ("runtime-class", spec.runtime_class, is_subdomain(spec.runtime_class), SUBDOMAIN_SIGNS),
        ("storage-class", spec.storage_class, is_subdomain(spec.storage_class or "default"), SUBDOMAIN_SIGNS),
        ("image", spec.image, parse_image(spec.image or _IMAGE), "an image reference"),
        ("sidecar-for", spec.sidecar_for, parse_image(spec.sidecar_for or _IMAGE), "an image reference"),
    ):
        if not is_right:
            raise _wrong(field, value, allowed)
    for key, value in spec.labels:
        if not is_label_key(key) or not is_label_value(value):
            raise _wrong("label", f"{key}={value}", "a label of Kubernetes, as in team=ci")
    for field, value in (("cpu", spec.cpu), ("memory", spec.memory)):
        if value and not quantity_bytes(value):
            raise _wrong(field, value, "a quantity of Kubernetes, such as 2 or 4Gi")
    if not 0 <= spec.replicas <= 10_000:
        raise _wrong("replicas", str(spec.replicas), "a number from 0 to 10000")
    if spec.workload is Workload.JOB and not spec.sidecar_for:
        raise SpecError(
            "a Job needs a main container, since a daemon alone never ends",
            id="spec.wrong-value",
            hint="name its image with --sidecar-for, or render a Pod, Deployment or StatefulSet",
        )
    return size_bytes


def _wrong(field: str, value: str, allowed: str) -> SpecError:
    return SpecError(f"--{field}: {value[:100]!r} is not {allowed}", id="spec.wrong-value")


def _policy(spec: RenderSpec, policy: Policy, size_bytes: int) -> Policy:
    """Return the policy with what is asked for in the place of what it says."""
    known = policy.class_of(spec.runtime_class) or RuntimeClass(match=spec.runtime_class)
    rule = known.model_copy(update={"match": spec.runtime_class} | _block_class(spec))
    changes = {
        "repair": True,
        "runtime_classes": (rule, *policy.runtime_classes),
        "data_root": DataRoot(kind=spec.kind, size=quantity(size_bytes)),
    }
    return policy.model_copy(update=changes)


def _block_class(spec: RenderSpec) -> dict[str, str]:
    return {"block_storage_class": spec.storage_class} if spec.storage_class else {}


def _has_claim(spec: RenderSpec) -> bool:
    return spec.workload is Workload.STATEFULSET and spec.kind is not DataRootKind.MEMORY


def _claims(spec: RenderSpec, size_bytes: int) -> list[dict[str, Any]]:
    if not _has_claim(spec):
        return []
    is_block = spec.kind is DataRootKind.BLOCK
    claim: dict[str, Any] = {"accessModes": ["ReadWriteOnce"]}
    if is_block:
        claim["volumeMode"] = "Block"
    if spec.storage_class:
        claim["storageClassName"] = spec.storage_class
    claim["resources"] = {"requests": {"storage": quantity(size_bytes if is_block else limit_for(size_bytes))}}
    return [{"metadata": {"name": CLAIM}, "spec": claim}]


def _pod(spec: RenderSpec, claims: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pod without what a repair adds to it."""
    daemon = _daemon(spec)
    if claims and spec.kind is DataRootKind.BLOCK:
        daemon["volumeDevices"] = [{"name": CLAIM, "devicePath": DEVICE}]
        daemon["env"].append({"name": "KATA_DIND_DEVICE", "value": DEVICE})
    elif claims:
        root = _ROOTLESS_ROOT if spec.rootless else DEFAULT_ROOTS[Program.DOCKERD]
        daemon["volumeMounts"].append({"name": CLAIM, "mountPath": root})
    pod: dict[str, Any] = {
        "runtimeClassName": spec.runtime_class,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
    }
    if spec.sidecar_for:
        pod["securityContext"] = {"supplementalGroups": [_DOCKER_GROUP]}
        pod["initContainers"] = [daemon | {"restartPolicy": "Always"}]
        pod["containers"] = [_main(spec)]
    else:
        pod["containers"] = [daemon]
    if spec.workload is Workload.JOB:
        pod["restartPolicy"] = "Never"
    # In memory, since /run on a share makes containers start slowly, and a socket has to be a guest's own.
    names = ("docker-socket",) if spec.rootless else ("run", "docker-socket")
    pod["volumes"] = [{"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}} for name in names]
    metadata = {"name": spec.name, "labels": _labels(spec)}
    return {"metadata": metadata, "spec": pod}


def _daemon(spec: RenderSpec) -> dict[str, Any]:
    probe = {"exec": {"command": ["docker", "version"]}, "timeoutSeconds": 5}
    daemon: dict[str, Any] = {
        "name": "dind",
        "image": spec.image or (_ROOTLESS_IMAGE if spec.rootless else _IMAGE),
        # A command that begins with dockerd gets no TCP listener from the image's entrypoint.
        "args": ["dockerd", f"--host={DOCKER_HOST}"],
        "env": [{"name": "DOCKER_HOST", "value": DOCKER_HOST}],
        "securityContext": {"privileged": True},
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**probe, "periodSeconds": 10},
        "volumeMounts": [{"name": "docker-socket", "mountPath": SOCKET_DIRECTORY}],
    }
    if spec.rootless:
        daemon["securityContext"]["runAsUser"] = _ROOTLESS_USER
    else:
        daemon["volumeMounts"].insert(0, {"name": "run", "mountPath": "/run"})
    resources = {key: value for key, value in (("cpu", spec.cpu), ("memory", spec.memory)) if value}
    if resources:
        # Kata makes the guest as large as the limits.
        daemon["resources"] = {"requests": dict(resources), "limits": resources}
    return daemon


def _main(spec: RenderSpec) -> dict[str, Any]:
    main: dict[str, Any] = {"name": "main", "image": spec.sidecar_for}
    if spec.sidecar_command:
        main["command"] = list(spec.sidecar_command)
    main["env"] = [{"name": "DOCKER_HOST", "value": DOCKER_HOST}]
    main["volumeMounts"] = [{"name": "docker-socket", "mountPath": SOCKET_DIRECTORY}]
    return main


def _labels(spec: RenderSpec) -> dict[str, str]:
    own = {"app.kubernetes.io/name": spec.name, "app.kubernetes.io/managed-by": "kata-dind"}
    return own | dict(spec.labels)


def _require_repaired(spec: RenderSpec, repaired: Repair) -> None:
    if not repaired.unrepaired and (repaired.patch or not repaired.findings):
        return
    reason = repaired.findings[-1]
    raise SpecError(
        f"a daemon of the kind {spec.kind} can't be had with the RuntimeClass {spec.runtime_class}",
        id="spec.wrong-value",
        details=reason.message,
        hint=reason.hint,
    )


def _object(spec: RenderSpec, pod: dict[str, Any], claims: list[dict[str, Any]]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": spec.name}
    if spec.namespace:
        metadata["namespace"] = spec.namespace
    metadata["labels"] = pod["metadata"]["labels"]
    if spec.workload is Workload.POD:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
    template = {"metadata": {"labels": dict(metadata["labels"])}, "spec": pod["spec"]}
    if spec.workload is Workload.JOB:
        body: dict[str, Any] = {"backoffLimit": 0, "template": template}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body}
    selector = {"matchLabels": {"app.kubernetes.io/name": spec.name}}
    kind = "StatefulSet" if spec.workload is Workload.STATEFULSET else "Deployment"
    body = {"replicas": spec.replicas, "selector": selector, "template": template}
    if spec.workload is Workload.STATEFULSET:
        body["serviceName"] = spec.name
        if claims:
            body["volumeClaimTemplates"] = claims
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": body}


def _in_order(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod without the note of a repair, and with the long command last in its container."""
    annotations = {key: value for key, value in pod["metadata"].get("annotations", {}).items() if key != REPAIRED}
    metadata = {key: value for key, value in pod["metadata"].items() if key != "annotations"}
    if annotations:
        metadata["annotations"] = annotations
    spec = dict(pod["spec"])
    for key in ("initContainers", "containers"):
        if key in spec:
            spec[key] = [_command_last(container) for container in spec[key]]
    return {"metadata": metadata, "spec": spec}


def _command_last(container: Mapping[str, Any]) -> dict[str, Any]:
    if container["name"] != "dind" or "command" not in container:
        return dict(container)
    others = {key: value for key, value in container.items() if key != "command"}
    return others | {"command": container["command"]}
