"""The ports that a pod's containers publish: reached at the pod's own address, and asked for through a command in it.

The command (`guest/ports_of_pod.sh`) stands for the agent that a pod lacks. It ends with its connection, as when
containerd is started again; then there is another one, and what has changed meanwhile is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kata_dind.backend.containerd.client import Containerd
from kata_dind.backend.containerd.plan import PORTS_DIRECTORY
from kata_dind.backend.events import Kernel, OnEvent
from kata_dind.errors import SandboxError
from kata_dind.image.shelltext import without_comments
from kata_dind.vocabulary import NetworkMode, Transport
from kata_dind.wire.requests import Output, Result, Stream, StreamLost, Terminal

logger = logging.getLogger(__name__)

_GUEST = Path(__file__).parents[2] / "guest"

_CONNECT_SECONDS = 30.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 10.0
"""Between two of the commands."""

_KINDS = {Transport.TCP: socket.SOCK_STREAM, Transport.UDP: socket.SOCK_DGRAM}
_LONGEST_LINE = 4096
"""PIPE_BUF: up to this length the scripts' lines arrive in one piece."""


def guest_script(name: str) -> str:
    """Return a script that runs in the guest, without its comments."""
    return "#!/bin/sh\n" + without_comments((_GUEST / name).read_text(encoding="utf-8"))


def port_command(addresses: tuple[str, str], *, directory: str = PORTS_DIRECTORY) -> tuple[str, ...]:
    """Return the command that stands for an agent; `addresses` are the pod's and the host's."""
    return ("sh", "-c", guest_script("ports_of_pod.sh"), "ports_of_pod", directory, *addresses)


class PodPorts:
    """The ports of one pod, which the host's network reaches as it reaches every pod."""

    host_ports: Sequence[int] = ()

    def __init__(self, containerd: Containerd, pod_id: str, network: NetworkMode) -> None:
        self._containerd = containerd
        self._pod_id = pod_id
        self._network = network
        self._address: str | None = None

    async def forward(self, transport: Transport, port: int) -> PodPort:
        """Return a port of the pod's, at which dockerd's proxy listens. Raises SandboxError, ContainerdError."""
        if self._network is NetworkMode.NONE:
            raise SandboxError("kata-dind: ports can't be published without a network (--network none)",
                               id="containerd.no-network")  # fmt: skip
        if not (address := await self.address()):
            raise SandboxError("kata-dind: the pod has no address at which its ports could be reached",
                               id="containerd.no-address")  # fmt: skip
        return PodPort(transport, address, port)

    async def listen(self, port: int) -> socket.socket:
        """Refuse: the host has no address that only this pod reaches. Raises SandboxError."""
        raise SandboxError(f"the port {port} can't be opened to a pod", id="containerd.no-host-ports")

    async def address(self) -> str:
        """Return the pod's own address, of IPv4 if it has one; empty for none. Raises ContainerdError."""
        if self._network is NetworkMode.NONE:
            return ""
        if self._address is None:
            answer = await self._containerd.ask("RuntimeService/PodSandboxStatus", pod_sandbox_id=self._pod_id,
                                                failing="the pod's address could not be found")  # fmt: skip
            network = answer.status.network
            self._address = _chosen([network.ip, *(each.ip for each in network.additional_ips)])
        return self._address

    async def addresses(self) -> tuple[str, str]:
        """Return the pod's own address, and that of the host by which the host reaches it; empty where not known."""
        own = await self.address()
        return own, _source_towards(own) if own else ""


def _chosen(addresses: Sequence[str]) -> str:
    known = [address for address in addresses if address]
    return next((address for address in known if ":" not in address), known[0] if known else "")


