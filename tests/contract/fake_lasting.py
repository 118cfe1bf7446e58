"""A backend whose guests outlive their owner, as pods do: each is a process that only `Lasting.stop` ends.

Nothing of it lies in a sandbox's directory but its log; where a guest runs is known from the "cluster" alone. Its
streams are lines of JSON over a socket of its own: no frame of the vm backend's is needed to serve an owner.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from kata_dind.backend import Backend, Begun, Proven, Wish
from kata_dind.backend.events import GivenUp, GuestEvent, Kernel, OnEvent, Phase, Problem, Usable
from kata_dind.backend.plan import AnyPlan
from kata_dind.errors import BackendError, SpecError
from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import read_json
from kata_dind.progress import Report
from kata_dind.vocabulary import DataRootKind
from kata_dind.wire.channel import background
from kata_dind.wire.requests import (
    Container,
    Docker,
    End,
    Exec,
    Output,
    Request,
    Result,
    StreamLost,
    Terminal,
)
from tests.plans import plan_with

_START_SECONDS = 10.0
_ROOT = Path(__file__).parents[2]


def cluster_directory(name: str) -> Path:
    """Return where the guest of a sandbox lives."""
    return state_directory() / "cluster" / name


def unreachable() -> Path:
    """Return a mark; while it is there the cluster does not answer, and for good where it is not empty."""
    return state_directory() / "cluster-is-unreachable"


def wanted(home: Path) -> Path:
    """Return a mark without which a guest ends as soon as it has started."""
    return home / "wanted"


class LastingBackend:
    """The backend."""

    logs: Mapping[str, str] = {"dockerd": "dockerd.log", "pod": "pod.log"}
    snapshots = None
    volumes = None
    shares_later = False

    def __init__(self) -> None:
        self.lasting = FakeCluster()

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        image = wish.spec.image or "healthy"
        if image not in ("healthy", "crashes"):
            raise SpecError(f"--image: there is no image {image!r}", id="image.missing")
        return plan_with(
            name=wish.spec.name,
            image_id=image,
            accelerator="kata-fake",
            data_root=DataRootKind.MEMORY,
            timeout_seconds=20.0,
            outlives_owner=True,
        )

    def proven(self, plan: AnyPlan, directory: Path) -> Proven | None:
        status = read_json(directory / "status.json")
        if not self.lasting.runs(plan, directory) or not status.get("verdict"):
            return None
        return Proven(status["verdict"], status["data_root"], status["kernel"], status["warnings"])

    @contextlib.contextmanager
    def begin(
        self, plan: AnyPlan, directory: Path, *, ephemeral: bool = False, locks: Sequence[int] = ()
    ) -> Iterator[Begun]:
        home = cluster_directory(plan.name)
        ran_before = self.lasting.runs(plan, directory)
        if not ran_before:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            wanted(home).touch()
            argv = [sys.executable, "-m", "tests.contract.lasting_guest", str(home), plan.image.image_id]
            with (home / "pod.log").open("ab") as log:
                # Nobody's child, as a pod is to its client.
                subprocess.run(["setsid", "--fork", *argv], stdout=log, stderr=log, cwd=_ROOT, check=True)
        yield _Begun(home, ran_before=ran_before)


class FakeCluster:
    """What can be asked of guests without their owner."""

    def runs(self, plan: AnyPlan, directory: Path) -> bool:
        if unreachable().exists():
            raise BackendError("the fake cluster does not answer", id="test.unreachable")
        try:
            _connect(cluster_directory(plan.name)).close()
        except OSError:
            return False
        return True

    def stop(self, plan: AnyPlan, directory: Path, *, timeout_seconds: float) -> None:
        home = cluster_directory(plan.name)
        wanted(home).unlink(missing_ok=True)  # it may be starting, and hear nobody yet
        with contextlib.suppress(OSError), _connect(home) as connection:
            connection.setblocking(True)
            connection.sendall(b'{"kind": "stop"}\n')
            while connection.recv(4096):
                pass
        deadline = time.monotonic() + timeout_seconds
        while self.runs(plan, directory):
            if time.monotonic() > deadline:
                raise BackendError(f"the guest of '{plan.name}' does not end", id="backend.guest-does-not-end")
            time.sleep(0.02)


BACKEND: Backend = LastingBackend()


class _Begun:
    def __init__(self, home: Path, *, ran_before: bool) -> None:
        self._home = home
        self._ran_before = ran_before

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[LastingGuest]:
        return _meet(self._home, on_event, ran_before=self._ran_before)


@contextlib.asynccontextmanager
async def _meet(home: Path, on_event: OnEvent, *, ran_before: bool) -> AsyncIterator[LastingGuest]:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            with contextlib.suppress(OSError):
                watch = _connect(home)
                break
            await asyncio.sleep(0.02)
    watch.sendall(b'{"kind": "watch"}\n')
    guest = LastingGuest(home, on_event, ran_before=ran_before)
    on_event(Kernel("9.9-fake"))
    on_event(Phase("machine", "the guest is found" if ran_before else "the guest has started"))
    with watch:
        async with background(guest.watch(watch)):
            yield guest


class LastingGuest:
    """The guest as its owner sees it."""

    ports = None

    def __init__(self, home: Path, on_event: OnEvent, *, ran_before: bool) -> None:
        self._home = home
        self._on_event = on_event
        self._ran_before = ran_before
        self.ended = asyncio.Event()

    async def watch(self, connection: socket.socket) -> None:
        async with background(self._watch_cluster()):
            await asyncio.get_running_loop().sock_recv(connection, 1)
            self.ended.set()

    async def _watch_cluster(self) -> None:
        while True:
            await _until(unreachable().exists)
            self._on_event(Problem("the fake cluster does not answer", unsure=True))
            if unreachable().read_text():
                self._on_event(GivenUp("the fake cluster is given up"))
            await _until(lambda: not unreachable().exists())
            self._on_event(Problem("", solved="the fake cluster answers again"))

    def open(self, request: Request) -> LastingStream:
        match request:
            case Docker():
                asked: dict[str, Any] = {"kind": "docker"}
            case Exec(argv):
                asked = {"kind": "exec", "argv": list(argv)}
            case Container(check):
                asked = {"kind": "container", "check": check}
        try:
            connection = _connect(self._home)
        except OSError as error:
            raise StreamLost(str(error)) from error
        connection.sendall(json.dumps(asked).encode() + b"\n")
        if isinstance(request, Container) and self._ran_before:
            usable: GuestEvent = Usable({})
            asyncio.get_running_loop().call_soon(self._on_event, usable)
        return LastingStream(connection, is_plain=isinstance(request, Docker))

    def discard(self) -> None:
        """Nothing of it lies on this host."""

    def evidence(self) -> str:
        first = "the fake pod ended" if self.ended.is_set() else "the fake pod still runs"
        log = self._home / "guest.log"
        return f"{first}\n--- guest.log\n{log.read_text() if log.exists() else ''}"

    async def testimony(self) -> str:
        return ""


class LastingStream:
    """A connection to the guest."""

    def __init__(self, connection: socket.socket, *, is_plain: bool) -> None:
        self._connection = connection
        self._is_plain = is_plain
        self._rest = b""
        self._half_closed = False
        self._result: Result | None = None

    @property
    def result(self) -> Result | None:
        return self._result

    async def receive(self) -> Output | End | None:
        while self._result is None:
            line, newline, rest = self._rest.partition(b"\n")
            if not self._is_plain and newline:
                self._rest = rest
                told = json.loads(line)
                if "exit" in told:
                    self._result = Result(told["exit"])
                    break
                name = "err" if "err" in told else "out"
                return Output(base64.b64decode(told[name]), is_error=name == "err")
            try:
                data = await asyncio.get_running_loop().sock_recv(self._connection, 65536)
            except OSError as error:
                raise StreamLost(str(error)) from error
            if not data and not self._is_plain:
                raise StreamLost("the guest has hung up")
            if not data:
                self._result = Result()
            elif self._is_plain:
                return Output(data)
            self._rest += data
        self._connection.close()
        return None

    async def send(self, data: bytes) -> None:
        whole = data if self._is_plain else json.dumps({"in": base64.b64encode(data).decode()}).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self._result is None:
                await asyncio.get_running_loop().sock_sendall(self._connection, whole)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_plain:
                self._connection.shutdown(socket.SHUT_WR)
            else:
                self._connection.send(b'{"eof": true}\n')

    def resize(self, terminal: Terminal) -> None:
        """It has no terminals."""

    def signal(self, number: int) -> None:
        """Its commands take no signals."""

    def close(self) -> None:
        self._result = self._result or Result()
        self._connection.close()


def _connect(home: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(home / "guest.sock"))
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a file's coming is no event
        await asyncio.sleep(0.02)
