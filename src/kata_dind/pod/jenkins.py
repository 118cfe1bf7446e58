"""Jenkins' kubernetes plugin: a template whose containers are in the plugin's own words, beside pod YAML in a string.

The plugin merges both by the containers' names, and Jenkins' chart has words of its own for the same. A patch speaks of
the pod's fields, so none finds its way back.
Sources: https://github.com/jenkinsci/kubernetes-plugin, PodTemplateBuilder; https://github.com/jenkinsci/helm-charts,
`jenkins.casc.podTemplate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.charts import image_of
from kata_dind.pod.embedded import parsed_patch
from kata_dind.pod.model import Place
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import is_true, items, mapping, text

_MADE_BY = "Jenkins makes a pod of this template"


def is_template(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is a template of a configuration as code: with containers, and a pod in a string."""
    return isinstance(node.get("yaml"), str) and bool(items(node.get("containers")))


def is_chart_agent(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is the agent in values of Jenkins' chart, with containers beside the agent's own."""
    return any(mapping(entry).get("sideContainerName") for entry in items(node.get("additionalContainers")))


def chart_agent_pods(node: Mapping[Any, Any], document: Mapping[Any, Any]) -> Iterator[Place]:
    """Yield the pod of an agent in the chart's values, by way of the template that the chart makes of it."""
    template = {
        "containers": [_side_container(mapping(entry)) for entry in items(node["additionalContainers"])],
        "volumes": [{_VOLUME_KINDS.get(text(mapping(v).get("type")), ""): v} for v in items(node.get("volumes"))],
        "yaml": node.get("yamlTemplate"),
    }
    yield from jenkins_pods(template, document)


_VOLUME_KINDS = {"EmptyDir": "emptyDirVolume", "HostPath": "hostPathVolume", "PVC": "persistentVolumeClaim"}


def _side_container(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    return {**settings, "name": settings.get("sideContainerName"), "image": image_of(settings)}


def jenkins_pods(node: Mapping[Any, Any], document: Mapping[Any, Any]) -> Iterator[Place]:
    """Yield the pod of a template."""
    written = parsed_patch(node.get("yaml"))
    volumes, mounts = _volumes(node.get("volumes"))
    pod = Assembly()
    pod.gather("volumes", [(volumes, None)], into=None)
    pod.gather(
        "containers", [([_container(mapping(entry), mounts) for entry in items(node["containers"])], None)], into=None
    )
    pod.overlay(written.get("spec"))
    pod.metadata([(written.get("metadata"), ())], into=None)
    yield pod.place(document, made_by=_MADE_BY)


def _container(settings: Mapping[Any, Any], mounts: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = {"name": settings.get("name"), "image": settings.get("image")}
    for key in ("command", "args"):
        words = text(settings.get(key)).split()
        if words:
            container[key] = words
    variables = [mapping(mapping(entry).get("envVar")) for entry in items(settings.get("envVars"))]
    env = [{"name": entry.get("key"), "value": entry.get("value")} for entry in variables if entry.get("key")]
    if env:
        container["env"] = env
    if is_true(settings.get("privileged")):
        container["securityContext"] = {"privileged": True}
    if mounts:
        container["volumeMounts"] = mounts
    return container


def _volumes(entries: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the plugin's volumes, which it mounts in every container."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for index, entry in enumerate(items(entries)):
        for kind, settings in mapping(entry).items():
            source = _source(kind, mapping(settings))
            if source is not None:
                volumes.append({"name": f"volume-{index}", **source})
                mounts.append({"name": f"volume-{index}", "mountPath": mapping(settings).get("mountPath")})
    return volumes, mounts


def _source(kind: object, settings: Mapping[Any, Any]) -> dict[str, Any] | None:
    match kind:
        case "emptyDirVolume":
            return {"emptyDir": {"medium": "Memory"} if is_true(settings.get("memory")) else {}}
        case "persistentVolumeClaim":
            return {"persistentVolumeClaim": {"claimName": settings.get("claimName")}}
        case "hostPathVolume":
            return {"hostPath": {"path": settings.get("hostPath")}}
    return None
