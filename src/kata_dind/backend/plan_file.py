"""The plan of a sandbox's last start, as it lies in the sandbox's directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kata_dind.backend.plan import AnyPlan, plan_from_json, plan_to_json
from kata_dind.errors import PlanOutdated
from kata_dind.host.json_files import read_json, write_json

PLAN_FILE = "plan.json"


def find_plan(directory: Path) -> AnyPlan | None:
    """Return the plan of a sandbox's last start; None where there is no plan that this version understands."""
    try:
        return earlier_plan(directory)
    except PlanOutdated:
        return None


def earlier_plan(directory: Path) -> AnyPlan | None:
    """Return the plan of a sandbox's last start; None for one that was never started. Raises PlanOutdated."""
    values = read_json(directory / PLAN_FILE)
    try:
        return plan_from_json(values) if values else None
    except PlanOutdated as error:
        raise PlanOutdated(
            f"the sandbox '{directory.name}' was made by another version of kata-dind, which this one can't start",
            id="plan.other-version",
            details=error.details,
            hint=f"use the version that made it, or kata-dind rm {directory.name}",
        ) from error


def require_plan(directory: Path) -> AnyPlan:
    """Return the plan of a sandbox that was started. Raises PlanOutdated."""
    plan = earlier_plan(directory)
    if plan is None:
        raise PlanOutdated(
            f"the sandbox '{directory.name}' has no plan", id="plan.missing", hint=f"kata-dind rm {directory.name}"
        )
    return plan


def may_need(directory: Path, needs: Callable[[AnyPlan], bool]) -> bool:
    """Tell whether a sandbox needs something, by the plan of its last start.

    A plan of another version may: what it needs must be there when that version is used again.
    """
    try:
        plan = earlier_plan(directory)
    except PlanOutdated:
        return True
    return plan is not None and needs(plan)


def write_plan(directory: Path, plan: AnyPlan) -> None:
    """Keep the plan of a start in the sandbox's directory."""
    write_json(directory / PLAN_FILE, plan_to_json(plan))
