"""Sandboxes on named volumes, over the fake backend: who may use one, what it outlives, and what it remembers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kata_dind.errors import DataRootBusy, GuestNotReady, HostError, OverlayRefused, SpecError
from kata_dind.host.disks import create_disk
from kata_dind.progress import Event
from kata_dind.sandbox.api import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.store.sandboxes import sandboxes_directory
from kata_dind.store.volumes import list_volumes, require_volume
from kata_dind.vocabulary import Filesystem
from kata_dind.wire.client import connect
from tests.contract.test_sandbox import supervisor_of, wait_until

pytestmark = [
    pytest.mark.usefixtures("fake_backend"),
]


@pytest.fixture(autouse=True)
def removed_at_the_end() -> Iterator[None]:
    yield
    for summary in list_sandboxes():
        require_sandbox(summary.name).remove(force=True)
    for volume in list_volumes():
        volume.remove()


def spec_of(name: str = "demo", *, image: str = "healthy", **asked: Any) -> SandboxSpec:
    return parse_spec(name=name, image=image, volume="db", **asked)


def left() -> list[str]:
    return [path.name for path in sandboxes_directory().iterdir()] + [volume.name for volume in list_volumes()]


def checked(sandbox: Sandbox) -> list[bool]:
    """For each start of a sandbox, whether it demanded a check of the data root."""
    lines = sandbox.log_path("guest").read_text().splitlines()
    return [line.endswith("True") for line in lines if line.startswith("container started")]


def test_a_volume_outlives_the_sandbox_that_made_it() -> None:
    up(spec_of())
    volume = require_volume("db")
    assert (volume.used_by(), volume.summary().in_use) == (["demo"], True)
    assert (volume.summary().docker_version, volume.summary().storage) == ("99.1", "overlay2 on extfs")
    assert [summary.volume for summary in list_sandboxes()] == ["db"]
    assert require_sandbox("demo").inspect()["data_root"]["volume"] == "db"
    require_sandbox("demo").remove(force=True)
    assert left() == ["db"]
    assert (volume.used_by(), volume.summary().in_use) == ([], False)
    assert not (volume.directory / "unclean").exists()


def test_what_is_in_a_volume_is_written_out_however_it_ends() -> None:
    sandbox = up(spec_of())
    log = sandbox.log_path("guest")
    with connect(sandbox.directory / "control.sock") as control, log.open() as story:
        control.open({"kind": "stop", "discard": True})
        wait_until(lambda: sandbox.state == "stopped")
        lines = story.read().splitlines()
    assert lines[-1] == "powered off"
    assert "discarded" not in lines


def test_a_sandbox_of_our_own_leaves_its_volume_too() -> None:
    with open_sandbox(spec_of()):
        assert require_volume("db").summary().in_use
    assert left() == ["db"]
    assert not require_volume("db").summary().in_use


def test_a_second_sandbox_is_refused_while_the_first_runs_and_nothing_is_made() -> None:
    sandbox = up(spec_of())
    with pytest.raises(DataRootBusy, match="the volume 'db' is in use by the sandbox 'demo'") as caught:
        up(spec_of("other"))
    assert (caught.value.exit_code, caught.value.hint) == (5, "kata-dind stop demo, or use another volume")
    assert left() == ["demo", "db"]
    sandbox.stop()
    up(spec_of("other"))
    with pytest.raises(DataRootBusy, match="in use by the sandbox 'other'"):
        start("demo")
    assert require_sandbox("demo").state == "stopped"
    require_sandbox("other").stop()
    assert start("demo").state == "running"


def test_of_two_starts_at_once_one_wins() -> None:
    results: list[str] = []

    def start_it(name: str) -> None:
        try:
            up(spec_of(name))
        except DataRootBusy:
            results.append("busy")
        else:
            results.append(name)

    threads = [threading.Thread(target=start_it, args=[name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (name for name in results if name != "busy")
    assert sorted(left()) == sorted([winner, "db"])
    assert require_sandbox(winner).state == "running"


def test_a_first_start_that_fails_leaves_no_volume_and_a_later_one_does() -> None:
    with pytest.raises(OverlayRefused):
        up(spec_of(image="refuses-overlay"))
    assert left() == []
    up(spec_of()).remove(force=True)
    with pytest.raises(OverlayRefused):
        up(spec_of(image="refuses-overlay"))
    assert left() == ["db"]


@pytest.mark.parametrize("victim", ["supervisor", "guest"])
def test_the_next_sandbox_after_a_kill_checks(victim: str) -> None:
    sandbox = up(spec_of())
    if victim == "supervisor":
        os.kill(supervisor_of(sandbox), signal.SIGKILL)
    else:
        with pytest.raises(GuestNotReady):
            sandbox.run(["die"])
    wait_until(lambda: sandbox.state == "crashed")
    assert require_volume("db").inspect()["needs_check"]
    other = up(spec_of("other"))
    assert checked(other) == [True]
    other.stop()
    assert checked(start("demo")) == [False, False]


def test_a_volume_is_held_until_the_last_that_writes_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = up(spec_of(image="writes-for-a-moment"))
    volume = require_volume("db")
    os.kill(supervisor_of(sandbox), signal.SIGKILL)
    wait_until(lambda: sandbox.state == "crashed")
    assert volume.summary().in_use
    with monkeypatch.context() as impatient, pytest.raises(DataRootBusy, match="in use by another command"):
        impatient.setattr("kata_dind.store.volumes._LETS_GO_SECONDS", 0.0)
        volume.fsck()
    assert checked(up(spec_of("other"))) == [True]


def test_what_writes_holds_the_volume_of_a_sandbox_of_our_own_too() -> None:
    code = "import time; from kata_dind.sandbox.api import open_sandbox; from kata_dind.spec import parse_spec\n"
    code += "with open_sandbox(parse_spec(name='demo', image='writes-for-a-moment', volume='db')):\n"
    code += "    print('ready', flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        owner.kill()
    volume = require_volume("db")
    assert volume.summary().in_use
    wait_until(lambda: not volume.summary().in_use)


def test_a_first_start_whose_starter_is_killed_leaves_no_volume() -> None:
    code = "import sys; from kata_dind.sandbox.api import up; from kata_dind.spec import parse_spec; "
    code += "up(parse_spec(name='demo', image='boots-slowly', volume='db'))"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as starter:
        wait_until((sandboxes_directory() / "demo" / "guest.log").exists)
        assert left() == ["demo", "db"]
        starter.kill()
    wait_until(lambda: left() == [])


def test_the_kind_is_the_volumes() -> None:
    up(spec_of(data_root="loop")).remove(force=True)
    up(spec_of())
    assert require_sandbox("demo").inspect()["data_root"]["kind"] == "loop"
    with pytest.raises(SpecError, match="--data-root: 'block' is not the kind of the volume 'db', which is loop"):
        up(spec_of("other", data_root="block"))
    assert left() == ["demo", "db"]


@pytest.mark.parametrize(
    ("asked", "planned_mib", "warnings"),
    [
        (None, 5120, []),
        ("5G", 5120, []),
        ("6G", 6144, []),
        ("1G", 5120, ["--size: the volume 'db' keeps its 5120M; a volume only grows"]),
    ],
)
def test_the_size_is_the_volumes_until_more_is_asked_for(
    asked: str | None, planned_mib: int, warnings: list[str]
) -> None:
    up(spec_of()).remove(force=True)
    with (require_volume("db").directory / "data.img").open("wb") as file:
        os.truncate(file.fileno(), 5 << 30)
    events: list[Event] = []
    sandbox = up(spec_of(size=asked), report=events.append)
    assert json.loads((sandbox.directory / "plan.json").read_text())["data_root_mib"] == planned_mib
    assert require_volume("db").size_bytes == planned_mib << 20
    assert [event.message for event in events if event.name == "warning"] == warnings
    sandbox.stop()
    events.clear()
    start("demo", report=events.append)
    assert [event.message for event in events if event.name == "warning"] == []


def test_the_file_system_is_the_volumes_and_a_wish_for_another_is_told() -> None:
    up(spec_of()).remove(force=True)
    disk = require_volume("db").directory / "data.img"
    disk.unlink()
    create_disk(disk, size_mib=1024)
    events: list[Event] = []
    sandbox = up(spec_of(filesystem="xfs"), report=events.append)
    assert [event.message for event in events if event.name == "warning"] == [
        "--filesystem: the volume 'db' keeps its ext4; only a new one can have xfs"
    ]
    assert json.loads((sandbox.directory / "plan.json").read_text())["own"]["filesystem"] == "ext4"
    sandbox.stop()
    events.clear()
    start("demo", report=events.append)
    assert [event.message for event in events if event.name == "warning"] == []


@pytest.mark.requires("xfs")
def test_a_volume_with_xfs_needs_no_word_of_it() -> None:
    up(spec_of()).remove(force=True)
    disk = require_volume("db").directory / "data.img"
    disk.unlink()
    create_disk(disk, size_mib=512, filesystem=Filesystem.XFS)
    events: list[Event] = []
    sandbox = up(spec_of(), report=events.append)
    assert [event.message for event in events if event.name == "warning"] == []
    assert json.loads((sandbox.directory / "plan.json").read_text())["own"]["filesystem"] == "xfs"
    sandbox.remove(force=True)
    sandbox = up(spec_of(filesystem="ext4"), report=events.append)
    warning = "--filesystem: the volume 'db' keeps its xfs; only a new one can have ext4"
    assert [event.message for event in events if event.name == "warning"] == [warning]
    sandbox.stop()
    start("demo", report=events.append)
    assert [event.message for event in events if event.name == "warning"] == [warning]


def test_a_size_means_nothing_to_a_virtiofs_volume() -> None:
    events: list[Event] = []
    up(spec_of(data_root="virtiofs", size="5G"), report=events.append)
    assert [event.message for event in events if event.name == "warning"] == [
        "--size: the volume 'db' is of the kind virtiofs, whose size is that of the host's disk"
    ]


@pytest.mark.parametrize("kind", ["block", "loop"])
def test_a_proven_volume_whose_disk_is_gone_gets_no_blank_one(kind: str) -> None:
    sandbox = up(spec_of(data_root=kind))
    sandbox.stop()
    volume = require_volume("db")
    assert volume.disk is not None
    volume.disk.unlink()
    with pytest.raises(HostError, match="the disk of the volume 'db' is gone: there is no ") as caught:
        start("demo")
    assert caught.value.hint == "put it back, or kata-dind volume rm db"
    with pytest.raises(HostError, match="is gone"):
        up(spec_of("other"))
    assert left() == ["demo", "db"]
    assert not volume.disk.exists()


def test_a_sandbox_whose_volume_is_gone_does_not_start_on_a_new_one() -> None:
    sandbox = up(spec_of())
    sandbox.stop()
    require_volume("db").directory.rename(sandbox.directory / "moved-away")
    with pytest.raises(SpecError, match="there is no volume 'db'"):
        start("demo")
    assert left() == ["demo"]


def test_a_volume_that_a_stopped_sandbox_refers_to_is_not_removed() -> None:
    up(spec_of()).stop()
    with pytest.raises(SpecError, match="the volume 'db' is used by the sandbox demo"):
        require_volume("db").remove()
    assert left() == ["demo", "db"]
