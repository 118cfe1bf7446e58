"""Manifests for a new daemon: a Pod, Deployment, StatefulSet or Job, of the same parts as a repair. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import Script
from kata_dind.vocabulary import DataRootKind


class Workload(StrEnum):
    """The kinds of objects that can be rendered."""

    POD = "Pod"
    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    JOB = "Job"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSpec:
    """What is wanted."""

    kind: DataRootKind = DataRootKind.LOOP
    size: str = "20Gi"
    """A Kubernetes quantity, or a number and K, M, G or T."""
    runtime_class: str = "kata"
    workload: Workload = Workload.POD
    name: str = "dind"
    namespace: str = ""
    image: str = "docker:dind"
    sidecar_for: str = ""
    """The image of a main container, which uses the daemon as a native sidecar; empty for a daemon alone."""
    sidecar_command: tuple[str, ...] = ()
    rootless: bool = False
    storage_class: str = ""
    """Of the claims, for the block kind, and for a StatefulSet's."""
    cpu: str = ""
    memory: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    replicas: int = 1


def render(spec: RenderSpec, *, script: Script, policy: Policy | None = None) -> dict[str, Any]:
    """Return a manifest, its keys in the usual order. Raises SpecError for a value that is wrong."""
    raise NotImplementedError
