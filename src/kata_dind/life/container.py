"""Following the dind container: its log, what the guest entrypoint says in it, and how it ended."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from kata_dind.backend import Guest
from kata_dind.dataroot.status import EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT, parse_status
from kata_dind.errors import DataRootError, DockerdFailed, KataDindError, OverlayRefused, SandboxError
from kata_dind.host.process import tail
from kata_dind.life.status import Status
from kata_dind.wire.requests import Container, Output, Stream, StreamLost

logger = logging.getLogger(__name__)

LOG_LIMIT_BYTES = 16 << 20
"""dockerd.log is set aside as dockerd.log.1 beyond this."""

_MOST_WARNINGS = 20


class FollowedContainer:
    """The container of one start, from the request for it on."""

    def __init__(self, log: Path, status: Status) -> None:
        self._path = log
        self._log = RotatingLog(log, limit_bytes=LOG_LIMIT_BYTES)
        self._status = status
        self._stream: Stream | None = None
        self._follower: asyncio.Task[None] | None = None
        self._exit_code: int | None = None
        self._complaint: dict[str, str] | None = None
        """The error that the guest entrypoint, or the agent, has reported."""
        self._failure: KataDindError | None = None
        """Why this host could not start it."""
        self.ended = asyncio.Event()

    def follow(self, guest: Guest, *, check: bool) -> None:
        """Ask the guest for its container, and follow that from here on."""
        self._stream = guest.open(Container(check))
        self._follower = asyncio.ensure_future(self._follow(self._stream))

    async def unfollow(self) -> None:
        """Stop following it."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    def let_go(self) -> None:
        """Close its stream once its guest has ended; until then dockerd's output must be read."""
        if self._stream is not None:
            self._stream.close()

    def said_before(self, text: str) -> None:
        """Begin the log with what dockerd logged before this start."""
        self._log.write(f"{text}\n".encode())

    def failure(self, evidence: str) -> KataDindError:
        """Return the error of a container that ended before dockerd answered."""
        if self._failure is not None:
            return self._failure
        details, complaint = f"{self.tail()}\n{evidence}".strip(), self._complaint
        if complaint is not None and self._exit_code in (EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT):
            said, hint = complaint["message"], complaint["hint"]
            if complaint["step"] == "verify":
                return OverlayRefused(said, id="dataroot.overlay-refused", details=details, hint=hint)
            if self._exit_code == EXIT_BAD_INPUT:
                return DataRootError(said, id="dataroot.bad-input", details=details, hint=hint)
            return DataRootError(said, id="dataroot.unusable", details=details, hint=hint)
        if complaint is not None and self._exit_code is None:
            return SandboxError(f"the guest refused: {complaint['message']}", id="guest.refused", details=details)
        return DockerdFailed(
            f"dockerd ended before it answered (exit {self._exit_code})", id="dockerd.ended-early", details=details
        )

    def sudden_end(self) -> KataDindError:
        """Return the error of a container that ended while the sandbox was running."""
        return DockerdFailed(f"dockerd ended (exit {self._exit_code})", id="dockerd.ended", details=self.tail())

    def tail(self) -> str:
        """Return the last lines of the log, for an error's details."""
        text = tail(self._path, lines=15)
        return f"--- {self._path.name}\n{text}" if text else ""

    async def _follow(self, container: Stream) -> None:
        lines = LineSplitter()
        try:
            while (part := await container.receive()) is not None:
                if isinstance(part, Output):
                    self._log.write(part.data)
                    for line in lines.feed(part.data) if part.is_error else ():
                        self._hear(line)
        except StreamLost:
            return  # the guest has ended, which is reported elsewhere, or could not be suspended and is followed anew
        except KataDindError as error:
            self._failure = error
            self.ended.set()
            return
        result = container.result
        self._exit_code = result.exit_code if result else None
        if result and result.error:
            self._complaint = {"step": "container", "message": result.error, "hint": ""}
        self.ended.set()

    def _hear(self, line: bytes) -> None:
        if not line.startswith(b'{"kata_dind":'):
            return
        # Any program in the guest may have written the line.
        try:
            spoken: dict[str, Any] = json.loads(line)
        except (ValueError, RecursionError):
            return
        if spoken["kata_dind"] == "error":
            self._complaint = {key: str(spoken.get(key, "")) for key in ("step", "message", "hint")}
        elif spoken["kata_dind"] == "warning" and len(self._status.warnings) < _MOST_WARNINGS:
            self._status.warn(str(spoken.get("message", "")))
        elif spoken.get("step") == "ready":
            self._status.know(data_root=parse_status(spoken))
            self._status.phase("data-root", "the data root is prepared")


class LineSplitter:
    """Cuts a byte stream into lines; keeps an incomplete one, up to 64 KiB of it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in, give whole lines out, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-65536:]
        return lines


class RotatingLog:
    """An append-only log; beyond its limit it is set aside as `NAME.1` and begun anew."""

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        """Append; a full disk loses the data and is logged."""
        try:
            with self._path.open("ab") as file:
                file.write(data)
                size = file.tell()
            if size > self._limit_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:
            logger.warning("cannot write %s: %s", self._path.name, error)
