"""What is told of a sandbox from its record alone; its life is in tests/contract."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.backend.plan_file import write_plan
from kata_dind.errors import GuestNotReady, PlanOutdated, SandboxError, SpecError
from kata_dind.sandbox.api import (
    Sandbox,
    SandboxSummary,
    list_sandboxes,
    random_name,
    require_sandbox,
    sandboxes_with_image,
    start,
)
from kata_dind.spec import parse_name
from kata_dind.store.sandboxes import Record, create_record
from tests.plans import plan_with

STATUS = {
    "state": "running",
    "pid": 1,
    "started_at": 1000.0,
    "kernel": "6.1.0-real",
    "data_root": {"kind": "block", "path": "/var/lib/docker", "filesystem": "ext4"},
    "verdict": {"docker_version": "20.10.24", "storage": "overlay2 on extfs", "native_diff": True, "seconds": 1.0},
    "phases": [{"name": "boot", "seconds": 3.2}],
    "timings": {"boot_seconds": 3.2},
    "warnings": ["writes are slow"],
}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def record() -> Record:
    record = create_record("demo")
    record.write("spec.json", {"name": "demo"})
    write_plan(record.directory, plan_with())
    record.write("status.json", STATUS)
    return record


@pytest.fixture
def owned(record: Record) -> Iterator[Record]:
    with record.owned():
        yield record


# --- the state


@pytest.mark.parametrize(
    ("written", "while_owned", "while_free"),
    [
        ("starting", "starting", "crashed"),
        ("running", "running", "crashed"),
        ("stopping", "stopping", "crashed"),
        ("stopped", "starting", "stopped"),
        ("crashed", "starting", "crashed"),
        (None, "starting", "crashed"),
    ],
)
def test_the_lock_is_believed_and_the_status_only_beside_it(
    record: Record, written: str | None, while_owned: str, while_free: str
) -> None:
    record.write("status.json", {} if written is None else {"state": written})
    sandbox = Sandbox(record)
    assert sandbox.state == while_free
    with record.owned():
        assert sandbox.state == while_owned


# --- what is told


def test_the_row_of_a_running_sandbox(owned: Record) -> None:
    (summary,) = list_sandboxes()
    assert summary == SandboxSummary(
        name="demo",
        state="running",
        backend="vm",
        image="dind:bookworm",
        data_root="block",
        volume="",
        docker_version="20.10.24",
        accelerator="tcg",
        created=(owned.directory / "spec.json").stat().st_mtime,
        uptime_seconds=summary.uptime_seconds,
        disk_bytes=summary.disk_bytes,
    )
    assert summary.uptime_seconds == pytest.approx(time.time() - 1000.0, abs=5)
    assert summary.disk_bytes > 0


def test_all_that_is_known_of_a_running_sandbox(owned: Record) -> None:
    known = Sandbox(owned).inspect()
    assert known["kernel"] == "6.1.0-real"
    assert known["image"] == {"reference": "dind:bookworm", "id": "sha256:abc"}
    assert known["data_root"] == {
        "kind": "block",
        "path": "/var/lib/docker",
        "filesystem": "ext4",
        "reason": "as asked",
        "size_mib": 20480,
        "volume": None,
    }
    assert known["docker"] == {"version": "20.10.24", "storage": "overlay2 on extfs", "native_diff": True}
    assert (known["phases"], known["timings"]) == (STATUS["phases"], STATUS["timings"])
    assert known["warnings"] == ["writes are slow"]
    assert known["error"] is None


def test_a_problem_is_told_while_the_sandbox_runs(record: Record) -> None:
    record.write("status.json", {**STATUS, "problem": "the file system of /host is full"})
    with record.owned():
        assert Sandbox(record).inspect()["problem"] == "the file system of /host is full"
        assert Sandbox(record).summary().problem == "the file system of /host is full"
    assert Sandbox(record).inspect()["problem"] is None


def test_a_record_that_is_empty_or_broken_is_still_listed_and_inspected() -> None:
    create_record("empty")
    broken = create_record("broken")
    for name in ("spec.json", "plan.json", "status.json"):
        (broken.directory / name).write_text("{")
    assert [(summary.name, summary.state) for summary in list_sandboxes()] == [
        ("broken", "crashed"),
        ("empty", "crashed"),
    ]
    for name in ("empty", "broken"):
        known = require_sandbox(name).inspect()
        assert (known["backend"], known["uptime_seconds"], known["error"]) == (None, None, None)


def test_a_plan_of_another_version_is_no_reason_not_to_tell_of_the_sandbox(record: Record) -> None:
    record.write("plan.json", {"backend": "vm", "plan": {"image_id": "sha256:abc", "seed": "_0123"}})
    known = require_sandbox("demo").inspect()
    assert (known["backend"], known["docker"]["version"]) == (None, "20.10.24")
    assert [(row.name, row.image) for row in list_sandboxes()] == [("demo", "")]
    with pytest.raises(PlanOutdated, match="the sandbox 'demo' was made by another version of kata-dind") as caught:
        start("demo")
    assert caught.value.hint == "use the version that made it, or kata-dind rm demo"


def test_what_points_clients_at_it(record: Record) -> None:
    assert Sandbox(record).environment() == {
        "DOCKER_HOST": f"unix://{record.directory}/docker.sock",
        "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": "/var/run/docker.sock",
    }


def test_logs_are_found_by_their_source(record: Record) -> None:
    sandbox = Sandbox(record)
    assert [sandbox.log_path(source).name for source in ("dockerd", "guest", "vmm")] == [
        "dockerd.log",
        "guest.log",
        "vmm.log",
    ]
    with pytest.raises(SpecError, match="--source: this sandbox has no log 'kernel'; its logs are dockerd, guest, vmm"):
        sandbox.log_path("kernel")


def test_the_sandboxes_of_an_image_are_found(record: Record) -> None:
    create_record("other")
    assert sandboxes_with_image("sha256:abc") == ["demo"]
    assert sandboxes_with_image("sha256:def") == []


# --- finding, removing


def test_an_unknown_name_is_told_with_the_known_ones(record: Record) -> None:
    create_record("another")
    with pytest.raises(SpecError) as caught:
        require_sandbox("absent")
    assert caught.value.summary == "there is no sandbox 'absent' (there are: another, demo)"
    assert caught.value.hint == "kata-dind up absent"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "demo/../demo"])
def test_a_name_that_is_none_finds_nothing(record: Record, name: str) -> None:
    with pytest.raises(SpecError, match="there is no sandbox"):
        require_sandbox(name)


def test_a_random_name_is_a_name() -> None:
    names = {random_name() for _ in range(50)}
    assert len(names) == 50
    assert all(parse_name(name) == name for name in names)


def test_what_does_not_run_has_no_commands_and_is_removed(record: Record) -> None:
    sandbox = Sandbox(record)
    sandbox.stop()
    for call in (lambda: sandbox.run(["true"]), lambda: sandbox.attach(["true"], tty=False)):
        with pytest.raises(GuestNotReady, match="the sandbox 'demo' is not running") as caught:
            call()
        assert caught.value.hint == "kata-dind start demo"
    sandbox.remove()
    sandbox.remove()
    assert list_sandboxes() == []


def test_what_is_owned_is_removed_only_by_force(owned: Record) -> None:
    with pytest.raises(SpecError, match="the sandbox 'demo' is running") as caught:
        Sandbox(owned).remove()
    assert "rm --force demo" in caught.value.hint


def test_a_stop_never_signals_a_process_that_only_has_the_owners_number(owned: Record) -> None:
    """The status names our own process here, which is no supervisor of this sandbox's."""
    owned.write("status.json", {"state": "running", "pid": os.getpid()})
    sandbox = Sandbox(owned)
    with pytest.raises(SandboxError, match=r"did not stop within 0\.1 s"):
        sandbox.stop(timeout_seconds=0.1)
