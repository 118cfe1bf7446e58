"""Buildkite's agent-stack-k8s: the kubernetes plugin of a pipeline's step has sidecars beside the pod spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import items, mapping

_MADE_BY = "Buildkite's agent-stack-k8s makes a pod for each job"


def is_plugin(node: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is the settings of the kubernetes plugin: with sidecars that have images."""
    if not any(isinstance(mapping(entry).get("image"), str) for entry in items(node.get("sidecars"))):
        return False
    return "steps" not in node


def buildkite_pods(node: Mapping[Any, Any], pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of a job; its class may be in the controller's pod-spec-patch instead."""
    pod = Assembly()
    spec, at = mapping(node.get("podSpec")), (*pointer, "podSpec")
    pod.fields(spec, at)
    pod.gather("volumes", [(spec.get("volumes"), (*at, "volumes"))], into=(*at, "volumes") if spec else None)
    pod.gather("initContainers", [(spec.get("initContainers"), (*at, "initContainers"))], into=None)
    pod.gather(
        "containers",
        [(spec.get("containers"), (*at, "containers")), (node.get("sidecars"), (*pointer, "sidecars"))],
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
    yield pod.place({}, made_by=_MADE_BY, incomplete=incomplete)