def _source_towards(address: str) -> str:
    """Return the address that connections of ours have there; no packet is sent."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))
        except OSError as error:
            logger.warning("there is no way to the pod's address %s: %s", address, error)
            return ""
        return str(asking.getsockname()[0])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class PodPort:
    """One port of a pod."""

    def __init__(self, transport: Transport, address: str, port: int) -> None:
        self._transport = transport
        self._place = (address, port)

    async def connect(self) -> socket.socket:
        """Return a non-blocking socket that is connected to the port. Raises OSError."""
        made = socket.socket(_family(self._place[0]), _KINDS[self._transport])
        try:
            made.setblocking(False)
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(made, self._place)
        except BaseException:
            made.close()
            raise
        return made

    async def close(self) -> None:
        """Do nothing: the pod has no rule for it that could be removed."""


@dataclass
class _Known:
    """A question that was passed on."""

    number: int
    words: Sequence[str]
    granted: bool = False


class AskedPorts:
    """What a pod's dockerd asks about its ports, as one of a guest's streams: see `wire.ports` for the lines."""

    def __init__(self, run: Callable[[], Stream], *, ended: asyncio.Event, on_event: OnEvent) -> None:
        """`run` starts the command."""
        self._run = run
        self._ended = ended
        self._on_event = on_event
        self._command: Stream | None = None
        self._rest = b""
        self._ready: list[bytes] = []
        self._known: dict[str, _Known] = {}
        """By the number of the process that asks."""
        self._unseen: set[str] = set()
        """What was known before, and this command has not told of."""
        self._next = 1
        self._result: Result | None = None
        self._pause = _PAUSE_SECONDS

    @property
    def result(self) -> Result | None:
        """How it ended; None while it is open."""
        return self._result

    async def receive(self) -> Output | None:
        """Return the next lines; None after it was closed. Raises StreamLost when the pod has ended."""
        while not self._ready:
            if self._result is not None:
                return None
            if self._command is None:
                self._command, self._rest, self._unseen = self._run(), b"", {*self._known}
            part = await self._command.receive()
            if part is None:
                await self._lose(self._command)
            elif isinstance(part, Output) and not part.is_error:
                *lines, self._rest = (self._rest + part.data).split(b"\n")
                self._rest = self._rest[-_LONGEST_LINE:]
                for line in lines:
                    await self._hear(self._command, line.decode(errors="replace").split())
        said, self._ready = b"".join(self._ready), []
        return Output(said)

    async def send(self, data: bytes) -> None:
        """Take answers of the host."""
        for line in data.splitlines():
            answer = json.loads(line)
            found = next(((pid, known) for pid, known in self._known.items() if known.number == answer["id"]), None)
            if found is None or self._command is None:
                continue
            pid, known = found
            if error := str(answer.get("error", "")):
                del self._known[pid]
                await self._answer(self._command, pid, f"no {error}")
            else:
                known.granted = True
                await self._answer(self._command, pid, "told")

    def end(self) -> None:
        """The host ends by closing the stream."""

    def resize(self, terminal: Terminal) -> None:
        """It has no terminal."""

    def signal(self, number: int) -> None:
        """It is no command of a user's."""

    def close(self) -> None:
        """Ask no more; from now on ports are published without being asked for."""
        self._result = self._result or Result()
        if self._command is not None:
            self._command.end()
            self._command.close()

    async def _lose(self, command: Stream) -> None:
        if self._result is None:
            why = command.result.error if command.result else ""
            logger.info("the command that tells of ports has ended: %s", why)
            self._command = None
            if self._ended.is_set():
                raise StreamLost("the pod has ended")
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    async def _hear(self, command: Stream, words: list[str]) -> None:
        match words:
            case ["kernel", release]:
                self._on_event(Kernel(release))
            case ["all"]:
                for pid in self._unseen:
                    self._forget(pid)
                self._tell({"all": len(self._known)})
                self._pause = _PAUSE_SECONDS
            case [pid, "end"]:
                self._forget(pid)
            case ["there" | "waiting" as state, *question] if len(question) == _WORDS:
                await self._ask(command, question, is_published=state == "there")
            case [*question] if len(question) == _WORDS:
                await self._ask(command, question, is_published=False)
            case _:
                logger.warning("the pod says nonsense of its ports: %s", words)

    async def _ask(self, command: Stream, question: list[str], *, is_published: bool) -> None:
        pid = question[0]
        self._unseen.discard(pid)
        known = self._known.get(pid)
        if known is not None and known.granted and known.words == question:
            await self._answer(command, pid, "told")  # of which it may not have heard
            return
        try:
            fields = dict(_fields(question))
        except ValueError:
            logger.warning("the pod says nonsense of a port: %s", question)
            return
        self._forget(pid)
        self._known[pid] = _Known(self._next, question)
        self._tell({"id": self._next, "open": fields, "published": is_published})
        self._next += 1

    def _forget(self, pid: str) -> None:
        known = self._known.pop(pid, None)
        if known is not None:
            self._tell({"id": known.number, "close": True})

    def _tell(self, message: dict[str, object]) -> None:
        self._ready.append(json.dumps(message).encode() + b"\n")

    async def _answer(self, command: Stream, pid: str, answer: str) -> None:
        line = f"{pid} {' '.join(answer.split())}".encode()
        await command.send(line[: _LONGEST_LINE - 1] + b"\n")


_WORDS = 7
"""A question's: process, protocol, address, port, the container's address and port, whether another would be tried."""


def _fields(question: Sequence[str]) -> Iterator[tuple[str, object]]:
    _, protocol, host_address, port, container_address, container_port, retried = question
    yield from (("protocol", protocol), ("host_address", host_address), ("container_address", container_address))
    yield from (("port", int(port)), ("container_port", int(container_port)), ("retried", retried == "yes"))
