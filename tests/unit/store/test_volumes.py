from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.dataroot.kinds import DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import DataRootBusy, DataRootError, ForeignData, HostError, SpecError
from kata_dind.host.disks import create_disk
from kata_dind.host.filesystems import find_filesystem
from kata_dind.store.sandboxes import create_record
from kata_dind.store.volumes import Volume, list_volumes, require_volume, use_volume, volume_named
from kata_dind.vocabulary import DataRootKind

GIB = 1 << 30
AUTO, BLOCK, LOOP = DataRootKind.AUTO, DataRootKind.BLOCK, DataRootKind.LOOP

USE = """
import os, signal, sys
from kata_dind.store.volumes import use_volume
from kata_dind.vocabulary import DataRootKind
with use_volume("db", asked=DataRootKind.AUTO):
    print("used", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def make_volume(name: str = "db", *, kind: DataRootKind = BLOCK, disk: bool = True) -> Volume:
    """A volume as a sandbox leaves it."""
    with use_volume(name, asked=kind) as (volume, _):
        if disk and (path := volume.disk):
            path.parent.mkdir(exist_ok=True)
            create_disk(path, size_mib=1024)
        volume.note_verdict(sandbox="demo", docker_version="28.5.2", storage="overlay2 on extfs")
    return volume


@pytest.fixture
def user() -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the volume `db` for a sandbox `demo` that does not exist yet."""
    argv = [sys.executable, "-c", USE]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "used\n"
        try:
            yield process
        finally:
            process.kill()


def left(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "volumes").iterdir() if path.name != ".lock")


# --- coming and going


def test_a_volume_is_a_private_directory_that_says_what_it_is(state: Path) -> None:
    volume = make_volume()
    assert volume.directory == state / "volumes" / "db"
    assert volume.directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in volume.directory.iterdir()) == ["data.img", "lock", "volume.json"]
    written = json.loads((volume.directory / "volume.json").read_text())
    assert written.pop("created_at") > 0
    assert written == {
        "name": "db",
        "kind": "block",
        "sandbox": "demo",
        "docker_version": "28.5.2",
        "storage": "overlay2 on extfs",
    }


def test_the_kind_is_the_one_asked_for_first() -> None:
    assert make_volume("a", kind=AUTO).kind is BLOCK
    assert make_volume("b", kind=LOOP).kind is LOOP
    with use_volume("b", asked=AUTO) as (volume, _):
        assert volume.kind is LOOP
    with (
        pytest.raises(SpecError, match="--data-root: 'block' is not the kind of the volume 'b', which is loop; leave"),
        use_volume("b", asked=BLOCK),
    ):
        pytest.fail("the block is entered")


def test_a_volume_without_a_verdict_is_not_kept(state: Path) -> None:
    with pytest.raises(ZeroDivisionError), use_volume("db", asked=AUTO) as (volume, _):
        create_disk(volume.directory / "data.img", size_mib=64)
        raise ZeroDivisionError
    assert left(state) == []


def test_a_volume_with_a_verdict_outlives_a_failure(state: Path) -> None:
    make_volume()
    with pytest.raises(ZeroDivisionError), use_volume("db", asked=AUTO):
        raise ZeroDivisionError
    assert left(state) == ["db"]


def test_a_first_use_that_is_killed_leaves_a_volume_that_the_next_look_sweeps(
    state: Path, user: subprocess.Popen[str]
) -> None:
    assert [volume.name for volume in list_volumes()] == ["db"]
    user.kill()
    user.wait()
    assert left(state) == ["db"]
    assert list_volumes() == []
    assert left(state) == []


@pytest.mark.parametrize("name", [".removed-db", ".removed-other"])
def test_half_a_removal_and_half_a_volume_are_swept(state: Path, name: str) -> None:
    make_volume("other")
    (state / "volumes" / name).mkdir()
    (state / "volumes" / name / "unproven").touch()
    assert [volume.name for volume in list_volumes()] == ["other"]
    assert left(state) == ["other"]


@pytest.mark.requires("root")
def test_a_volume_that_cannot_be_removed_does_no_harm(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = make_volume()
    mounted = volume.directory / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    try:
        with pytest.raises(HostError, match=r"\.removed-db-\w+ cannot be removed"):
            volume.remove()
        (doomed,) = left(state)
        mounted = state / "volumes" / doomed / "mounted"
        assert [volume.name for volume in list_volumes()] == []
        assert f"{doomed} cannot be removed" in caplog.text
        assert [make_volume().name, *(volume.name for volume in list_volumes())] == ["db", "db"]
        assert left(state) == [doomed, "db"]
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert [volume.name for volume in list_volumes()] == ["db"]
    assert left(state) == ["db"]


def test_a_directory_that_is_not_a_volume_is_not_touched(state: Path) -> None:
    (state / "volumes" / "db").mkdir(parents=True)
    (state / "volumes" / "db" / "data.img").write_bytes(b"somebody's data")
    assert list_volumes() == []
    with pytest.raises(HostError, match=r"has no volume\.json"), use_volume("db", asked=AUTO):
        pytest.fail("the block is entered")
    assert (state / "volumes" / "db" / "data.img").read_bytes() == b"somebody's data"


def test_an_unknown_volume_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"there is no volume 'x' \(there are: none\)"):
        require_volume("x")
    make_volume()
    with pytest.raises(SpecError, match=r"there is no volume '\.\./db' \(there are: db\)"):
        require_volume("../db")


