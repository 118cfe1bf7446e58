"""Actions Runner Controller: pods whose Docker daemon the chart or the controller adds, as it would add it.

What they add stands nowhere in the document, so a patch that changes it can't be written there; the webhook sees the
whole pod. Sources: the chart gha-runner-scale-set 0.14.2 (`containerMode.type: dind`), its experimental successor
(`runner.mode: dind`, templates/_mode_dind.tpl), whose values have a place for the container, and the older controller's
`newRunnerPod` (actions.summerwind.dev), which adds a container `docker` unless it is told not to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import NOT_MERGED, Assembly
from kata_dind.pod.reading import is_true, items, mapping, text

_WEBHOOK = "The webhook repairs the pod when it is made."
_CHART = "ARC's chart adds the container dind to the pods of this scale set"
_CONTROLLER = "Actions Runner Controller makes the runner's pod"

_SCALE_SET_DIND = {
    "name": "dind",
    "image": "docker:dind",
    "args": ["dockerd", "--host=unix:///var/run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
    "env": [{"name": "DOCKER_GROUP_GID", "value": "123"}],
    "securityContext": {"privileged": True},
    "restartPolicy": "Always",
    "volumeMounts": [
        {"name": "work", "mountPath": "/home/runner/_work"},
        {"name": "dind-sock", "mountPath": "/var/run"},
        {"name": "dind-externals", "mountPath": "/home/runner/externals"},
    ],
}
_SCALE_SET_VOLUMES: tuple[dict[str, Any], ...] = tuple(
    {"name": name, "emptyDir": {}} for name in ("dind-sock", "dind-externals", "work")
)

_LEGACY_DIND = {
    "name": "docker",
    "image": "docker:dind",
    "args": ["dockerd", "--host=unix:///run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
    "env": [{"name": "DOCKER_GROUP_GID", "value": "1001"}],
    "securityContext": {"privileged": True},
}
_LEGACY_MOUNTS = (
    {"name": "var-run", "mountPath": "/run"},
    {"name": "work", "mountPath": "/runner/_work"},
    {"name": "runner", "mountPath": "/runner"},
)
_LEGACY_VOLUMES = (
    {"name": "runner", "emptyDir": {}},
    {"name": "work", "emptyDir": {}},
    {"name": "var-run", "emptyDir": {"medium": "Memory"}},
)
_ALL_IN_ONE = "summerwind/actions-runner-dind:latest"


def is_scale_set_values(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is values of ARC's scale set chart that ask for its Docker in Docker."""
    return mapping(node.get("containerMode")).get("type") == "dind"


def scale_set_pods(values: Mapping[Any, Any], pointer: Pointer, document: Mapping[Any, Any]) -> Place:
    """Return the pod that the chart makes of its values."""
    template, at = mapping(values.get("template")), (*pointer, "template")
    spec, spec_at = mapping(template.get("spec")), (*at, "spec")
    pod = Assembly()
    pod.fields(spec, spec_at)
    for key in ("containers", "initContainers", "volumes"):
        pod.gather(key, [(spec.get(key), (*spec_at, key))], into=(*spec_at, key))
    # A container of this name in the values is not the chart's: it takes the user's only in other modes.
    pod.entry("initContainers", _SCALE_SET_DIND, {(): None})
    present = {text(mapping(volume).get("name")) for volume in items(spec.get("volumes"))}
    for volume in _SCALE_SET_VOLUMES:
        if volume["name"] not in present:
            pod.entry("volumes", volume, {(): None})
    pod.metadata([(template.get("metadata"), (*at, "metadata"))], into=(*at, "metadata"))
    # The class stands here or nowhere.
    incomplete = f"The container dind isn't in these values, since the chart adds it. {_WEBHOOK}"
    incomplete = incomplete if pod.has("runtimeClassName") else ""
    return pod.place(document, made_by=_CHART, incomplete=incomplete)


