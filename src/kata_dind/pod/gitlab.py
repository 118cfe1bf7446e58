"""GitLab Runner's config.toml: a pod for each runner with the kubernetes executor, as far as it is written there.

The job names the images, of the build and most often of the services, so such a pod is incomplete. TOML is not patched:
no part of the pod leads back. Source: https://docs.gitlab.com/runner/executors/kubernetes/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.embedded import parsed_patch
from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import is_true, items, mapping, text

_MADE_BY = "GitLab Runner makes a pod for each job"
_BY_THE_JOB = "The job names the images, so they aren't in this file. The webhook repairs the pod when it is made."
_BY_THE_RUNNER = (
    f"{_MADE_BY}, and this file has no place for what a repair gives to one service. "
    "The webhook repairs the pod when it is made."
)


def is_configuration(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is a config.toml with a runner of the kubernetes executor."""
    return any(isinstance(mapping(runner).get("kubernetes"), Mapping) for runner in items(node.get("runners")))


def gitlab_pods(node: Mapping[Any, Any], _pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of each runner with the kubernetes executor."""
    for entry in items(node.get("runners")):
        runner = mapping(entry)
        settings = runner.get("kubernetes")
        if isinstance(settings, Mapping):
            yield _pod(runner, settings)


def _pod(runner: Mapping[Any, Any], settings: Mapping[Any, Any]) -> Place:
    pod = Assembly()
    for field, key in (("runtimeClassName", "runtime_class_name"), ("serviceAccountName", "service_account")):
        if text(settings.get(key)):
            pod.field(field, settings[key], None)
    pod.field("restartPolicy", "Never", None)
    volumes, mounts = _volumes(mapping(settings.get("volumes")))
    pod.gather("volumes", [(volumes, None)], into=None)
    env = _environment(runner.get("environment"))
    context = {"privileged": True} if is_true(settings.get("privileged")) else {}
    common = {"env": env, "securityContext": context, "volumeMounts": mounts}
    # Whatever the image, the job's commands are given to a shell.
    containers: list[dict[str, Any]] = [
        {"name": "build", "image": settings.get("image"), "command": ["sh"], **common},
        {"name": "helper", "command": ["sh"], **common},
    ]
    for index, entry in enumerate(items(settings.get("services"))):
        containers.append({**_service(mapping(entry), index), **common})
    containers = [
        {key: value for key, value in container.items() if value not in (None, {}, [])} for container in containers
    ]
    pod.gather("containers", [(containers, None)], into=None)
    for entry in items(settings.get("pod_spec")):
        if text(mapping(entry).get("patch_type")) in ("", "strategic", "merge"):
            pod.overlay(parsed_patch(mapping(entry).get("patch")))
    annotations = mapping(settings.get("pod_annotations"))
    pod.metadata([({"annotations": annotations} if annotations else {}, ())], into=None)
    document = {
        "kind": "",
        "metadata": {"name": text(runner.get("name")), "namespace": text(settings.get("namespace"))},
    }
    # The class stands here or nowhere.
    incomplete = ""
    if pod.has("runtimeClassName"):
        incomplete = _BY_THE_RUNNER if items(settings.get("services")) else _BY_THE_JOB
    return pod.place(document, made_by=_MADE_BY, incomplete=incomplete)


def _service(service: Mapping[Any, Any], index: int) -> dict[str, Any]:
    return {
        "name": text(service.get("alias")).split(",")[0].strip() or f"svc-{index}",
        "image": service.get("name"),
        "command": list(items(service.get("entrypoint"))),
        "args": list(items(service.get("command"))),
    }


def _environment(lines: object) -> list[dict[str, str]]:
    pairs = [text(line).partition("=") for line in items(lines)]
    return [{"name": name, "value": value} for name, separator, value in pairs if name and separator]


def _volumes(settings: Mapping[Any, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for kind, sources in settings.items():
        for entry in items(sources):
            volume = mapping(entry)
            source = _source(str(kind), volume)
            if source is None:
                continue
            volumes.append({"name": volume.get("name"), **source})
            mount: dict[str, Any] = {"name": volume.get("name"), "mountPath": volume.get("mount_path")}
            if volume.get("sub_path"):
                mount["subPath"] = volume["sub_path"]
            if is_true(volume.get("read_only")):
                mount["readOnly"] = True
            mounts.append(mount)
    return volumes, mounts


def _source(kind: str, volume: Mapping[Any, Any]) -> dict[str, Any] | None:
    name = volume.get("name")
    match kind:
        case "empty_dir":
            given = {"medium": volume.get("medium"), "sizeLimit": volume.get("size_limit")}
            return {"emptyDir": {key: value for key, value in given.items() if value}}
        case "pvc":
            return {"persistentVolumeClaim": {"claimName": name}}
        case "host_path":
            return {"hostPath": {"path": volume.get("host_path") or volume.get("mount_path")}}
        case "config_map":
            return {"configMap": {"name": name}}
        case "secret":
            return {"secret": {"secretName": name}}
        case "csi":
            return {"csi": {"driver": volume.get("driver")}}
        case "nfs":
            return {"nfs": {"path": volume.get("path"), "server": volume.get("server")}}
        case "ephemeral":
            claim = {"storageClassName": volume.get("storage_class"), "volumeMode": volume.get("volume_mode")}
            spec = {key: value for key, value in claim.items() if value}
            return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}
    return None
