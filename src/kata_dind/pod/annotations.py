"""What a pod's annotations wish for. A value that isn't understood is a finding, and never more than that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.pod.model import Finding, PodDict, Severity
from kata_dind.pod.names import is_label
from kata_dind.pod.quantity import quantity_bytes
from kata_dind.pod.reading import containers_of, mapping
from kata_dind.pod.sizes import LEAST_BYTES
from kata_dind.vocabulary import DataRootKind

PREFIX = "kata-dind.io/"
REPAIR = PREFIX + "repair"
DATA_ROOT = PREFIX + "data-root"
SIZE = PREFIX + "size"
CONTAINER = PREFIX + "container"
REPAIRED = PREFIX + "repaired"
"""Written by a repair."""

_YES = frozenset(("true", "on", "yes", "enabled"))
_NO = frozenset(("false", "off", "no", "disabled"))

_MOST_ASKED_BYTES = 64 * 2**40
"""More is a mistake; what is more than a data root can have gets as much as it can."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The annotations of a pod, understood."""

    repair: bool | None = None
    """None: nothing is said. A value that isn't understood leaves the pod alone: False."""
    kind: DataRootKind | None = None
    size_bytes: int | None = None
    container: str = ""
    """The name of the container whose data root it is; it exists in the pod."""


NOTHING = Wishes()


def read_wishes(pod: PodDict) -> tuple[Wishes, tuple[Finding, ...]]:
    """Return what the annotations of a pod wish for, and what is to be said about them."""
    annotations = mapping(mapping(mapping(pod).get("metadata")).get("annotations"))
    ours = {name: value for name, value in annotations.items() if isinstance(name, str) and name.startswith(PREFIX)}
    return _understood(pod, ours) if ours else (NOTHING, ())


def _understood(pod: PodDict, ours: Mapping[str, Any]) -> tuple[Wishes, tuple[Finding, ...]]:
    findings: list[Finding] = []
    repair: bool | None = None
    kind: DataRootKind | None = None
    size_bytes: int | None = None
    container = ""
    for name, value in ours.items():
        if name == REPAIRED:
            continue
        mistake = ""
        if not isinstance(value, str):
            mistake = f"is {_shown(value)}, which is no string; put quotes around it"
            repair = False if name == REPAIR else repair
        elif name == REPAIR:
            repair, mistake = _read_repair(value)
        elif name == DATA_ROOT:
            kind, mistake = _read_kind(value)
        elif name == SIZE:
            size_bytes, mistake = _read_size(value)
        elif name == CONTAINER:
            container, mistake = _read_container(value, pod)
        else:
            mistake = "is not known: kata-dind reads repair, data-root, size and container"
        if mistake:
            findings.append(_misunderstood(name, mistake))
    return Wishes(repair, kind, size_bytes, container), tuple(findings)


def _misunderstood(name: str, mistake: str) -> Finding:
    known = {REPAIR: "repair", DATA_ROOT: "data-root", SIZE: "size", CONTAINER: "container"}.get(name, "unknown")
    shown = name if len(name) < 80 and name.isprintable() else _shown(name)
    return Finding(
        f"annotation.{known}",
        Severity.WARNING,
        f"The annotation {shown} {mistake}.",
        pointer=("metadata", "annotations", name),
        hint="The pod is left as it is until the annotation is right." if name == REPAIR else "",
    )


def _read_repair(value: str) -> tuple[bool, str]:
    word = value.strip().lower()
    if word in _YES:
        return True, ""
    if word in _NO:
        return False, ""
    return False, f"is {_shown(value)}; it must be true, on, yes or enabled, or false, off, no or disabled"


def _read_kind(value: str) -> tuple[DataRootKind | None, str]:
    try:
        return DataRootKind(value.strip().lower()), ""
    except ValueError:
        return None, f"is {_shown(value)}; it must be one of {', '.join(DataRootKind)}"


def _read_size(value: str) -> tuple[int | None, str]:
    size_bytes = quantity_bytes(value.strip())
    if size_bytes is None:
        return None, f"is {_shown(value)}; it must be a quantity such as 20Gi"
    if not LEAST_BYTES <= size_bytes <= _MOST_ASKED_BYTES:
        return None, f"is {_shown(value)}; it must be between 64Mi and 64Ti"
    return size_bytes, ""


def _read_container(value: str, pod: PodDict) -> tuple[str, str]:
    if not is_label(value):
        return "", f"is {_shown(value)}, which is no name of a container"
    names = [container.get("name") for _, _, container in containers_of(mapping(mapping(pod).get("spec")))]
    if value not in names:
        return "", f"names the container {value}, which the pod does not have"
    return value, ""


def _shown(value: object) -> str:
    """Return a value as it may be shown: in one short line, whatever is in it."""
    shown = repr(value) if isinstance(value, str | bool | int | float | None) else type(value).__name__
    return shown if len(shown) <= 60 else shown[:57] + "…"
