"""A guest that belongs to the test's own process: started by its backend, without an owner, in a loop of a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from kata_dind.backend import Guest, Ports, Wish, load_backend
from kata_dind.backend.events import GuestEvent
from kata_dind.backend.vm.start import VmGuest
from kata_dind.spec import SandboxSpec
from kata_dind.wire.requests import Container, Exec, Output, Where
from tests.vm.driver import COMMAND_SECONDS, START_SECONDS

T = TypeVar("T")


class OwnGuest:
    """A guest, and the loop that it is served in."""

    def __init__(self, guest: Guest, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.guest = guest
        self._loop = loop
        self.kata_dind_logs = [directory / name for name in ("guest.log", "vmm.log", "network.log", "dockerd.log")]

    @property
    def ports(self) -> Ports:
        assert self.guest.ports is not None
        return self.guest.ports

    @property
    def process_id(self) -> int:
        """QEMU's."""
        return cast(VmGuest, self.guest)._machine.process.pid

    def run(self, work: Coroutine[Any, Any, T], *, timeout_seconds: float = COMMAND_SECONDS) -> T:
        """Run something in the guest's loop to its end."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_seconds), self._loop).result()

    async def execute(self, *argv: str, where: Where = Where.GUEST) -> str:
        """Run a command in the guest that must succeed; return what it printed."""
        stream = self.guest.open(Exec(argv, where))
        stream.end()
        output = b""
        while (part := await stream.receive()) is not None:
            output += part.data if isinstance(part, Output) else b""
        assert stream.result is not None
        assert stream.result.exit_code == 0, f"{argv} failed:\n{output.decode(errors='replace')}"
        return output.decode()

    def python(self, code: str, *arguments: str) -> str:
        """Run a Python program that must succeed in the guest OS, which has the standard library."""
        return self.run(self.execute("python3", "-c", code, *arguments))


@contextlib.contextmanager
def own_guest(directory: Path, **options: Any) -> Iterator[OwnGuest]:
    """Boot a guest whose container runs, for the length of the block; its data root is in its memory."""
    backend = load_backend("vm")
    spec = SandboxSpec(**{"name": "own", "data_root": "memory", "size": "512M", "cold": True, **options})
    plan = backend.prepare(Wish(spec, directory), report=lambda _: None)
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[OwnGuest | BaseException] = []

    async def serve() -> None:
        with backend.begin(plan, directory, ephemeral=True) as begun:
            async with begun.meet(_ignore) as guest:
                guest.discard()
                stream = guest.open(Container())
                log = asyncio.ensure_future(_write_log(stream.receive, directory / "dockerd.log"))
                own = OwnGuest(guest, loop, directory)
                await own.execute("sh", "-c", "until ip route | grep -q default; do sleep 0.1; done")
                found.append(own)
                ready.set()
                await over.wait()
                log.cancel()

    def live() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            found.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert ready.wait(START_SECONDS)
        if isinstance(found[0], BaseException):
            raise found[0]
        yield found[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(over.set)
        thread.join()
    if isinstance(found[-1], BaseException):
        raise found[-1]


async def _write_log(receive: Callable[[], Coroutine[Any, Any, Any]], log: Path) -> None:
    with log.open("wb", buffering=0) as file:
        while (part := await receive()) is not None:
            if isinstance(part, Output):
                file.write(part.data)


def _ignore(_event: GuestEvent) -> None:
    pass
