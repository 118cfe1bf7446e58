"""What a repair is asked for: by annotations, by a container's own KATA_DIND_ variables, and by the policy. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.pod.annotations import read_wishes
from kata_dind.pod.model import Finding, PodDict
from kata_dind.pod.policy import Policy
from kata_dind.pod.quantity import entrypoint_size_bytes, quantity_bytes
from kata_dind.pod.reading import items, mapping, text
from kata_dind.pod.sizes import MOST_BYTES
from kata_dind.vocabulary import DataRootKind

_bytes_of = functools.lru_cache(maxsize=64)(quantity_bytes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted for the data roots of a pod."""

    repair: bool
    kind: DataRootKind
    size_bytes: int
    size_is_asked: bool
    """Somebody has named the size; the policy's default is nobody's wish."""
    findings: tuple[Finding, ...] = ()
    """About annotations that are not understood."""


def read_wanted(pod: PodDict, policy: Policy) -> Wanted:
    """Return what the pod's annotations ask for; what they leave open is the policy's."""
    wishes, findings = read_wishes(pod)
    is_in_policy = "data_root" in policy.model_fields_set and "size" in policy.data_root.model_fields_set
    return Wanted(
        repair=policy.repair if wishes.repair is None else wishes.repair,
        kind=wishes.kind or policy.data_root.kind,
        size_bytes=min(wishes.size_bytes or _bytes_of(policy.data_root.size) or 0, MOST_BYTES),
        size_is_asked=wishes.size_bytes is not None or is_in_policy,
        findings=findings,
    )


@dataclass(frozen=True, slots=True)
class Environment:
    """The KATA_DIND_ variables that a container has already; nothing overrides them."""

    values: Mapping[str, str | None]
    """None for one whose value isn't written in the pod."""

    def get(self, name: str) -> str:
        """Return the value of KATA_DIND_NAME; empty if it isn't there, or isn't known."""
        return self.values.get(f"KATA_DIND_{name}") or ""

    @property
    def size_bytes(self) -> int | None:
        """KATA_DIND_SIZE, if it is set and valid."""
        return entrypoint_size_bytes(self.get("SIZE"))


def read_environment(container: Mapping[Any, Any]) -> Environment:
    """Return the KATA_DIND_ variables of a container; of several with one name the last counts, as for Kubernetes."""
    values: dict[str, str | None] = {}
    for entry in items(container.get("env")):
        name = text(mapping(entry).get("name"))
        if name.startswith("KATA_DIND_"):
            value = mapping(entry).get("value")
            values[name] = value if isinstance(value, str) else "" if "valueFrom" not in entry else None
    return Environment(values)
