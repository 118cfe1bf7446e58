"""What users see of a sandbox, from what was found out about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kata_dind.sandbox.view import Facts, inspection, state_of, summary
from tests.plans import plan_with

FACTS = Facts(
    name="demo",
    directory="/state/sandboxes/demo",
    docker_host="unix:///state/sandboxes/demo/docker.sock",
    spec={"name": "demo", "volume": "db"},
    plan=plan_with(warnings=("the saved state is lost",), seed="_0123", data_root_mib=0),
    status={"state": "running", "started_at": 1000.0, "warnings": ["writes are slow"], "problem": "/host is short"},
    is_owned=True,
    guest_runs=False,
    is_full=False,
    created=900.0,
    now=1060.0,
    disk_bytes=4096,
)


@pytest.mark.parametrize(
    ("written", "is_owned", "guest_runs", "state"),
    [
        ("running", True, False, "running"),
        ("crashed", True, False, "starting"),
        ("stopping", False, True, "running"),
        ("stopped", False, True, "running"),
        ("running", False, False, "crashed"),
        ("stopped", False, False, "stopped"),
        (None, False, False, "crashed"),
        ("running", False, None, "unknown"),
        ("running", True, None, "running"),
    ],
)
def test_owner_and_guest_are_believed_before_the_status(
    written: str | None, is_owned: bool, guest_runs: bool | None, state: str
) -> None:
    status = {} if written is None else {"state": written}
    assert state_of(status, is_owned=is_owned, guest_runs=guest_runs) == state


def test_an_owner_that_can_not_tell_says_so_with_its_problem() -> None:
    facts = replace(FACTS, status={**FACTS.status, "unsure": True})
    row = summary(facts)
    assert (row.state, row.problem, row.uptime_seconds) == ("unknown", "/host is short", None)
    assert summary(replace(facts, status={**facts.status, "state": "stopping"})).state == "stopping"


def test_the_warnings_of_the_plan_stand_before_those_of_the_start() -> None:
    assert inspection(FACTS)["warnings"] == ["the saved state is lost", "writes are slow"]


def test_a_size_of_zero_is_none_and_so_is_an_empty_seed() -> None:
    seen = inspection(FACTS)
    assert (seen["data_root"]["size_mib"], seen["start"]["seed"], seen["data_root"]["volume"]) == (None, "_0123", "db")
    assert inspection(replace(FACTS, plan=plan_with()))["start"]["seed"] is None


@pytest.mark.parametrize(
    ("change", "problem", "uptime_seconds"),
    [
        ({}, "/host is short", 60.0),
        ({"is_full": True}, "the file system of /state/sandboxes/demo is full", 60.0),
        ({"is_owned": False, "guest_runs": True}, "no process serves its endpoint; run kata-dind start demo", 60.0),
        ({"is_owned": False}, None, None),
    ],
)
def test_a_problem_and_an_uptime_are_those_of_a_sandbox_that_runs(
    change: dict[str, bool], problem: str | None, uptime_seconds: float | None
) -> None:
    facts = replace(FACTS, **change)  # type: ignore[arg-type]  # all of these fields are bool
    assert (summary(facts).problem, summary(facts).uptime_seconds) == (problem, uptime_seconds)
    assert (inspection(facts)["problem"], inspection(facts)["uptime_seconds"]) == (problem, uptime_seconds)


def test_without_a_plan_that_this_version_understands_the_rest_is_still_told() -> None:
    seen = inspection(replace(FACTS, plan=None))
    assert (seen["state"], seen["backend"], seen["image"], seen["start"]["how"]) == ("running", None, None, None)
    assert summary(replace(FACTS, plan=None)).image == ""
