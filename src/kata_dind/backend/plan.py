"""What a start will do, and why: one frozen value for every backend, and the JSON that plan.json and seeds keep of it.

What only one backend needs travels in `own`, which no other room reads. Pure.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from kata_dind.errors import PlanOutdated
from kata_dind.vocabulary import DataRootKind, Fallback

VERSION = 2
"""The JSON's version. A plan of another version is refused as a whole, since its fields may mean something else."""

OwnT = TypeVar("OwnT")
_T = TypeVar("_T")


class StartKind(StrEnum):
    """How a guest comes up."""

    BOOT = "boot"
    RESTORE = "restore"
    """As a clone, from a seed."""
    RESUME = "resume"
    """From the state that was saved when it was suspended."""
    BOOT_TO_SNAPSHOT = "boot-to-snapshot"
    """From nothing, to become a seed."""

    @property
    def continues(self) -> bool:
        """Whether the guest's kernel ran before, and its dockerd was proven then."""
        return self in (StartKind.RESTORE, StartKind.RESUME)


@dataclass(frozen=True)
class PlannedImage:
    """The dind image of a sandbox."""

    reference: str
    image_id: str


@dataclass(frozen=True)
class WantedSeed:
    """The seed that a start would use if it existed, and the size of its machine."""

    key: str
    cpus: int
    memory_mib: int
    data_root_mib: int


@dataclass(frozen=True)
class Plan(Generic[OwnT]):
    """What a start will do, and why; the start itself looks nothing up any more."""

    backend: str
    name: str
    image: PlannedImage
    accelerator: str
    """The accelerator that runs the guest's processors, or the handler of a runtime."""
    accelerator_reason: str
    kernel_version: str
    """Empty where the backend can't tell before the guest runs."""
    cpus: int
    memory_mib: int
    data_root: DataRootKind
    data_root_reason: str
    data_root_mib: int
    """0 for a kind without a limit of its own."""
    fallback: Fallback
    """The storage driver beside overlay that the proof accepts."""
    timeout_seconds: float
    """For the whole start, to a passing verdict."""
    own: OwnT
    """The backend's part; a plan that comes from a file has JSON values here until its backend has read them."""
    start: StartKind = StartKind.BOOT
    start_reason: str = ""
    seed: str = ""
    """The id of the seed over whose disks the sandbox's own disks lie; empty for none."""
    wanted_seed: WantedSeed | None = None
    volume: str = ""
    """The volume that holds the data root; empty for a data root of the sandbox's own."""
    warnings: tuple[str, ...] = ()
    """Sentences that the user should read before the start."""
    outlives_owner: bool = False
    """Whether the guest runs on when its owner ends, as a pod does. Then only the backend knows whether it runs."""


AnyPlan = Plan[Any]


def plan_to_json(plan: AnyPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {"version": VERSION, **_plain(dataclasses.asdict(plan))}


def plan_from_json(values: Mapping[str, Any]) -> AnyPlan:
    """Rebuild a plan; its `own` stays as JSON values. Raises PlanOutdated for a plan of another version."""
    if values.get("version") != VERSION:
        raise PlanOutdated("the plan was made by another version of kata-dind", id="plan.other-version",
                           details=f"it has the version {values.get('version')}, and this is {VERSION}")  # fmt: skip
    return from_json(AnyPlan, {key: value for key, value in values.items() if key != "version"})


def from_json(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """Rebuild a frozen dataclass of plain values, enums, paths, tuples and dataclasses from JSON values.

    Raises PlanOutdated for fields that are missing, unknown or of another kind.
    """
    try:
        return typing.cast(_T, _rebuilt(kind, values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanOutdated(
            "the plan was made by another version of kata-dind", id="plan.other-version", details=str(error)
        ) from error


def with_own(plan: AnyPlan, kind: type[OwnT]) -> Plan[OwnT]:
    """Return a plan whose `own` part is of its backend's type. Raises PlanOutdated."""
    return plan if isinstance(plan.own, kind) else dataclasses.replace(plan, own=from_json(kind, plan.own))


def find_seed_plan(facts: Mapping[str, Any]) -> AnyPlan | None:
    """Return the plan of the machine that became a seed, from the seed's facts; None for one of another version."""
    try:
        return plan_from_json(facts.get("plan") or {})
    except PlanOutdated:
        return None


@functools.cache
def _field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _rebuilt(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(origin or kind):
        hints = _field_types(origin or kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return (origin or kind)(**{name: _rebuilt(hints[name], item) for name, item in value.items()})
    if origin in (typing.Union, types.UnionType):
        inner = next(choice for choice in typing.get_args(kind) if choice is not type(None))
        return None if value is None else _rebuilt(inner, value)
    if origin is tuple:
        return tuple(_rebuilt(typing.get_args(kind)[0], item) for item in _checked(value, list))
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if issubclass(kind, StrEnum | Path):
        return kind(_checked(value, str))
    return _checked(value, (int, float) if kind is float else kind)


def _checked(value: Any, kind: Any) -> Any:
    # A bool is an int to Python, and not to a plan.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} is not a {getattr(kind, '__name__', 'number')}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
