"""Which connections are ended in a container, and when."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from kata_dind.backend.containerd import connections
from kata_dind.backend.containerd.connections import Strays
from kata_dind.backend.dockerd import DOCKER_SOCKET
from kata_dind.errors import ContainerdError
from kata_dind.host.process import require_tool


class Container:
    """Remembers what is run in it, and fails as often as it is told to."""

    def __init__(self, *, fails: int = 0) -> None:
        self.ended: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._fails = fails

    async def run(self, *argv: str) -> str:
        if self._fails:
            self._fails -= 1
            raise ContainerdError("it hung up", id="containerd.hung-up")
        self.ended.put_nowait(argv[4:])
        return ""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_TOGETHER_SECONDS", 0.01)


def test_lost_ones_are_ended_together_and_again_when_containerd_is_back() -> None:
    async def scenario() -> None:
        container = Container(fails=2)
        strays = Strays(container.run)
        first, second, third = (strays.mark() for _ in range(3))
        strays.lose(first)
        strays.lose(second)
        assert await container.ended.get() == ("", first, second)
        strays.lose(third)
        assert await container.ended.get() == ("", third)
        await strays.end_all()
        assert container.ended.empty()

    run(scenario)


def test_at_the_end_all_of_ours_go_and_none_is_no_command() -> None:
    async def scenario() -> None:
        container = Container()
        strays = Strays(container.run)
        mark = strays.mark()
        strays.forget(mark)
        await strays.end_all()
        assert container.ended.empty()
        mark = strays.mark()
        await strays.end_all()
        spared, ours = container.ended.get_nowait()
        assert (spared, mark.startswith(ours)) == ("", True)

    run(scenario)


def test_those_of_others_are_ended_and_ours_are_spared() -> None:
    async def scenario() -> None:
        container = Container()
        strays = Strays(container.run)
        strays.end_those_of_others()
        spared, others = await container.ended.get()
        assert (strays.mark().startswith(spared), others) == (True, "")

    run(scenario)


def test_the_script_ends_what_has_a_mark_and_not_what_is_spared() -> None:
    def sleeper(mark: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", "print(flush=True); input()"]
        started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={connections._MARK: mark})
        assert started.stdout is not None
        started.stdout.readline()
        return started

    with sleeper("test-a.1.") as first, sleeper("test-a.11.") as second, sleeper("test-b.1.") as third:
        argv = ["sh", "-c", connections._END, "sh"]
        subprocess.run([*argv, "", "test-a.1."], check=False)
        assert (first.wait(5), second.poll(), third.poll()) == (-9, None, None)
        subprocess.run([*argv, "test-b", "test-"], check=False)
        assert (second.wait(5), third.poll()) == (-9, None)
        third.communicate(b"\n")


@pytest.mark.parametrize("shell", ["dash", "busybox"])
@pytest.mark.parametrize("more", [b"", b"and more"])
def test_an_input_is_ended_from_inside(tmp_path: Path, shell: str, more: bytes) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text("#!/bin/sh\ncat\n")
    docker.chmod(0o755)
    for name in ("cat", "env", "mkfifo", "rm", "sh", "sleep") if shell == "busybox" else ():
        (programs / name).symlink_to(require_tool("busybox", package="busybox-static"))

    def here(script: str) -> list[str]:
        script = script.replace(connections._INPUT, f"{tmp_path}/c.").replace(DOCKER_SOCKET, str(tmp_path / "socket"))
        return [str(programs / "sh") if shell == "busybox" else "dash", "-c", script, "sh"]

    def variables(mark: str) -> dict[str, str]:
        return {"PATH": f"{programs}:/bin:/usr/bin", connections._MARK: mark}

    with subprocess.Popen(["true"]) as ended:
        pass
    for name, text in (("c.a.0.", ""), ("c.a.0..cat", f"{ended.pid}\n")):  # what an earlier one has left
        (tmp_path / name).write_text(text)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        with subprocess.Popen(here(connections.CONNECT), stdin=PIPE, stdout=PIPE, env=variables("a.1.")) as connection:
            assert connection.stdin is not None and connection.stdout is not None
            connection.stdin.write(b"request")
            connection.stdin.flush()
            assert connection.stdout.read(7) == b"request"
            script = connections._GO_ON_WITH_INPUT if more else connections._END_INPUT
            subprocess.run([*here(script), f"{tmp_path}/c.a.1."], input=more, env=variables("a.1."), check=True)
            assert connection.stdout.read() == more
    assert not [*tmp_path.glob("c.a.0.*")]
