"""A real dockerd on this host: its namespaces, and waiting for it and for what it leaves."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.proof.docker_api import DockerApi

START_SECONDS = 60

NAMESPACES = (
    *("unshare", "--mount", "--net", "--pid", "--cgroup", "--fork", "--kill-child"),
    *("--propagation", "private"),
)


def wait_until_it_answers(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Wait until dockerd, which the process is or has started, answers on its socket."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        with contextlib.suppress(KataDindError):
            DockerApi(socket, timeout_seconds=5).info()
            return
        time.sleep(0.1)


def process_1(unshare: subprocess.Popen[bytes]) -> int:
    """Return the first process of the process namespace, as which a runtime ends a container."""
    (child,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    return int(child)


def wait_until_no_loop_lies_in(directory: Path) -> None:
    """The namespace outlives the process that we wait for by a moment.

    And the loop device its mounts, so that its file has the path from the share's root: what the file system still has
    to write would be lost if the share's server ended then.
    """
    deadline = time.monotonic() + START_SECONDS
    while any(str(directory) in text or text == "/kata-dind.img\n" for text in loop_files()):
        assert time.monotonic() < deadline, "a loop device is left"
        time.sleep(0.02)


def loop_files() -> Iterator[str]:
    """Find the files of all loop devices."""
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            yield file.read_text()
