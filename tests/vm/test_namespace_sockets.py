"""Sockets that a program makes in a network namespace; a process that sleeps stands in QEMU's place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.descriptors import list_descriptors
from kata_dind.host.namespaces import find_unshare, private_network_argv
from kata_dind.host.process import daemon
from kata_dind.machine.namespace_sockets import NamespaceSockets, open_namespace_sockets
from kata_dind.machine.socket_maker import TCP, UDP

pytestmark = pytest.mark.requires("netns")

AS_ROOT = os.geteuid() == 0


@contextlib.contextmanager
def network_of_its_own(directory: Path) -> Iterator[int]:
    """Yield the process in it."""
    ready, told = os.pipe()
    script = f"ip link set lo up && echo >&{told} && exec sleep 60"
    argv = private_network_argv(["bash", "-c", script], unshare=find_unshare(), as_root=AS_ROOT)
    try:
        with daemon(argv, name="sleep", log=directory / "log", pass_fds=[told]) as process:
            assert os.read(ready, 1)
            yield process.pid
    finally:
        os.close(ready)
        os.close(told)


def run(directory: Path, scenario: Callable[[NamespaceSockets], Coroutine[Any, Any, None]]) -> None:
    async def with_sockets() -> None:
        before = list_descriptors(os.getpid())
        with open_namespace_sockets(pid, as_root=AS_ROOT, log=directory / "maker.log") as sockets:
            await scenario(sockets)
        assert list_descriptors(os.getpid()) == before

    with network_of_its_own(directory) as pid:
        asyncio.run(asyncio.wait_for(with_sockets(), 30))
    assert (directory / "maker.log").read_text() == ""


def makers() -> list[int]:
    """Return the programs that we have started."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            if b"socket_maker.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_they_belong_to_the_namespace_and_do_not_block(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        listening, asking = await sockets.take(TCP), await sockets.take(TCP)
        with listening, asking, socket.socket() as outside:
            listening.bind(("127.0.0.1", 80))  # a port of any number: nobody else is in there
            listening.listen()
            await asyncio.get_running_loop().sock_connect(asking, ("127.0.0.1", 80))
            listening.accept()[0].close()
            with pytest.raises(BlockingIOError):
                listening.accept()
            assert outside.connect_ex(listening.getsockname()) != 0

    run(tmp_path, scenario)


def test_many_at_once_are_of_their_kinds(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        kinds = [TCP, UDP] * 500
        made = await asyncio.gather(*(sockets.take(kind) for kind in kinds))
        assert [each.type for each in made] == [socket.SOCK_STREAM, socket.SOCK_DGRAM] * 500
        for each in made:
            each.close()

    run(tmp_path, scenario)


def test_one_that_is_not_waited_for_any_more_is_not_lost(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        for _ in range(200):
            taking = asyncio.ensure_future(sockets.take(TCP))
            await asyncio.sleep(0)
            taking.cancel()
        (await sockets.take(TCP)).close()

    run(tmp_path, scenario)


def test_a_new_socket_is_there_at_once(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        (await sockets.take(TCP)).close()
        await asyncio.sleep(0.2)
        taking = sockets.take(TCP)
        with pytest.raises(StopIteration) as done:
            taking.send(None)  # it does not wait even once
        done.value.value.close()

    run(tmp_path, scenario)


def test_when_the_program_has_died_whoever_waits_hears_it(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        (await sockets.take(TCP)).close()
        (maker,) = makers()
        os.kill(maker, signal.SIGSTOP)
        waiting = [asyncio.ensure_future(sockets.take(UDP)) for _ in range(3)]
        await asyncio.sleep(0.1)
        os.kill(maker, signal.SIGKILL)
        for each in waiting:
            with pytest.raises(ConnectionError, match=r"the program that makes sockets .* has ended"):
                await each
        assert sockets.lost

    run(tmp_path, scenario)


def test_the_program_ends_when_the_channel_does(tmp_path: Path) -> None:
    async def scenario(sockets: NamespaceSockets) -> None:
        (await sockets.take(TCP)).close()
        (maker,) = makers()
        pidfd = os.pidfd_open(maker)
        sockets.close()
        started = time.monotonic()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, ended.set)
        await ended.wait()
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        assert time.monotonic() - started < 5

    run(tmp_path, scenario)
