"""Shares of containers that run, with tmpfs in place of the devices that a host lacks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kata_dind.guest.agent import container, shares
from kata_dind.guest.agent.shares import Mounted, Place, places_of

CONTAINER = """
set -e
mount -t tmpfs old "$0" && mkdir -p "$0/dir/sub" "$0/dir/vol" && echo old >"$0/dir/file" && echo old >"$0/single"
mkdir "$1/app" "$1/sub" && touch "$1/single"
mount --bind "$0/dir" "$1/app" && mount -t tmpfs volume "$1/app/vol" && echo kept >"$1/app/vol/file"
mount --bind "$0/dir/sub" "$1/sub" && mount -o remount,bind,ro "$1/sub" && mount --bind "$0/single" "$1/single"
echo ready
while read -r command; do eval "$command" || echo failed; done
"""


@contextmanager
def running(shared: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """A container that has mounted a share: a directory with a volume in it, one that is read-only, and a file."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINER, str(shared), str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process


def said(process: subprocess.Popen[str], *commands: str) -> list[str]:
    return process.communicate("".join(f"{command}\n" for command in commands), timeout=10)[0].splitlines()


def places(process: subprocess.Popen[str], shared: Path) -> list[Place]:
    status = Path(f"/proc/{process.pid}/root{shared}").stat()
    devices = {f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}": "share-0"}
    namespace = os.open(f"/proc/{process.pid}/ns/mnt", os.O_RDONLY)
    return [place for place in places_of(process.pid, namespace, devices) if place.path != str(shared)]


@pytest.mark.requires("root")
def test_places_are_covered_by_the_new_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, root = tmp_path / "old", tmp_path / "new", tmp_path / "root"
    for directory in (old, root, new / "share-0" / "dir" / "sub", new / "share-0" / "dir" / "vol"):
        directory.mkdir(parents=True)
    (new / "share-0" / "dir" / "file").write_text("new\n")
    (new / "share-0" / "single").write_text("new\n")
    monkeypatch.setattr(container, "SHARED", str(new))
    monkeypatch.setattr(shares, "SHARED", str(new))
    with running(old, root) as process:
        found = places(process, old)
        assert [(place.path, place.below, [path for _, path in place.inner]) for place in found] == [
            (f"{root}/app", "/dir", [f"{root}/app/vol"]),
            (f"{root}/sub", "/dir/sub", []),
            (f"{root}/single", "/single", []),
        ]
        child = container.attach_shares(process.pid, [f"share-0 {root}/added"], found)
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        failure = os.read(child.stderr, 4096)
        for fd in (child.stdin, child.stdout, child.stderr, found[0].namespace):
            os.close(fd)
        for place in found:
            place.close()
        assert (code, failure) == (0, b"")
        files = [f"cat {root}/{name}" for name in ("app/file", "app/vol/file", "single", "added/single")]
        assert said(process, *files, f"touch {root}/sub/x 2>&1 | grep -o Read-only", f"touch {root}/app/x") == [
            "new", "kept", "new", "new", "Read-only",
        ]  # fmt: skip
    assert (new / "share-0" / "dir" / "x").exists()


@pytest.mark.requires("root")
def test_what_is_gone_on_the_host_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, root = tmp_path / "old", tmp_path / "new", tmp_path / "root"
    for directory in (old, root, new / "share-0"):
        directory.mkdir(parents=True)
    (new / "share-0" / "single").write_text("new\n")
    monkeypatch.setattr(container, "SHARED", str(new))
    monkeypatch.setattr(shares, "SHARED", str(new))
    with running(old, root) as process:
        found = places(process, old)
        child = container.attach_shares(process.pid, [f"share-0 {root}/added"], found)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 0, os.read(child.stderr, 4096)
        assert os.read(child.stdout, 4096).decode().splitlines() == [f"{root}/app", f"{root}/sub"]
        for fd in (child.stdin, child.stdout, child.stderr, found[0].namespace):
            os.close(fd)
        for place in found:
            place.close()
        assert said(process, f"cat {root}/single") == ["new"]


def test_who_uses_a_device_is_named(tmp_path: Path) -> None:
    status = tmp_path.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    argv = ["sh", "-c", "echo ready; read -r _"]
    with subprocess.Popen(argv, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert f"sh (process {process.pid})" in [*shares._users({device})]
        assert [*shares._users({"0:99999"})] == []
        process.communicate()


def test_a_line_of_mountinfo() -> None:
    line = r"73 60 0:44 /a\040b /x\134y ro,nosuid,relatime master:1 - virtiofs kataShared rw"
    mounted = Mounted(line)
    assert (mounted.number, mounted.parent, mounted.device, mounted.kind) == (73, 60, "0:44", "virtiofs")
    assert (mounted.root, mounted.path, mounted.flags) == ("/a b", r"/x\y", 3)
