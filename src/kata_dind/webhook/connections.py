"""HTTP/1.1 on one connection, with a limit for everything that a client may be slow or lavish with.

An answer is computed at once, between two events of the loop, so a connection has no task of its own. One that has to
wait for others comes later, and nothing more is read until then. API servers speak HTTP/1.1 to webhooks, also where
HTTP/2 is offered, and keep connections: only the one that closes a connection first can lose a request, so that we wait
longer than they do, and say `Connection: close` before we end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

from kata_dind.webhook.logs import event
from kata_dind.webhook.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take."""

    idle_seconds: float = 180
    """An API server closes a connection after 90 s without a request (net/http's IdleConnTimeout in client-go)."""
    head_seconds: float = 10
    """From the first byte of a request to the end of its head."""
    body_seconds: float = 20
    """From there to its end. The longest timeout of a webhook is 30 s."""
    write_seconds: float = 20
    """For a client to read what it has asked for."""
    linger_seconds: float = 1
    """For a client to read why it was refused, before the connection is closed."""
    head_bytes: int = 16 << 10
    body_bytes: int = 8 << 20
    """An API server takes requests of 3 MiB, and a review has the old object as well."""
    connections: int = 2048


class Request(NamedTuple):
    """A request that has come in as a whole."""

    method: str
    path: str
    """Without a query: an API server adds its timeout as one."""
    content_type: str
    body: bytes


class Reply(NamedTuple):
    """An answer."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str = ""
    """The methods that would have been right."""


Handle = Callable[[Request], Reply | Awaitable[Reply]]
_BUFFER_BYTES = 64 << 10
_BUG = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"a bug of kata-dind; its log has the traceback\n")


class _Due(NamedTuple):
    """An answer that is sent later."""

    reply: Reply | asyncio.Future[Reply]
    is_last: bool
    with_body: bool

    def found(self) -> Reply | None:
        """Return the answer if it is there."""
        if isinstance(self.reply, Reply):
            return self.reply
        if not self.reply.done():
            return None
        if bug := self.reply.exception():
            event(logging.ERROR, "bug", error=bug)
            return _BUG
        return self.reply.result()


@dataclass(slots=True, eq=False)
class Connections:
    """All connections of one port."""

    port: str
    """Its name in the metrics."""
    handle: Handle
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    draining: bool = False
    """Each answer asks its client to close the connection."""
    closed_count: int = 0
    """How many there were that are no more."""
    _unused: OrderedDict[Connection, None] = field(default_factory=OrderedDict)
    """Those that have had no answer yet, the oldest first."""
    _used: OrderedDict[Connection, None] = field(default_factory=OrderedDict)
    """The others; the one that was quiet for the longest time comes first."""
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is none."""
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_BUFFER_BYTES)))
    """What comes in; one for all, since it is parsed at once. A buffer for each read would be mapped and unmapped."""

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._unused) + len(self._used)

    def opened(self, connection: Connection) -> None:
        """Add a connection; above the limit, one that was of no use makes room."""
        self._unused[connection] = None
        self._gone.clear()
        if self.count > self.limits.connections:
            next(iter(self._unused if len(self._unused) > 1 else self._used or self._unused)).cut("too-many")
        self.metrics.connections.labels(self.port).set(self.count)

    def served(self, connection: Connection) -> None:
        """Note that a connection was of use."""
        self._unused.pop(connection, None)
        self._used[connection] = None
        self._used.move_to_end(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._unused.pop(connection, None)
        self._used.pop(connection, None)
        self.closed_count += 1
        if not self.count:
            self._gone.set()
        self.metrics.connections.labels(self.port).set(self.count)

    async def end(self, *, within_seconds: float) -> None:
        """Wait until the clients have gone, and cut off those that stay."""
        await self._wait_until_gone(within_seconds)
        # A client that learns of a close before it sends a request sends that elsewhere; one that is cut off loses it.
        for connection in [*self._unused, *self._used]:
            connection.close_if_idle()
        await self._wait_until_gone(self.limits.linger_seconds)
        for connection in [*self._unused, *self._used]:
            connection.cut("shutdown")

    async def _wait_until_gone(self, within_seconds: float) -> None:
        if self.count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), within_seconds)


