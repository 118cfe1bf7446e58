"""What a pod's annotations and a container's own KATA_DIND_ variables ask of a repair. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kata_dind.pod.model import Finding, PodDict, Severity
from kata_dind.pod.policy import Policy
from kata_dind.pod.quantity import is_possible, parse_quantity, parse_size, quantity
from kata_dind.pod.reading import items, mapping, text
from kata_dind.vocabulary import DataRootKind

REPAIR = "kata-dind.io/repair"
DATA_ROOT = "kata-dind.io/data-root"
SIZE = "kata-dind.io/size"
REPAIRED = "kata-dind.io/repaired"

_YES = frozenset({"true", "on", "yes", "enabled"})
_NO = frozenset({"false", "off", "no", "disabled"})
_POINTER = ("metadata", "annotations")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted for a pod: its annotations, else the policy."""

    repair: bool
    kind: DataRootKind
    size_bytes: int
    size_is_asked: bool
    """Somebody has named the size; the policy's default is nobody's wish."""
    findings: tuple[Finding, ...] = field(default=())
    """About annotations that say nothing that is understood; then nothing is repaired."""


def read_wishes(pod: PodDict, policy: Policy) -> Wishes:
    """Return what the pod's annotations ask for; what they leave open is the policy's."""
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    findings: list[Finding] = []
    allowed = _repair(annotations, policy, findings)
    kind = _kind(annotations, policy, findings)
    size_bytes = _size(annotations, policy, findings)
    is_asked = SIZE in annotations or (
        "data_root" in policy.model_fields_set and "size" in policy.data_root.model_fields_set
    )
    return Wishes(allowed and not findings, kind, size_bytes, is_asked, tuple(findings))


def _repair(annotations: Mapping[Any, Any], policy: Policy, findings: list[Finding]) -> bool:
    if REPAIR not in annotations:
        return policy.repair
    word = text(annotations[REPAIR]).strip().lower()
    if word not in _YES | _NO:
        findings.append(_not_understood(REPAIR, annotations[REPAIR], "`true` or `false`"))
    return word in _YES


def _kind(annotations: Mapping[Any, Any], policy: Policy, findings: list[Finding]) -> DataRootKind:
    if DATA_ROOT not in annotations:
        return policy.data_root.kind
    word = text(annotations[DATA_ROOT]).strip()
    if word in [*DataRootKind]:
        return DataRootKind(word)
    if not word.startswith("/"):  # a path is what `detect` reads
        findings.append(_not_understood(DATA_ROOT, annotations[DATA_ROOT], f"one of {', '.join(DataRootKind)}"))
    return policy.data_root.kind


def _size(annotations: Mapping[Any, Any], policy: Policy, findings: list[Finding]) -> int:
    if SIZE not in annotations:
        return any_size(policy.data_root.size) or 0
    found = any_size(text(annotations[SIZE]).strip())
    if found is None:
        findings.append(_not_understood(SIZE, annotations[SIZE], "a quantity from 64Mi to 16Ti, such as `50Gi`"))
    return found or 0


def any_size(value: object) -> int | None:
    """Return the bytes of a Kubernetes quantity, or of a size as the guest entrypoint has it, if it is a possible size.

    `50G` is 50 GB for Kubernetes and 50 GiB for the guest entrypoint; here it is what Kubernetes says.
    """
    found = parse_quantity(value)
    return found if found is not None and is_possible(found) else None


def _not_understood(name: str, value: object, allowed: str) -> Finding:
    shown = value if isinstance(value, str) else type(value).__name__
    return Finding(
        f"annotation.{name.partition('/')[2]}",
        Severity.WARNING,
        f"The annotation {name} is {shown[:60]!r}, which is not understood, so the pod is left as it is.",
        pointer=(*_POINTER, name),
        hint=f"Use {allowed}.",
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
        return parse_size(self.get("SIZE"))


def read_environment(container: Mapping[Any, Any]) -> Environment:
    """Return the KATA_DIND_ variables of a container; of several with one name the last counts, as for Kubernetes."""
    values: dict[str, str | None] = {}
    for entry in items(container.get("env")):
        name = text(mapping(entry).get("name"))
        if name.startswith("KATA_DIND_"):
            value = mapping(entry).get("value")
            values[name] = value if isinstance(value, str) else "" if "valueFrom" not in entry else None
    return Environment(values)


def in_words(count: int) -> str:
    """Return bytes as people read them."""
    return quantity(count)
