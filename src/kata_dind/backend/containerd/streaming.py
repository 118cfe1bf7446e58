"""A command in a container, over the streaming server of CRI: an HTTP connection that becomes one of SPDY."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from kata_dind.backend.containerd.spdy import (
    MOST_BYTES,
    Data,
    Frame,
    GoAway,
    Ping,
    Reader,
    Reset,
    Writer,
    data_frame,
    ping_frame,
)
from kata_dind.errors import ContainerdError, KataDindError
from kata_dind.wire.requests import Output, Result, StreamLost, Terminal

logger = logging.getLogger(__name__)

PROTOCOL = "v4.channel.k8s.io"
_ERROR, _INPUT, _OUTPUT, _ERRORS, _SIZE = 1, 3, 5, 7, 9
"""The numbers of the streams: the server waits for those that the call to Exec named, in any order."""

_CONNECT_SECONDS = 20.0
_LONGEST_HEAD = 65536
_BUFFER_BYTES = 1 << 18

KEEP_ALIVE_SECONDS = 600.0
"""containerd ends a stream on which nothing came or went for `stream_idle_timeout`, four hours by default."""

OpenUrl = Callable[[], Awaitable[str]]
"""Asks for a URL at which a command waits to be started."""


class Streams:
    """What a command has of standard streams."""

    def __init__(self, *, terminal: Terminal | None, errors: bool) -> None:
        self.terminal = terminal
        self.errors = errors and terminal is None

    def headers(self) -> dict[int, str]:
        """Return the streams to open, by their numbers."""
        names = {_ERROR: "error", _INPUT: "stdin", _OUTPUT: "stdout"}
        if self.errors:
            names[_ERRORS] = "stderr"
        if self.terminal:
            names[_SIZE] = "resize"
        return names


class CommandStream:
    """A command as one of a guest's streams. Nothing is connected before somebody receives or sends."""

    def __init__(
        self,
        open_url: OpenUrl,
        streams: Streams,
        *,
        is_gone: Callable[[], bool],
        on_lost: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_url = open_url
        self._streams = streams
        self._is_gone = is_gone
        self._on_lost = on_lost
        """Called when the connection is gone, or given up, and the command may run on."""
        self._on_end = on_end
        """Called when there is no command, or no more."""
        self._is_begun = False
        self._on_answer: Callable[[], None] | None = on_answer
        """Called at the first output."""
        self._connecting = asyncio.ensure_future(self._connect())
        self._connecting.add_done_callback(_seen)
        self._pinging: asyncio.Task[None] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._frames = Reader()
        self._ready: deque[Output] = deque()
        self._verdict = b""
        self._input_ended = False
        self._wants_end = False
        self._input_came = asyncio.Event()
        """Set at the first input, or when it ends."""
        self._has_input = self._is_without_input = False
        self._result: Result | None = None

    @property
    def result(self) -> Result | None:
        """How it ended; None while it is open."""
        return self._result

    @property
    def is_open(self) -> bool:
        """Whether it is connected, and nothing has ended it."""
        connecting = self._connecting
        return (
            self._result is None
            and connecting.done()
            and not connecting.cancelled()
            and connecting.exception() is None
            and self._reader is not None
            and not self._reader.at_eof()
        )

    async def receive(self) -> Output | None:
        """Return the next output; None when the command has ended. Raises StreamLost."""
        if not await self._connected():
            return None
        assert self._reader
        while not self._ready and self._result is None:
            try:
                data = await self._reader.read(_BUFFER_BYTES)
            except OSError as error:
                data = b""
                logger.debug("the connection to a command is gone: %s", error)
            for frame in self._frames.feed(data):
                self._take(frame)
            if not data and self._result is None:
                self._end(_result_of(self._verdict) if self._verdict else Result(error="the command is gone"),
                          is_lost=not self._verdict)  # fmt: skip
                if not self._verdict and not self._ready and self._is_gone():
                    raise StreamLost("the connection to the command is gone")
        return self._joined() if self._ready else None

    def _joined(self) -> Output:
        """Return the output that has come of one stream together: each part costs its carrier some calls."""
        if self._on_answer is not None:
            on_answer, self._on_answer = self._on_answer, None
            on_answer()
        first = self._ready.popleft()
        parts = [first.data]
        while self._ready and self._ready[0].is_error == first.is_error:
            parts.append(self._ready.popleft().data)
        return Output(b"".join(parts), first.is_error) if len(parts) > 1 else first

    def _take(self, frame: Frame) -> None:
        match frame:
            case Data(stream, content, ends) if stream == _ERROR:
                self._verdict += content
                if ends and self._verdict:
                    self._end(_result_of(self._verdict))
            case Data(stream, content, _) if content and stream in (_OUTPUT, _ERRORS):
                self._ready.append(Output(content, is_error=stream == _ERRORS))
            case Ping(number, echo) if number % 2 == 0:
                self._write(echo)
            case Reset(stream) if stream == _ERROR:
                self._end(_result_of(self._verdict))
            case GoAway() if self._verdict:
                self._end(_result_of(self._verdict))

    async def send(self, data: bytes) -> None:
        """Send bytes to the command's input; waits for TCP. Raises StreamLost."""
        self._has_input = True
        self._input_came.set()
        if not await self._connected():
            return
        for start in range(0, len(data), MOST_BYTES):
            if self._result is not None or self._input_ended:
                return
            self._write(data_frame(_INPUT, data[start : start + MOST_BYTES]))
            assert self._writer
            try:
                await self._writer.drain()
            except OSError:
                return  # which `receive` reports, with what the command has said before

    def end(self) -> None:
        """End the command's input."""
        self._wants_end = True
        self._input_came.set()
        if self._writer is not None:
            self._end_input()

    async def is_without_input(self, *, wait_seconds: float) -> bool:
        """Tell, before the command is started, whether its input has ended with nothing in it.

        Then it is to be started with /dev/null, and its input is left open: Kata's Go runtime gives no more output of a
        command than comes next once the input was ended (kata-containers#13640).
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await self._input_came.wait()
        self._is_without_input = self._wants_end and not self._has_input
        return self._is_without_input

    def resize(self, terminal: Terminal) -> None:
        """Give the command's terminal another size."""
        if self._streams.terminal:
            self._streams.terminal = terminal
            self._write(data_frame(_SIZE, _size(terminal)))

    def signal(self, number: int) -> None:
        """CRI's streaming carries no signals; a `guest.Command` sends them in another way."""

    def close(self) -> None:
        """Hang up; harmless when it has ended."""
        if self._result is None:
            self._end(Result(), is_lost=True)

    # --- the connection

    async def _connected(self) -> bool:
        """Wait until the command can be spoken to; return False for one that never could."""
        try:
            await asyncio.shield(self._connecting)
            return True
        except asyncio.CancelledError:
            if not self._connecting.cancelled():
                raise
            why = "the command was not reached"
        except (KataDindError, OSError, EOFError) as error:
            why = getattr(error, "summary", "") or f"the command could not be reached: {error}"
        self._end(Result(error=why))
        if self._is_gone():
            raise StreamLost(why)
        return False

    async def _connect(self) -> None:
        url = urlsplit(await self._open_url())
        if url.scheme != "http" or not url.hostname:
            raise ContainerdError(
                f"containerd's streaming server speaks {url.scheme}, and kata-dind only http",
                id="containerd.tls-streaming",
                hint="leave out enable_tls_streaming in containerd's config.toml",
            )
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=_BUFFER_BYTES)
            self._reader, self._writer, self._is_begun = reader, writer, True
            await _upgrade(reader, writer, target=f"{url.path}?{url.query}" if url.query else url.path,
                           host=url.netloc)  # fmt: skip
        frames = Writer()
        for number, kind in self._streams.headers().items():
            self._write(frames.open_stream(number, {"streamtype": kind}))
        if self._streams.terminal:
            self._write(data_frame(_SIZE, _size(self._streams.terminal)))
        self._pinging = asyncio.ensure_future(self._ping())
        if self._wants_end:
            self._end_input()

    async def _ping(self) -> None:
        number = 1
        while True:
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            self._write(ping_frame(number))
            number += 2

    def _end_input(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            if not self._is_without_input:
                self._write(data_frame(_INPUT, b"", ends=True))

    def _write(self, frame: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame)

    def _end(self, result: Result, *, is_lost: bool = False) -> None:
        if self._result is None:
            self._result = result
            if is_lost and self._is_begun and not self._is_gone():
                self._on_lost()
            else:
                self._on_end()
        if not self._connecting.done():
            self._connecting.cancel()
        if self._pinging is not None:
            self._pinging.cancel()
        if self._writer is not None:
            self._writer.close()


class SilentCommand:
    """A command that takes input and prints nothing, as a part of another stream's."""

    def __init__(self, stream: CommandStream, *, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called where it could not be started."""
        self.stream = stream
        self._on_failure = on_failure
        self._following = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        with contextlib.suppress(StreamLost):
            while await self.stream.receive() is not None:
                pass
        if self.stream.result is not None and self.stream.result.error:
            logger.warning("a command that takes input ended: %s", self.stream.result.error)
            self._on_failure()


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, target: str, host: str) -> None:
    writer.write(
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                head += await reader.read(_LONGEST_HEAD)
        writer.close()
        raise ContainerdError("containerd's streaming server refused a command", id="containerd.no-stream",
                              details=head.decode(errors="replace"))  # fmt: skip


def _size(terminal: Terminal) -> bytes:
    return json.dumps({"Width": terminal.columns, "Height": terminal.rows}).encode()


def _result_of(verdict: bytes) -> Result:
    """Read how a command ended from the status that the server writes last."""
    try:
        status: dict[str, Any] = json.loads(verdict or b"{}")
        if status.get("status") == "Success":
            return Result(0)
        causes = (status.get("details") or {}).get("causes") or []
        codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
        return Result(codes[0]) if codes else Result(error=str(status.get("message") or ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Result(error=verdict.decode(errors="replace"))


def _seen(task: asyncio.Task[None]) -> None:
    """Take note of an error that nobody may ask for, as when the stream was closed meanwhile."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a command could not be connected: %s", error)
