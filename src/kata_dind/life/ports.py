"""The published ports of a sandbox: what its guest asks about them is answered, and ports are listened for meanwhile.

A container gets its port only after this host listens for it, so nobody who waits for `docker run` comes too early.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from kata_dind.backend import Guest
from kata_dind.errors import HostError
from kata_dind.life.container import LineSplitter
from kata_dind.life.status import Status
from kata_dind.store.claims import SandboxClaims, likely_address
from kata_dind.store.sandboxes import Record
from kata_dind.wire.ports import AllTold, Asked, Unpublished, answer_line, parse_port_event
from kata_dind.wire.requests import Output, PublishedPorts, Stream, StreamLost

if TYPE_CHECKING:
    from kata_dind.life.listeners import Listeners

logger = logging.getLogger(__name__)

_FEW, _LATER_SECONDS = 100, 0.3

_MOST = 4096
"""How many questions of a guest may be open: two for most ports."""


class SandboxPorts:
    """The ports of one start."""

    def __init__(self, record: Record, status: Status) -> None:
        self._record = record
        self._status = status
        self._claims: SandboxClaims | None = None
        self._address = likely_address(record.directory)
        self._listeners: Listeners | None = None
        self._open: set[int] = set()
        self._later: asyncio.TimerHandle | None = None
        """When the ports are written down, if that waits."""
        self._follower: asyncio.Task[None] | None = None
        self.told = asyncio.Event()
        """Set when all ports are listened for that the guest had when it was asked, or when it does not tell."""

    def take_address(self) -> None:
        """Take the loopback address of the sandbox, which no other running one has."""
        try:
            self._claims = SandboxClaims()
        except HostError as error:  # as on a full disk; then two sandboxes may meet on one address
            logger.warning("the loopback address and the ports of the sandbox are not claimed: %s", error.summary)
        else:
            self._address = self._claims.claim_address(self._record.directory, self._status.earlier_address)
        self._status.know(address=self._address)

    def close(self) -> None:
        """Let go of the address."""
        if self._claims is not None:
            self._claims.close()

    def follow(self, guest: Guest) -> None:
        """Answer what the guest asks from here on, if its ports can be reached at all."""
        if guest.ports is None:
            return self.told.set()
        self.told.clear()
        self._follower = asyncio.ensure_future(self._follow(guest, guest.open(PublishedPorts())))

    async def unfollow(self) -> None:
        """Answer no more, and listen for nothing any more."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self, guest: Guest, stream: Stream) -> None:
        lines = LineSplitter()
        try:
            while (part := await stream.receive()) is not None:
                for line in lines.feed(part.data) if isinstance(part, Output) else ():
                    await self._hear(guest, stream, line)
            if stream.result is not None and stream.result.error:
                logger.info("the guest does not tell of its ports: %s", stream.result.error)  # it is of an older seed
        except StreamLost:
            pass  # the guest has ended, or was suspended
        except Exception:
            logger.exception("published ports are not followed any more")
            raise
        finally:
            self.told.set()
            await self._close_all()
            stream.close()

    async def _hear(self, guest: Guest, stream: Stream, line: bytes) -> None:
        try:
            event = parse_port_event(line)
        except ValueError as error:
            logger.warning("the guest says nonsense of its ports: %s", error)
            return
        match event:
            case Asked(number):
                why_not = await self._asked(guest, event)
                await stream.send(answer_line(number, why_not))
            case Unpublished(number) if number in self._open:
                self._open.remove(number)
                if self._listeners is not None:
                    await self._listeners.close(number)
                self._note()
            case AllTold():
                self.told.set()

    async def _asked(self, guest: Guest, event: Asked) -> str:
        """Listen for a port; return why it is refused, or an empty text."""
        assert guest.ports is not None
        if len(self._open) >= _MOST or event.number in self._open:
            return f"this sandbox has {len(self._open)} ports already"
        from kata_dind.life.listeners import Listeners, PortRefused  # which a sandbox without ports need not load

        if self._listeners is None:
            extra = self._record.read("spec.json").get("publish_addresses", ())
            self._listeners = Listeners(
                self._record.name, own=self._address, extra=extra, claims=self._claims, ports=guest.ports
            )
        try:
            await self._listeners.open(event.number, event.port, must=event.is_published)
        except PortRefused as error:
            logger.info("port %d/%s is refused: %s", event.port.port, event.port.protocol, error)
            return str(error)
        self._open.add(event.number)
        self._note()
        return ""

    async def _close_all(self) -> None:
        listeners, self._listeners = self._listeners, None
        self._open.clear()
        if listeners is not None:
            await listeners.close_all()
            self._status.know(ports=[])
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _note(self) -> None:
        """Write the ports down; where they are many, a moment later, so that a thousand don't take minutes."""
        if len(self._open) <= _FEW:
            self._write()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_LATER_SECONDS, self._write)

    def _write(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._status.know(ports=self._listeners.described() if self._listeners else [])
        self._status.write()
