"""What a restored guest is given while it runs, as far as a host without its devices can try it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind.guest.agent import container

RUN_STEPS = """
import sys
from kata_dind.guest.agent import plugged, spawn
from kata_dind.guest.agent.loop import Loop

loop, tries = Loop(), []

def arrive():
    tries.append(1)
    if len(tries) < int(sys.argv[1]):
        raise OSError(11, f"no device at try {len(tries)}")

def act():
    return spawn.spawn(spawn.program(["sh", "-c", sys.argv[2]], {"PATH": "/usr/bin:/bin"}), size=None)

def ended(failure):
    print(len(tries), failure, sep="|")
    loop.stop()

plugged.ARRIVAL_SECONDS = float(sys.argv[3])
plugged.run_step(loop, plugged.Step("test", arrive, act), on_end=ended)
print("meanwhile")
loop.run()
"""


@pytest.mark.parametrize(
    ("tries", "script", "seconds", "printed"),
    [
        (1, "exit 0", 5, "1|"),
        (3, "echo said >&2", 5, "3|"),
        (3, "echo 'no such share' >&2; exit 126", 5, "3|no such share"),
        (1, "exit 3", 5, "1|exit 3"),
        (99, "exit 0", 0, "1|no device at try 1"),
    ],
    ids=["there at once", "there after a while", "refused", "failed in silence", "never there"],
)
def test_a_step_waits_for_its_device_and_then_for_its_child(
    tries: int, script: str, seconds: float, printed: str
) -> None:
    argv = [sys.executable, "-c", RUN_STEPS, str(tries), script, str(seconds)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    assert sorted(done.stdout.splitlines()) == sorted(["meanwhile", printed])


@pytest.mark.requires("root")
def test_shares_are_attached_to_a_container_that_has_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, root = tmp_path / "shared", tmp_path / "root"
    (shared / "share-0").mkdir(parents=True)
    (shared / "share-0" / "file").write_text("of the directory\n")
    (shared / "share-1").write_text("a note\n")
    root.mkdir()
    monkeypatch.setattr(container, "SHARED", str(shared))
    script = 'mount -t tmpfs root "$0" && echo ready && read -r _ && cat "$0/new/place/file" "$0/a note"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        child = container.attach_shares(running.pid, [f"share-0 {root}/new/place", f"share-1 {root}/a note"])
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        said = os.read(child.stderr, 4096)
        for fd in (child.stdin, child.stdout, child.stderr):
            os.close(fd)
        assert (code, said) == (0, b"")
        seen, _ = running.communicate("go on\n", timeout=10)
    assert seen == "of the directory\na note\n"
    assert [*root.iterdir()] == []


@pytest.mark.requires("root")
def test_a_share_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "SHARED", str(tmp_path))
    child = container.attach_shares(os.getpid(), ["share-0 /nowhere"])
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    said = os.read(child.stderr, 4096).decode()
    for fd in (child.stdin, child.stdout, child.stderr):
        os.close(fd)
    assert (code, said) == (127, f"kata-dind: open_tree {tmp_path}/share-0: No such file or directory\n")
