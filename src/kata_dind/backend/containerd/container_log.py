"""What a container prints, from the file in which containerd keeps it in CRI's form; a file that grows is rotated.

A line of the file: time, `stdout` or `stderr`, `F` for a whole line or `P` for a part of one, and the text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.wire.requests import Output

logger = logging.getLogger(__name__)

LIMIT_BYTES = 16 << 20
"""A file beyond this is set aside, read to its end and removed."""

_READ_BYTES = 1 << 16
_QUICK_SECONDS, _SLOW_SECONDS = 0.05, 1.0


class LogFollower:
    """Follows the file; how far it was read stands beside it, for a later follower."""

    def __init__(self, path: Path, *, reopen: Callable[[], Awaitable[None]], limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._position_file = path.with_suffix(".position")
        self._reopen = reopen
        self._limit_bytes = limit_bytes
        self._position = _read_position(self._position_file)
        self._rest = b""
        self._ready: list[Output] = []
        self._pause = _QUICK_SECONDS
        self._ended = asyncio.Event()
        self._at_once = False
        self.is_read = False
        """Whether the container has ended and all that it printed was returned."""

    def end(self, *, at_once: bool = False) -> None:
        """Read to the end and no further, or no more at all."""
        self._at_once = self._at_once or at_once
        self._ended.set()

    async def read(self) -> Output | None:
        """Return what comes next; None when the container has ended and there is no more."""
        while not self._ready:
            if self._at_once:
                self.is_read = True
                return None
            was_ended = self._ended.is_set()
            if data := self._read():
                self._pause = _QUICK_SECONDS
                self._take(data)
                await self._rotate_if_large()
            elif was_ended:
                self.is_read = True
                return None
            else:
                await self._wait()
        return self._ready.pop(0)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._pause):
                await self._ended.wait()
        except TimeoutError:
            self._pause = min(_SLOW_SECONDS, self._pause * 1.3)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read(_READ_BYTES)
        except FileNotFoundError:
            return b""
        if data:
            self._position += len(data)
            _write_position(self._position_file, self._position - len((self._rest + data).rpartition(b"\n")[2]))
        return data

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._ready += parse_lines(lines)

    async def _rotate_if_large(self) -> None:
        if self._position < self._limit_bytes:
            return
        aside = self._path.with_suffix(".old")
        try:
            self._path.replace(aside)
            await self._reopen()
        except (OSError, KataDindError) as error:
            logger.warning("the container's log could not be rotated: %s", error)
            if not self._path.exists():
                aside.replace(self._path)
            return
        with aside.open("rb") as file:
            file.seek(self._position)
            self._take(file.read())
        aside.unlink()
        self._position = 0
        _write_position(self._position_file, 0)


def append_rest(path: Path, log: Path) -> None:
    """Append to a log what a container that has ended printed after its last follower stopped."""
    position_file = path.with_suffix(".position")
    try:
        with path.open("rb") as file, log.open("ab") as sink:
            file.seek(_read_position(position_file))
            for line in file:
                sink.writelines(part.data for part in parse_lines([line.rstrip(b"\n")]))
            _write_position(position_file, file.tell())
    except FileNotFoundError:  # it has printed nothing
        return
    except OSError as error:
        logger.warning("the end of the container's log could not be kept: %s", error)


def parse_lines(lines: list[bytes]) -> Iterator[Output]:
    """Return what was printed, from whole lines of the file; what is no such line is left out."""
    for line in lines:
        words = line.split(b" ", 3)
        if len(words) == 4 and words[1] in (b"stdout", b"stderr"):
            end = b"" if words[2].startswith(b"P") else b"\n"
            yield Output(words[3] + end, is_error=words[1] == b"stderr")


def _read_position(file: Path) -> int:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _write_position(file: Path, position: int) -> None:
    try:
        file.write_text(str(position))
    except OSError as error:  # a full disk: a later owner reads some lines again
        logger.warning("cannot write %s: %s", file.name, error)
