from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.errors import HostError, PermissionMissing
from kata_dind.progress import Event, silent
from kata_dind.setup.perform import perform
from kata_dind.setup.plan import Command, Step
from tests.unit.setup.conftest import Stubs

_INSTALL = Step("packages", "install zstd", "", needed=True, commands=(Command(("apt-get", "install", "zstd")),))
_PROFILE = Step("profile", "write it", "", needed=True, commands=(Command(("tee", "/x"), stdin="one\ntwo\n"),))
_DONE = Step("ids", "alice has them", "")
_BY_HAND = Step("programs", "please install zstd", "", needed=True)


def test_only_what_is_needed_is_done_and_said(stubs: Stubs) -> None:
    for name in ("apt-get", "tee"):
        stubs.add(name)
    said: list[Event] = []
    perform([_DONE, _BY_HAND, _INSTALL, _PROFILE], as_root=True, report=said.append)
    assert stubs.calls == ["apt-get install zstd", "tee /x"]
    assert [event.message for event in said] == ["packages: install zstd", "profile: write it"]


def test_a_command_reads_what_the_plan_says_and_no_terminal(stubs: Stubs, tmp_path: Path) -> None:
    stubs.add("tee", f"cat >{tmp_path}/written")
    stubs.add("apt-get", f"cat >{tmp_path}/read")
    perform([_PROFILE, _INSTALL], as_root=True, report=silent)
    assert (tmp_path / "written").read_text() == "one\ntwo\n"
    assert (tmp_path / "read").read_text() == ""


def test_an_ordinary_user_goes_through_sudo(stubs: Stubs) -> None:
    stubs.add("sudo", '"$@"')
    stubs.add("apt-get")
    perform([_INSTALL], as_root=False, report=silent)
    assert stubs.calls == ["sudo apt-get install zstd", "apt-get install zstd"]


def test_without_sudo_the_commands_are_shown(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    stubs.add("apt-get")
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[0])
    monkeypatch.setattr("kata_dind.host.process._SBIN", "")
    with pytest.raises(PermissionMissing) as caught:
        perform([_INSTALL], as_root=False, report=silent)
    assert caught.value.summary == "packages: this needs root, and sudo is not installed"
    assert caught.value.details == "run as root:\napt-get install zstd"
    assert stubs.calls == []


def test_a_failure_shows_the_command_and_its_last_lines_and_ends_it_all(stubs: Stubs) -> None:
    stubs.add("apt-get", "echo 'E: Unable to locate package zstd' >&2; exit 100")
    stubs.add("tee")
    with pytest.raises(HostError) as caught:
        perform([_INSTALL, _PROFILE], as_root=True, report=silent)
    assert caught.value.summary == "packages: it was not possible to install zstd: apt-get failed (exit 100)"
    assert caught.value.details == ("command: apt-get install zstd\nstatus: exit 100\nE: Unable to locate package zstd")
    assert stubs.calls == ["apt-get install zstd"]


def test_a_command_has_a_deadline(stubs: Stubs) -> None:
    stubs.add("apt-get", "echo slow; exec sleep 60")
    slow = Step("packages", "install", "", needed=True, commands=(Command(("apt-get",), timeout_seconds=0.5),))
    with pytest.raises(HostError, match=r"apt-get did not end within 0\.5 s") as caught:
        perform([slow], as_root=True, report=silent)
    assert "slow" in caught.value.details