def is_experimental_values(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is values of the experimental chart that ask for its Docker in Docker."""
    return mapping(node.get("runner")).get("mode") == "dind"


def experimental_pods(values: Mapping[Any, Any], pointer: Pointer, document: Mapping[Any, Any]) -> Place:
    """Return the pod that the experimental chart makes of its values.

    What is in `runner.dind.container` goes into the container as it stands, and its lists behind the chart's own.
    """
    runner, at = mapping(values.get("runner")), (*pointer, "runner")
    template, template_at = mapping(runner.get("pod")), (*at, "pod")
    spec, spec_at = mapping(template.get("spec")), (*template_at, "spec")
    pod = Assembly()
    pod.fields(spec, spec_at)
    for key in ("containers", "initContainers", "volumes"):
        pod.gather(key, [(spec.get(key), (*spec_at, key))], into=(*spec_at, key) if key == "volumes" else None)
    pod.entry("containers", {"name": "runner", **mapping(runner.get("container"))}, {(): (*at, "container")})
    settings = mapping(runner.get("dind"))
    own = settings.get("container")
    has_place = isinstance(own, Mapping)
    pod.entry("initContainers", *_own_dind(settings, mapping(own), (*at, "dind", "container") if has_place else None))
    if has_place:
        lists = ((key, mapping(own).get(key)) for key in ("env", "volumeMounts"))
        pod.lacks((*at, "dind", "container", key) for key, value in lists if not isinstance(value, list))
    if not isinstance(spec.get("volumes"), list):
        pod.lacks([(*spec_at, "volumes")])
    for volume in _SCALE_SET_VOLUMES:
        pod.entry("volumes", volume, {(): None})
    pod.metadata([(template.get("metadata"), (*template_at, "metadata"))], into=(*template_at, "metadata"))
    incomplete = f"The container dind isn't in these values, since the chart adds it. {_WEBHOOK}"
    is_open = pod.has("runtimeClassName") and not has_place
    return pod.place(document, made_by=_CHART, incomplete=incomplete if is_open else "")


def _own_dind(
    settings: Mapping[Any, Any], own: Mapping[Any, Any], at: Pointer | None
) -> tuple[dict[str, Any], dict[Pointer, Pointer | None]]:
    socket = text(settings.get("dockerSock")) or "unix:///var/run/docker.sock"
    mounts = [
        {"name": "work", "mountPath": "/home/runner/_work"},
        {"name": "dind-sock", "mountPath": socket.removeprefix("unix://").rpartition("/")[0]},
    ]
    container = {
        **_SCALE_SET_DIND,
        "args": ["dockerd", f"--host={socket}", "--group=$(DOCKER_GROUP_GID)"],
        **own,
        "env": [*_SCALE_SET_DIND["env"], *items(own.get("env"))],
        "volumeMounts": [*mounts, *items(own.get("volumeMounts"))],
    }
    parts: dict[Pointer, Pointer | None] = {(): at}
    if at is None:
        return container, parts
    parts |= {(key,): None for key in ("args", "image", "name", "restartPolicy", "securityContext") if key not in own}
    for key, before in (("env", len(_SCALE_SET_DIND["env"])), ("volumeMounts", len(mounts))):
        parts |= {(key, index): None for index in range(before)}
        parts |= {(key, before + index): (*at, key, index) for index in range(len(items(own.get(key))))}
    return container, parts


def legacy_pods(document: Mapping[Any, Any], pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of a RunnerDeployment, RunnerReplicaSet, RunnerSet or Runner."""
    outer, at = mapping(document.get("spec")), (*pointer, "spec")
    kind = text(document.get("kind"))
    template, template_at = (
        (document, pointer)
        if kind == "Runner"
        else (
            mapping(outer.get("template")),
            (*at, "template"),
        )
    )
    spec, spec_at = mapping(template.get("spec")), (*template_at, "spec")
    # A RunnerSet has the settings of its runners beside the template, the other kinds have them in its spec.
    settings, settings_at = (outer, at) if kind == "RunnerSet" else (spec, spec_at)
    pod = Assembly()
    pod.fields({key: value for key, value in spec.items() if key not in _SETTINGS}, spec_at)
    for key in NOT_MERGED:
        pod.gather(key, [(spec.get(key), (*spec_at, key))], into=(*spec_at, key))
    pod.gather(
        "containers",
        [(spec.get("sidecarContainers"), (*spec_at, "sidecarContainers"))],
        into=(*spec_at, "sidecarContainers"),
    )
    added = _add_daemon(pod, settings, settings_at)
    # The kinds with a template give its metadata to their pods, a Runner its own.
    pod.metadata([(template.get("metadata"), (*template_at, "metadata"))], into=(*template_at, "metadata"))
    yield pod.place(
        document,
        claim_templates=outer.get("volumeClaimTemplates"),
        made_by=_CONTROLLER,
        incomplete=f"{added} {_WEBHOOK}" if added and pod.has("runtimeClassName") else "",
    )


def _add_daemon(pod: Assembly, settings: Mapping[Any, Any], at: Pointer) -> str:
    """Add the containers that the controller adds; return what isn't in the document, as a sentence."""
    containers = {text(mapping(entry).get("name")): index for index, entry in enumerate(items(pod.value("containers")))}
    within = is_true(settings.get("dockerdWithinRunnerContainer"))
    if "runner" not in containers:
        pod.entry("containers", *_runner(settings, at, within=within))
    if within:
        return "The daemon is started in the container runner by the image that the controller chooses."
    if settings.get("dockerEnabled") is False or text(settings.get("containerMode")) == "kubernetes":
        return ""
    if "docker" in containers:
        return _complete_daemon(pod, containers["docker"])
    mounts = "dockerVolumeMounts"
    extra = items(settings.get(mounts))
    parts: dict[Pointer, Pointer | None] = {(): None}
    for index in range(len(extra)):
        parts["volumeMounts", len(_LEGACY_MOUNTS) + index] = (*at, mounts, index)
    daemon = {**_LEGACY_DIND, "volumeMounts": [*_LEGACY_MOUNTS, *extra]}
    env = items(settings.get("dockerEnv"))
    if env:
        daemon["env"] = [*_LEGACY_DIND["env"], *env]
    pod.entry("containers", daemon, parts)
    present = {text(mapping(volume).get("name")) for volume in items(pod.value("volumes"))}
    for volume in _LEGACY_VOLUMES:
        if volume["name"] not in present:
            pod.entry("volumes", volume, {(): None})
    return "The container docker isn't in this document, since the controller adds it."


def _complete_daemon(pod: Assembly, index: int) -> str:
    """Add what the controller gives to a container `docker` that the document has only in part."""
    container = mapping(pod.value("containers")[index])
    if text(container.get("image")):
        return ""
    added = {key: value for key, value in _LEGACY_DIND.items() if key not in container}
    pod.complete("containers", index, added)
    return "The container docker is only in part in this document, since the controller adds the rest."


_RUNNER_FIELDS = ("env", "envFrom", "image", "imagePullPolicy", "resources", "volumeMounts")
_SETTINGS = frozenset(
    {
        *_RUNNER_FIELDS,
        "containerMode",
        "dockerEnabled",
        "dockerEnv",
        "dockerMTU",
        "dockerRegistryMirror",
        "dockerVolumeMounts",
        "dockerdContainerResources",
        "dockerdWithinRunnerContainer",
        "enterprise",
        "ephemeral",
        "group",
        "labels",
        "organization",
        "repository",
        "sidecarContainers",
        "volumeSizeLimit",
        "volumeStorageMedium",
        "workDir",
    }
)
"""Fields of a runner's spec that are not a pod's."""


def _runner(settings: Mapping[Any, Any], at: Pointer, *, within: bool) -> tuple[Any, dict[Pointer, Pointer | None]]:
    runner: dict[str, Any] = {"name": "runner"}
    parts: dict[Pointer, Pointer | None] = {(): None}
    for key in _RUNNER_FIELDS:
        if key in settings:
            runner[key] = settings[key]
            parts[key,] = (*at, key)
    if within:
        runner.setdefault("image", _ALL_IN_ONE)
        runner["securityContext"] = {"privileged": True}
    return runner, parts
