"""What a start says that makes a seed first: each thing once, and how long it takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend import Wish
from kata_dind.backend.plan import AnyPlan, WantedSeed, plan_to_json
from kata_dind.image.source import PackageSource
from kata_dind.progress import Event, Report
from kata_dind.sandbox.planning import plan_start
from kata_dind.seeding import making
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.store.seeds import Seed, internal_id, load_seed, new_seed_directory, publish_seed
from tests.plans import plan_with


class Planner:
    """A backend whose every plan finds out that there is no KVM, and wants a seed."""

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator
        self.plans = 0

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        self.plans += 1
        report(Event("accelerator", "no KVM (it hangs)"))
        report(Event("warning", "a warning of this plan"))
        made = load_seed(internal_id("key"))
        wanted = None if made else WantedSeed("key", cpus=2, memory_mib=1024, data_root_mib=1024)
        return plan_with(accelerator=self.accelerator, wanted_seed=wanted, seed=made.seed_id if made else "")


def plan_on(accelerator: str) -> dict[str, Any]:
    return plan_to_json(plan_with(accelerator=accelerator))


def make(seed_id: str, **facts: Any) -> Seed:
    with new_seed_directory() as directory:
        return publish_seed(directory, seed_id, {"files": {}, "created": 0.0, **facts})


def first_start(monkeypatch: pytest.MonkeyPatch, *, accelerator: str = "tcg") -> tuple[Planner, list[Event]]:
    planner, events = Planner(accelerator), list[Event]()

    def build(seed_id: str, spec: SandboxSpec, source: PackageSource, *, report: Report) -> Seed:
        planner.prepare(Wish(spec, Path("/nowhere")), report=report)
        return make(seed_id, plan=plan_on(accelerator), build_seconds=61.2, created=time.time())

    monkeypatch.setattr("kata_dind.sandbox.planning.load_backend", lambda name: planner)
    monkeypatch.setattr(making, "build_seed", build)
    plan_start(parse_spec(name="demo"), Path("/nowhere"), None, packages=None, report=events.append)
    return planner, events


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory of the test's own."""
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "s"))


def said(events: list[Event], name: str) -> list[str]:
    return [event.message for event in events if event.name == name]


def test_that_there_is_no_kvm_is_said_once_though_the_start_is_planned_three_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planner, events = first_start(monkeypatch)
    assert planner.plans == 3
    assert said(events, "accelerator") == ["no KVM (it hangs)"]
    assert len(said(events, "warning")) == 3  # nothing else is withheld


@pytest.mark.parametrize(
    ("accelerator", "duration"), [("tcg", "about half a minute without KVM"), ("kvm", "some seconds")]
)
def test_the_seed_is_announced_with_what_is_known_of_its_duration(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, duration: str
) -> None:
    make("imported", plan=plan_on(accelerator), build_seconds=1.0)  # with a name: made elsewhere, or filled
    _, events = first_start(monkeypatch, accelerator=accelerator)
    assert said(events, "seed") == [
        f"the first start of such a machine makes a seed, which takes {duration}; "
        "later starts from it take about a second"
    ]


@pytest.mark.parametrize(("seconds", "said_seconds"), [(33.4, 35), (6.6, 7), (0.2, 1), (61.0, 60)])
def test_the_last_seed_of_this_host_tells_how_long_the_next_one_takes(
    monkeypatch: pytest.MonkeyPatch, seconds: float, said_seconds: int
) -> None:
    make(internal_id("a"), plan=plan_on("tcg"), build_seconds=200.0, created=1.0)
    make(internal_id("b"), plan=plan_on("tcg"), build_seconds=seconds, created=3.0)
    make(internal_id("c"), plan=plan_on("kvm"), build_seconds=100.0, created=4.0)
    _, events = first_start(monkeypatch)
    assert f" makes a seed, which takes about {said_seconds} s here; " in said(events, "seed")[0]
