"""Files that are touched, as inotify on this host reports it, which is the guest's in this test."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from kata_dind.guest.agent import libc, touching

RING = "a kernel of a host may have io_uring switched off, and the guest's has it"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (directory := tmp_path / "files").mkdir()
    return directory


@pytest.fixture
def ring() -> Iterator[libc.Ring | None]:
    ring = touching._find_ring()
    yield ring
    if ring is not None:
        ring.close()


def reported(directory: Path, paths: list[Path], ring: libc.Ring | None) -> dict[str, list[str]]:
    """Touch, and return which events were reported of each name."""
    events: dict[str, list[str]] = {}
    with INotify() as watch:
        watch.add_watch(directory, flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE | flags.CREATE | flags.DELETE)
        touching.touch([os.fsencode(path) for path in paths], ring)
        for event in watch.read(timeout=0):
            names = [flag.name for flag in flags.from_mask(event.mask) if flag != flags.ISDIR]
            events.setdefault(event.name, []).extend(names)
    return events


def state(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid


def test_a_file_is_reported_as_written_and_stays_as_it_is(directory: Path, ring: libc.Ring | None) -> None:
    if ring is None:
        pytest.skip(RING)
    files = [directory / f"{number}" for number in range(touching._MOST_OPEN)]
    for file in files:
        file.write_text(file.name)
        if os.geteuid() == 0:  # as the agent is
            file.chmod(0o444)
    before = [(state(file), file.stat().st_ctime_ns) for file in files]
    assert reported(directory, files, ring) == {file.name: ["MODIFY", "CLOSE_WRITE"] for file in files}
    assert reported(directory, files[:1], ring) == {"0": ["MODIFY", "CLOSE_WRITE"]}
    assert [(state(file), file.stat().st_ctime_ns) for file in files] == before
    assert [file.read_text() for file in files] == [file.name for file in files]


def test_without_io_uring_a_file_is_reported_as_closed_and_changed(directory: Path) -> None:
    (file := directory / "file").write_text("x")
    before = state(file)
    assert reported(directory, [file], None) == {"file": ["ATTRIB", "CLOSE_WRITE"]}
    assert state(file) == before


def test_what_is_not_to_be_opened_is_reported_as_changed(directory: Path, ring: libc.Ring | None) -> None:
    (program := directory / "program").write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (below := directory / "below").mkdir()
    below.chmod(0o2775)
    (link := directory / "link").symlink_to("/nowhere")
    os.mkfifo(fifo := directory / "fifo")
    paths = [program, below, link, fifo]
    before = [state(path) for path in paths]
    assert reported(directory, paths, ring) == {path.name: ["ATTRIB"] for path in paths}
    assert [state(path) for path in paths] == before


def test_a_program_that_runs_as_another_user_keeps_that(directory: Path, ring: libc.Ring | None) -> None:
    (program := directory / "program").write_text("x")
    program.chmod(0o4755)
    assert reported(directory, [program], ring) == {}
    assert stat.S_IMODE(program.stat().st_mode) == 0o4755


def test_what_is_not_there_is_not_made(directory: Path, ring: libc.Ring | None) -> None:
    assert reported(directory, [directory / "gone", directory / "gone" / "deeper"], ring) == {}
    assert [*directory.iterdir()] == []


@pytest.mark.requires("root")
def test_paths_come_in_batches_and_lead_nowhere_else(directory: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").write_text("x")
    (directory / "out").symlink_to(tmp_path)
    (directory / "file").write_text("x")
    (directory / "new\nline").write_text("x")
    serve = "import sys; from kata_dind.guest.agent import touching; touching.serve(sys.argv[1])"
    batches = b"/file\0/new\nline\0/gone\0\0" + b"/out/outside\0\0" + b"/file\0" * 5000 + b"\0\0"
    with INotify() as watch:
        watch.add_watch(directory, flags.CLOSE_WRITE)
        watch.add_watch(tmp_path, flags.CLOSE_WRITE | flags.ATTRIB | flags.MODIFY)
        done = subprocess.run(
            [sys.executable, "-c", serve, str(directory)], input=batches, capture_output=True, timeout=60, check=True
        )
        names = [event.name for event in watch.read(timeout=0)]
    assert done.stdout == b"\n" * 4
    assert {*names[:2]} == {"file", "new\nline"}
    assert outside.name not in names
