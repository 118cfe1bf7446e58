"""Buildkite's agent-stack-k8s: the kubernetes plugin of a pipeline's step has sidecars beside the pod spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import items, mapping

_MADE_BY = "Buildkite's agent-stack-k8s makes a pod for each job"


def is_plugin(node: Mapping[Any, Any], pointer: Pointer) -> bool:
    """Tell whether a mapping is the settings of the kubernetes plugin: by key or pod spec, and with sidecars."""
    if not any(isinstance(mapping(entry).get("image"), str) for entry in items(node.get("sidecars"))):
        return False
    return "podSpec" in node or "podSpecPatch" in node or "kubernetes" in str(pointer[-1:])


def buildkite_pods(node: Mapping[Any, Any], pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of a job; its class may be in the controller's pod-spec-patch instead."""
    pod = Assembly()
    spec, at = mapping(node.get("podSpec")), (*pointer, "podSpec")
    pod.fields(spec, at)
    pod.gather("volumes", [(spec.get("volumes"), (*at, "volumes"))], into=(*at, "volumes") if spec else None)
    pod.gather("initContainers", [(spec.get("initContainers"), (*at, "initContainers"))], into=None)
    pod.gather(
        "containers",
        [
            (_named(spec.get("containers"), "container"), (*at, "containers")),
            (_named(node.get("sidecars"), "sidecar"), (*pointer, "sidecars")),
        ],
        into=(*pointer, "sidecars"),
    )
    pod.overlay(node.get("podSpecPatch"))
    pod.metadata([(node.get("metadata"), (*pointer, "metadata"))], into=(*pointer, "metadata"))
    incomplete = ""
    if not pod.has("runtimeClassName"):
        incomplete = (
            "The runtime class may be in the controller's pod-spec-patch, not in this document. "
            "The webhook repairs the pod when it is made."
        )
    # The agent replaces variables in a pipeline when it uploads it; the controller's own configuration is as it is.
    in_pipeline = "plugins" in pointer
    yield pod.place({}, made_by=_MADE_BY, incomplete=incomplete, doubles_dollars=in_pipeline)


def _named(entries: object, word: str) -> list[Any]:
    """Return containers with the names that the controller gives those without one."""
    return [
        {"name": f"{word}-{index}", **entry} if isinstance(entry, Mapping) and not entry.get("name") else entry
        for index, entry in enumerate(items(entries))
    ]
