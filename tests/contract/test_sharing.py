"""The shares of a sandbox that exists, on guests of the fake backend, which can't be given any while they run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.cli.request import parsed_share
from kata_dind.errors import SandboxError, SpecError
from kata_dind.progress import Event
from kata_dind.sandbox.api import Sandbox, list_sandboxes, require_sandbox, start, up
from kata_dind.sandbox.sharing import add_share, list_shares, remove_share, watch_shares
from kata_dind.spec import parse_spec

pytestmark = pytest.mark.usefixtures("fake_backend")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    yield up(parse_spec(name="demo"))
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)


def test_a_stopped_sandbox_keeps_its_shares_for_the_next_start(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.stop()
    add_share("demo", parsed_share(f"{tmp_path}:ro"))
    add_share("demo", parsed_share(f"{tmp_path}:ro"))  # as if for the first time
    add_share("demo", parsed_share(f"{tmp_path}:/data"))
    assert list_shares("demo") == [
        {"host_path": str(tmp_path), "guest_path": str(tmp_path), "read_only": True, "exists": True},
        {"host_path": str(tmp_path), "guest_path": "/data", "read_only": False, "exists": True},
    ]
    assert "shares" in json.loads((sandbox.directory / "spec.json").read_text())["given"]
    remove_share("demo", "/data")
    remove_share("demo", str(tmp_path))
    assert list_shares("demo") == []
    assert "shares" not in json.loads((sandbox.directory / "spec.json").read_text())["given"]


def test_what_makes_no_sense_changes_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.stop()
    (tmp_path / "inner").mkdir()
    add_share("demo", parsed_share(f"{tmp_path}"))
    for share, why in (
        (f"{tmp_path}/inner:ro", "inside"),
        (f"{tmp_path}:{tmp_path}/inner", "inside"),
        (f"{tmp_path}/inner:{tmp_path}", "twice"),
        (f"{tmp_path}/none:/none", "does not exist"),
        (f"{tmp_path}/none", "does not exist"),
    ):
        with pytest.raises(SpecError, match=why):
            add_share("demo", parsed_share(share))
    with pytest.raises(SpecError, match=f"no share at /data; its shares are {tmp_path}"):
        remove_share("demo", "/data")
    assert len(list_shares("demo")) == 1
    with pytest.raises(SpecError, match="no sandbox"):
        add_share("other", parsed_share(f"{tmp_path}"))


def test_a_path_in_a_share_needs_none(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.stop()
    (tmp_path / "inner").mkdir()
    add_share("demo", parsed_share(f"{tmp_path}:/data"))
    events: list[Event] = []
    add_share("demo", parsed_share(f"{tmp_path}/inner:/data/inner"), report=events.append)
    assert [event.message for event in events] == ["demo sees /data/inner already, since /data is shared"]
    assert len(list_shares("demo")) == 1


def test_a_share_above_others_names_those_to_remove(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.stop()
    for name in ("one", "other one"):
        (tmp_path / name).mkdir()
        add_share("demo", parsed_share(f"{tmp_path}/{name}"))
    with pytest.raises(SpecError, match="which is a share as well") as refused:
        add_share("demo", parsed_share(f"{tmp_path}"))
    assert refused.value.hint == f"kata-dind share rm demo {tmp_path}/one '{tmp_path}/other one'"


def test_a_share_that_is_gone_at_the_next_start_can_be_removed(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.stop()
    (gone := tmp_path / "gone").mkdir()
    add_share("demo", parsed_share(f"{gone}"))
    gone.rmdir()
    assert [share["exists"] for share in list_shares("demo")] == [False]
    remove_share("demo", str(gone))
    start("demo")
    assert sandbox.state == "running"


def test_a_running_sandbox_says_what_it_can_not(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="can't give a running sandbox a share"):
        add_share("demo", parsed_share(f"{tmp_path}"))
    assert list_shares("demo") == []


def test_changes_are_told_from_the_time_that_they_are_asked_for(sandbox: Sandbox) -> None:
    def kept() -> tuple[bool, bool]:
        fields = json.loads((sandbox.directory / "spec.json").read_text())
        return fields["watch"], "watch" in fields["given"]

    for on in (True, True, False):
        watch_shares("demo", on=on)
        assert kept() == (on, on)
    sandbox.stop()
    watch_shares("demo", on=True)
    assert kept() == (True, True)
    start("demo")
    assert sandbox.inspect()["spec"]["watch"]


def test_a_sandbox_that_is_being_saved_gets_no_share(tmp_path: Path) -> None:
    sandbox = up(parse_spec(name="demo", image="suspends-slowly"))
    try:
        saving = threading.Thread(target=sandbox.stop, kwargs={"save": True})
        saving.start()
        while sandbox.state == "running":
            time.sleep(0.01)
        with pytest.raises(SandboxError, match="is being saved"):
            add_share("demo", parsed_share(f"{tmp_path}"))
        saving.join()
        assert sandbox.state == "stopped"
        assert list_shares("demo") == []
    finally:
        sandbox.remove(force=True)