# --- one at a time


def test_a_volume_in_use_is_refused_and_free_when_its_user_is_killed(
    user: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kata_dind.store.volumes._LETS_GO_SECONDS", 0.1)
    volume = require_volume("db")
    assert volume.summary().in_use
    for use in (volume.fsck, volume.remove, lambda: volume.resize(GIB), make_volume):
        with pytest.raises(DataRootBusy) as caught:
            use()
    assert caught.value.summary == "the volume 'db' is in use by another command"
    user.kill()
    user.wait()
    make_volume()


def test_the_refusal_names_the_sandbox(user: subprocess.Popen[str]) -> None:
    record = create_record("demo")
    record.write("spec.json", {"volume": "db"})
    with record.owned(), pytest.raises(DataRootBusy, match="is in use by the sandbox 'demo'") as caught:
        make_volume()
    assert caught.value.hint == "kata-dind stop demo, or use another volume"


@pytest.mark.thorough
def test_of_many_who_make_a_volume_at_once_one_has_it(state: Path) -> None:
    together = threading.Barrier(4)
    ended = threading.Event()
    results: list[str] = []

    def use() -> None:
        together.wait()
        try:
            with use_volume("db", asked=AUTO):
                results.append("used")
                ended.wait(20)
        except DataRootBusy:
            results.append("busy")
            if results.count("busy") == 3:
                ended.set()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["busy", "busy", "busy", "used"]
    assert left(state) == []


# --- removal


def test_a_volume_that_a_sandbox_refers_to_stays(state: Path) -> None:
    volume = make_volume()
    for name in ("demo", "other"):
        create_record(name).write("spec.json", {"volume": "db"})
    create_record("third").write("spec.json", {"volume": ""})
    assert volume.used_by() == ["demo", "other"]
    with pytest.raises(SpecError, match="the volume 'db' is used by the sandboxes demo, other") as caught:
        volume.remove()
    assert caught.value.hint == "kata-dind rm demo other"
    assert left(state) == ["db"]


def test_a_volume_is_removed_with_all_its_content(state: Path) -> None:
    make_volume("other")
    make_volume(kind=LOOP).remove()
    assert [volume.name for volume in list_volumes()] == ["other"]
    assert left(state) == ["other"]


# --- facts


def test_all_that_is_known_of_a_volume() -> None:
    volume = make_volume()
    with (volume.directory / "data.img").open("ab") as file:
        file.write(os.urandom(100_000))
    create_record("demo").write("spec.json", {"volume": "db"})
    facts = volume.inspect()
    assert 100_000 < facts.pop("disk_bytes") < 4 << 20
    assert facts.pop("created") > 0
    assert facts == {
        "name": "db",
        "kind": "block",
        "filesystem": "ext4",
        "size_bytes": GIB + 100_000,
        "used_by": ["demo"],
        "in_use": False,
        "docker_version": "28.5.2",
        "storage": "overlay2 on extfs",
        "last_used_by": "demo",
        "needs_check": False,
        "directory": str(volume.directory),
    }


def test_a_disk_that_is_not_there_yet_has_no_size() -> None:
    summary = make_volume(kind=LOOP, disk=False).summary()
    assert (summary.kind, summary.filesystem, summary.size_bytes) == ("loop", "", None)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": "tape"}', b'{"kind": []}', b"{\x00"])
@pytest.mark.parametrize("kind", [BLOCK, LOOP, DataRootKind.VIRTIOFS])
def test_a_volume_with_a_broken_facts_file_works_and_gets_a_whole_one(kind: DataRootKind, content: bytes) -> None:
    volume = make_volume(kind=kind)
    make_volume("other")
    (volume.directory / DATA_ROOT_SHARE).mkdir(
        exist_ok=True
    )  # also beside the disk of a block volume, as in earlier volumes
    (volume.directory / "volume.json").write_bytes(content)
    assert [volume.summary().kind for volume in list_volumes()] == [kind, "block"]
    with use_volume("db", asked=AUTO) as (again, _):
        assert again.kind is kind
        again.note_verdict(sandbox="demo", docker_version="28.5.2", storage="overlay2 on extfs")
    written = json.loads((volume.directory / "volume.json").read_text())
    assert (written["name"], written["kind"], written["docker_version"]) == ("db", kind, "28.5.2")


def test_a_volume_of_an_unknown_kind_is_listed_and_can_be_removed(state: Path) -> None:
    volume = make_volume(disk=False)
    make_volume("other")
    (volume.directory / "volume.json").write_bytes(b"")
    assert [volume.summary().kind for volume in list_volumes()] == ["", "block"]
    assert volume.inspect()["kind"] == ""
    with pytest.raises(HostError, match=r"has no volume\.json that says its kind"), use_volume("db", asked=AUTO):
        pytest.fail("the block is entered")
    volume.remove()
    assert left(state) == ["other"]


def test_a_file_of_many_names_and_depths_counts_once() -> None:
    volume = make_volume(kind=LOOP)
    before = volume.summary().disk_bytes
    deep = volume.directory / DATA_ROOT_SHARE / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "one").write_bytes(os.urandom(1_000_000))
    os.link(deep / "one", deep / "other")
    assert 1_000_000 <= volume.summary().disk_bytes - before < 1_200_000


def test_a_guest_may_make_its_share_deep() -> None:
    volume = make_volume(kind=LOOP)
    parent = os.open(volume.directory / DATA_ROOT_SHARE, os.O_RDONLY)
    for _ in range(1500):  # by descriptors, since no path may be that long
        os.mkdir("directory", dir_fd=parent)
        child = os.open("directory", os.O_RDONLY, dir_fd=parent)
        os.close(parent)
        parent = child
    os.close(parent)
    assert volume.summary().disk_bytes > 0
    volume.remove()
    assert list_volumes() == []


def test_a_volume_lies_where_its_name_says() -> None:
    assert volume_named("db") == make_volume()


# --- resize and fsck


@pytest.mark.parametrize("kind", [BLOCK, LOOP])
def test_a_volume_grows_and_never_shrinks(kind: DataRootKind) -> None:
    volume = make_volume(kind=kind)
    volume.resize(2 * GIB)
    assert volume.disk is not None
    assert volume.disk.name == ("data.img" if kind is BLOCK else LOOP_FILE)
    found = find_filesystem(volume.disk)
    assert found is not None
    assert (volume.size_bytes, found.size_bytes) == (2 * GIB, 2 * GIB)
    with pytest.raises(SpecError, match=r"SIZE: 1024M is less than the volume 'db' has \(2048M\); a volume only grows"):
        volume.resize(GIB)
    volume.resize(2 * GIB)
    assert volume.size_bytes == 2 * GIB


def test_a_check_that_passes_spares_the_next_start_its_own() -> None:
    volume = make_volume()
    volume.unclean.touch()
    assert volume.inspect()["needs_check"]
    assert volume.fsck() == "clean"
    assert not volume.inspect()["needs_check"]


def test_a_damaged_volume_still_needs_its_check() -> None:
    volume = make_volume()
    volume.unclean.touch()
    with (volume.directory / "data.img").open("r+b") as file:
        file.seek(1024)
        file.write(b"x" * 4096)
    with pytest.raises(DataRootError, match="is damaged"):
        volume.fsck()
    assert volume.unclean.exists()


def test_the_next_use_of_a_volume_takes_back_a_growth_that_was_killed() -> None:
    volume = make_volume()
    volume.undo.touch()
    with use_volume("db", asked=AUTO):
        assert not volume.undo.exists()


def test_an_undo_file_that_the_guest_has_planted_undoes_nothing() -> None:
    volume = make_volume(kind=LOOP)
    planted = volume.directory / DATA_ROOT_SHARE / f"{LOOP_FILE}.undo"
    planted.write_bytes(b"planted")
    with use_volume("db", asked=AUTO):
        pass
    volume.resize(2 * GIB)
    assert planted.read_bytes() == b"planted"
    assert DATA_ROOT_SHARE not in volume.undo.parts


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_replacement_of_the_disk_by_the_guest_is_not_followed(tmp_path: Path, kind: str) -> None:
    volume = make_volume(kind=LOOP)
    disk, elsewhere = volume.disk, tmp_path / "elsewhere.img"
    assert disk is not None
    disk.rename(elsewhere)
    disk.symlink_to(elsewhere) if kind == "link" else os.mkfifo(disk)
    summary = volume.summary()
    assert (summary.kind, summary.filesystem, summary.size_bytes) == ("loop", "", None)
    for use in (lambda: volume.resize(2 * GIB), volume.fsck, lambda: make_volume(kind=LOOP)):
        with pytest.raises(ForeignData, match=f"{disk} is not a plain file"):
            use()
    assert elsewhere.stat().st_size == GIB


@pytest.mark.parametrize("use", ["resize", "fsck"])
def test_a_kind_without_a_disk_has_nothing_to_work_on(use: str) -> None:
    volume = make_volume(kind=DataRootKind.VIRTIOFS)
    with pytest.raises(SpecError, match="the volume 'db' is of the kind virtiofs, which has no disk of its own"):
        volume.resize(GIB) if use == "resize" else volume.fsck()


def test_a_disk_that_is_gone_is_reported() -> None:
    volume = make_volume()
    (volume.directory / "data.img").unlink()
    with pytest.raises(HostError, match="the disk of the volume 'db' is gone"):
        volume.fsck()
    with pytest.raises(HostError, match="the disk of the volume 'db' is gone"):
        volume.resize(GIB)