class Connection(asyncio.BufferedProtocol):
    """One connection. `httptools` calls the methods that begin with `on_`."""

    def __init__(self, all_connections: Connections) -> None:
        self._all = all_connections
        self._limits = all_connections.limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        """What still comes in is thrown away."""
        self._is_ending = False
        """The answer that was given is the last one."""
        self._is_clogged = False
        """The client does not read what it was sent."""
        self._due: deque[_Due] = deque()
        """What is answered later, in the order of the requests."""
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        """What came before a head was at its end, with the parts of other requests that came along."""
        self._parsed_bytes = 0
        """What a head has in it."""
        self._in_body = False
        self._url = b""
        self._content_type = b""
        self._body: list[bytes] = []
        self._body_bytes = 0

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._arm(self._limits.idle_seconds, self._slow)
        self._all.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._disarm()
        self._due.clear()
        self._all.closed(self)
        # Each of the two knows us, so that nothing but a rare garbage collection would free the 100 KiB of all three.
        del self._parser, self._transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Tell where to put what comes in."""
        return self._all.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has come in, and answer what is whole."""
        if self._is_refused or self._is_ending:
            return
        if not self._in_body:
            if self._head_bytes == 0:
                self._arm(self._limits.head_seconds, self._slow)
            self._head_bytes += nbytes
        try:
            self._parser.feed_data(self._all.buffer[:nbytes])
        except httptools.HttpParserUpgrade:
            pass  # answered by then, for the last time
        except httptools.HttpParserError:
            # Also raised when one of our own callbacks has refused the request, to stop the parser.
            self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1", reason="not-http")
        else:
            if not self._in_body and self._head_bytes > self._limits.head_bytes:
                self._refuse_head()

    def eof_received(self) -> bool:
        """Close when the client has closed its side: whoever speaks TLS can't close only one."""
        return False

    def pause_writing(self) -> None:
        """Take nothing more from a client that does not read its answers."""
        self._is_clogged = True
        self._go_on()

    def resume_writing(self) -> None:
        """Go on when it has read them."""
        self._is_clogged = False
        self._go_on()

    # --- what the parser calls

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self._url += url
        self._parsed_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._parsed_bytes += len(name) + len(value)
        match name.lower():
            case b"content-type":
                self._content_type = value
            case b"expect" if value.lower() == b"100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            case b"content-length" if not value.isdigit() or int(value[:20]) > self._limits.body_bytes:
                self._refuse_body()

    def on_headers_complete(self) -> None:
        """Give the body its own time."""
        if self._parsed_bytes > self._limits.head_bytes:  # all of it at once
            self._refuse_head()
            return
        self._in_body = True
        self._arm(self._limits.body_seconds, self._slow)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse_body()
        if not self._is_refused:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._is_refused or self._is_ending:
            return
        request = Request(
            self._parser.get_method().decode("ascii", "replace"),
            self._url.partition(b"?")[0].decode("ascii", "replace"),
            self._content_type.partition(b";")[0].strip().lower().decode("ascii", "replace"),
            b"".join(self._body),
        )
        # Who wants to speak another protocol gets an answer in this one.
        is_last = self._all.draining or not self._parser.should_keep_alive() or self._parser.should_upgrade()
        self._all.served(self)
        reply, with_body = self._handled(request), request.method != "HEAD"
        if isinstance(reply, Reply) and not self._due:
            self._send(reply, is_last=is_last, with_body=with_body)
            self._begin_next(is_last=is_last)
        else:
            self._begin_next(is_last=is_last)
            self._put_off(reply, is_last=is_last, with_body=with_body)

    # --- our own

    def _put_off(self, reply: Reply | Awaitable[Reply], *, is_last: bool, with_body: bool = True) -> None:
        if isinstance(reply, Reply):
            later: Reply | asyncio.Future[Reply] = reply
        else:
            later = asyncio.ensure_future(reply)
            later.add_done_callback(self._send_due)
        self._due.append(_Due(later, is_last, with_body))
        self._go_on()

    def _send_due(self, _: asyncio.Future[Reply]) -> None:
        if not self._due:  # the client has gone
            return
        while self._due and not self._transport.is_closing() and (reply := self._due[0].found()):
            due = self._due.popleft()
            is_last = due.is_last or (self._all.draining and not self._due)
            self._is_ending = self._is_ending or is_last
            self._send(reply, is_last=is_last, with_body=due.with_body)
        self._go_on()

    def _go_on(self) -> None:
        """Read on, unless the client has to read, or to wait, first."""
        if self._transport.is_closing():
            return
        if self._due or self._is_clogged:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
        self._wait()

    def _handled(self, request: Request) -> Reply | Awaitable[Reply]:
        try:
            return self._all.handle(request)
        except Exception as bug:  # noqa: BLE001 - the parser would take it for a fault of the client's
            event(logging.ERROR, "bug", error=bug, path=request.path)
            return _BUG

    def _begin_next(self, *, is_last: bool) -> None:
        self._url, self._content_type, self._body = b"", b"", []
        self._body_bytes = self._head_bytes = self._parsed_bytes = 0
        self._in_body = False
        if is_last:
            self._is_ending = True
            self._arm(self._limits.linger_seconds, self._transport.close)
        elif self._transport.is_reading():
            self._arm(self._limits.idle_seconds, self._transport.close)

    def _wait(self) -> None:
        if self._is_clogged:
            self._arm(self._limits.write_seconds, lambda: self.cut("slow-reader"))
        elif self._is_refused or self._is_ending:
            self._arm(self._limits.linger_seconds, self._transport.close)
        elif self._in_body:
            self._arm(self._limits.body_seconds, self._slow)
        else:
            self._arm(self._limits.head_seconds if self._head_bytes else self._limits.idle_seconds, self._slow)

    def _send(self, reply: Reply, *, is_last: bool, with_body: bool = True) -> None:
        lines = [
            f"HTTP/1.1 {reply.status.value} {reply.status.phrase}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
        ]
        if reply.allow:
            lines.append(f"Allow: {reply.allow}")
        if is_last:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        # Two writes would be two records of TLS.
        self._transport.write(head + reply.body if with_body else head)

    def _refuse_head(self) -> None:
        reason = f"the head is larger than {self._limits.head_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason, reason="head-size")

    def _refuse_body(self) -> None:
        reason = f"the body is larger than {self._limits.body_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason, reason="body-size")

    def _slow(self) -> None:
        if self._head_bytes == 0:
            self._close("idle")
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time", reason="slow-request")

    def _refuse(self, status: HTTPStatus, message: str, *, reason: str) -> None:
        """Tell the client what is wrong, and close the connection a moment later: at once might lose the words."""
        if self._is_refused or self._is_ending or self._transport.is_closing():
            return
        self._is_refused = True
        self._body = []
        self._count(reason)
        reply = Reply(status, f"{message}\n".encode())
        if self._due:
            self._put_off(reply, is_last=True)
        else:
            self._send(reply, is_last=True)
            self._arm(self._limits.linger_seconds, self._transport.close)

    def _close(self, reason: str) -> None:
        self._count(reason)
        self._transport.close()

    def close_if_idle(self) -> None:
        """Close the connection, unless a request is on its way in or an answer on its way out."""
        if self._head_bytes == 0 and not self._due and not self._transport.is_closing():
            self._close("shutdown")

    def cut(self, reason: str) -> None:
        """End the connection at once."""
        self._count(reason)
        self._transport.abort()

    def _count(self, reason: str) -> None:
        self._all.metrics.closed.labels(reason).inc()
        event(logging.DEBUG, "closed", reason=reason)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        if not self._due:  # else nobody is slow but we
            self._timer = self._loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
