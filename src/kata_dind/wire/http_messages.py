"""HTTP/1.1 on one connection, followed from the side: where each message begins and ends, and which request waits for
a decision. Pure: bytes come in, bytes and decisions come out.

Whatever is not understood passes unchanged and is not followed any further: dockerd has the last word on what a request
means. A library would follow it, too, but docs/decisions/binds.md tells why none does.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

MOST_HEAD_BYTES = 1 << 20
"""The longest head that dockerd reads. Source: Go's net/http, DefaultMaxHeaderBytes."""

_MOST_SIZE_LINE_BYTES = 4096
"""The longest line with the size of a chunk. Source: Go's net/http/internal, maxLineLength."""

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_METHOD = re.compile(rb"[A-Z]{1,32}(?: |$)")
_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.([01])")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_SIZE = re.compile(rb"\s*([0-9A-Fa-f]{1,15})\s*(?:;.*)?\s*", re.DOTALL)

_HIJACKING = re.compile(r"/(?:attach|exec/[^/]+/start|session|grpc)$")

_CONTINUE, _SWITCHED = 100, 101
_WITHOUT_BODY = frozenset((204, 304))


class Broken(Exception):
    """The bytes are not HTTP as we know it."""


class Request(NamedTuple):
    """The head of a request."""

    method: str
    target: str
    fields: dict[str, str]
    """By names in small letters; the values of a field that is repeated are joined by commas."""
    is_last: bool
    """Whether the client expects the connection to be closed after the answer."""


class Held:
    """A request that waits for a decision: set `refused` for one that must not be passed on."""

    def __init__(self, request: Request, whole: bytes, body: bytes) -> None:
        self.request = request
        self.whole = whole
        """What to pass on, unless it is refused."""
        self.body = body
        """Its body, without the framing of chunks."""
        self.refused = False


class TooLong(NamedTuple):
    """A request that had to be held and has too long a body: nothing that follows on the connection is understood."""

    request: Request


class Invitation:
    """The client of a request that is held waits to be told `100 Continue`."""


Step = bytes | Held | TooLong | Invitation
"""What to do with the client's bytes: pass some on, decide about a request, or tell the client something."""


class Body:
    """Finds the end of one message's body; `length` is None for chunks."""

    def __init__(self, length: int | None) -> None:
        self.announced = self._left = length or 0
        self._chunked = length is None
        self._line = bytearray()
        self._in_trailer = False
        self.ended = length == 0

    def take(self, data: bytes, start: int) -> int:
        """Return up to where the bytes from `start` on belong to the body. Raises Broken."""
        if not self._chunked:
            end = min(len(data), start + self._left)
            self._left -= end - start
            self.ended = not self._left
            return end
        at = start
        while at < len(data) and not self.ended:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                at = self._take_line(data, at)
        return at

    def _take_line(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start) + 1
        self._line += data[start : end or len(data)]
        if len(self._line) > _MOST_SIZE_LINE_BYTES:
            raise Broken("a line of chunks that does not end")
        if not end:
            return len(data)
        line, self._line = bytes(self._line), bytearray()
        if self._in_trailer:
            self.ended = line in (b"\n", b"\r\n")
        else:
            size = chunk_size(line)
            self._in_trailer = size == 0
            self._left = size and size + 2  # with the end of the line that follows
        return end


class Conversation:
    """One connection: what the client sends, in steps, and what the server answers, which is only watched.

    `holds` tells by method and path whether a request waits for a decision.
    """

    def __init__(self, holds: Callable[[str, str], bool], *, most_held_bytes: int) -> None:
        self._holds = holds
        self._most_held_bytes = most_held_bytes
        self._head = bytearray()
        self._request: Request | None = None
        """The request whose body comes next."""
        self._body: Body | None = None
        self._held: bytearray | None = None
        self._held_head_bytes = 0
        self._server_head = bytearray()
        self._server_body: Body | None = None
        self._unanswered: deque[tuple[Request, bool]] = deque()
        """Requests that were passed on, and whether the connection may leave HTTP with their answer."""
        self._perhaps_raw = False
        """Whether the last request may make the connection leave HTTP, and is not answered yet."""
        self.is_raw = False
        """Whether the connection is not followed any further, or has left HTTP: all bytes pass."""

    @property
    def is_idle(self) -> bool:
        """Whether every request that was passed on has been answered in full, so that an answer may be given here."""
        return not self._unanswered

    # --- from the client

    def from_client(self, data: bytes) -> Iterator[Step]:
        """Take bytes of the client. Each step must be carried out before the next is asked for."""
        at = 0
        try:
            while at < len(data):
                if self.is_raw or self._perhaps_raw:
                    # Nobody has a reason to send a further request before such an answer.
                    self.is_raw = True
                    yield data[at:] if at else data
                    return
                if self._body is None:
                    at = self._take_head(data, at)
                    if self._request is None:
                        continue
                    yield from self._begin_body()
                else:
                    start, at = at, self._body.take(data, at)
                    yield from self._carry(data[start:at] if start or at < len(data) else data)
                if self._body is not None and self._body.ended:
                    yield from self._end_request()
        except Broken:
            self.is_raw = True
            kept = bytes(self._held or b"") + bytes(self._head)
            self._held, self._head = None, bytearray()
            yield kept + data[at:]

    def at_end(self) -> bytes:
        """Return what must still be passed on when the client has said that it sends no more.

        A request that waits for a decision and is not whole is dropped.
        """
        kept, self._head = bytes(self._head), bytearray()
        return kept

    def _take_head(self, data: bytes, at: int) -> int:
        known = len(self._head)
        self._head += data[at : at + MOST_HEAD_BYTES + 1]
        if not _METHOD.match(self._head[:33]):
            return self._not_a_head(at, known)
        found = _END_OF_HEAD.search(self._head, max(0, known - 2))
        if found is None:
            if len(self._head) > MOST_HEAD_BYTES:
                return self._not_a_head(at, known)
            return len(data)
        used = found.end() - known
        del self._head[found.end() :]
        try:
            self._request, self._body = _parse_request(bytes(self._head))
        except Broken:
            return self._not_a_head(at, known)
        return at + used

    def _not_a_head(self, at: int, known: int) -> int:
        """Leave to `from_client` what this call has brought, and raise Broken."""
        del self._head[known:]
        raise Broken("not the head of a request")

    def _begin_body(self) -> Iterator[Step]:
        assert self._request is not None
        request, head = self._request, bytes(self._head)
        self._head = bytearray()
        if self._holds(request.method, path_of(request.target)):
            waits = "100-continue" in request.fields.get("expect", "").lower()
            self._held = bytearray(_without_expect(head) if waits else head)
            self._held_head_bytes = len(self._held)
            if self._body is not None and self._body.announced > self._most_held_bytes:
                yield from self._give_up(request)
            elif waits and not (self._body and self._body.ended):
                yield Invitation()
        else:
            yield from self._passed(request, head)

    def _carry(self, data: bytes) -> Iterator[Step]:
        if self._held is None:
            yield data
            return
        self._held += data
        if len(self._held) - self._held_head_bytes > self._most_held_bytes:
            assert self._request is not None
            yield from self._give_up(self._request)

    def _give_up(self, request: Request) -> Iterator[Step]:
        self._held = self._request = self._body = None
        self.is_raw = True
        yield TooLong(request)

    def _end_request(self) -> Iterator[Step]:
        request, whole = self._request, self._held
        self._request = self._body = self._held = None
        if whole is None:
            self._perhaps_raw = bool(self._unanswered) and self._unanswered[-1][1]
            return
        assert request is not None
        body = bytes(whole[self._held_head_bytes :])
        held = Held(request, bytes(whole), dechunked(body) if _is_chunked(request.fields) else body)
        yield held
        if not held.refused:
            yield from self._passed(request, held.whole)

    def _passed(self, request: Request, data: bytes) -> Iterator[Step]:
        leaves = "upgrade" in request.fields or request.method == "CONNECT" or _is_hijacking(request)
        self._unanswered.append((request, leaves))
        yield data

    # --- from the server

    def from_server(self, data: bytes) -> None:
        """Watch bytes of the server."""
        at = 0
        try:
            while at < len(data) and not self.is_raw:
                body = self._server_body
                at = body.take(data, at) if body else self._take_server_head(data, at)
                if self._server_body is not None and self._server_body.ended:
                    self._server_body = None
                    self._answered()
        except Broken:
            self._leave_http()

    def _take_server_head(self, data: bytes, at: int) -> int:
        known = len(self._server_head)
        self._server_head += data[at : at + MOST_HEAD_BYTES + 1]
        found = _END_OF_HEAD.search(self._server_head, max(0, known - 2))
        if found is None:
            if len(self._server_head) > MOST_HEAD_BYTES:
                raise Broken("a head that does not end")
            return len(data)
        head = bytes(self._server_head[: found.end()])
        self._server_head = bytearray()
        self._begin_answer(*_parse_status(head))
        return at + found.end() - known

    def _begin_answer(self, status: int, fields: dict[str, str]) -> None:
        if not self._unanswered:
            raise Broken("an answer without a request")
        if status == _SWITCHED:
            self._leave_http()
        elif _CONTINUE <= status < 200:
            return
        elif self._unanswered[0][0].method == "HEAD" or status in _WITHOUT_BODY:
            self._answered()
        elif _is_chunked(fields):
            self._server_body = Body(None)
        elif "content-length" in fields:
            self._server_body = Body(_length(fields))
        else:
            self._leave_http()  # it ends with the connection, so that no other answer follows

    def _answered(self) -> None:
        _, left = self._unanswered.popleft()
        if left:
            self._perhaps_raw = False  # it has been refused, and the connection goes on

    def _leave_http(self) -> None:
        self.is_raw = True
        self._unanswered.clear()


def path_of(target: str) -> str:
    """Return the path in a request's target as a server sees it: without the host and the query, and decoded."""
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    if "%" in path:
        from urllib.parse import unquote  # which takes as long to import as all the rest, and no client needs it

        path = unquote(path)
    return "/" + path.lstrip("/") if path.startswith("//") else path


def answer(status: str, body: bytes, *, close: bool) -> bytes:
    """Return a whole answer with a JSON body."""
    more = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def chunk_size(line: bytes) -> int:
    """Return the size in the line that begins a chunk. Raises Broken."""
    match = _SIZE.fullmatch(line)
    if match is None:
        raise Broken("not the size of a chunk")
    return int(match[1], 16)


def dechunked(data: bytes) -> bytes:
    """Return what a whole body of chunks contains. Raises Broken."""
    parts, at = [], 0
    while size := chunk_size(data[at : (end := data.index(b"\n", at) + 1)]):
        parts.append(data[end : end + size])
        at = end + size + 2
    return b"".join(parts)


def _parse_request(head: bytes) -> tuple[Request, Body]:
    first, fields = _parse_head(head)
    match = _REQUEST.fullmatch(first)
    if match is None:
        raise Broken("not a request")
    connection = fields.get("connection", "").lower()
    is_last = "close" in connection or (match[3] == b"0" and "keep-alive" not in connection)
    request = Request(match[1].decode(), match[2].decode("latin-1"), fields, is_last)
    return request, Body(None if _is_chunked(fields) else _length(fields))


def _parse_status(head: bytes) -> tuple[int, dict[str, str]]:
    first, fields = _parse_head(head)
    match = _STATUS.fullmatch(first)
    if match is None:
        raise Broken("not an answer")
    return int(match[1]), fields


def _parse_head(head: bytes) -> tuple[bytes, dict[str, str]]:
    first, *lines = head.rstrip(b"\r\n").split(b"\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise Broken("not a field of a head")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return first.rstrip(b"\r"), fields


def _without_expect(head: bytes) -> bytes:
    """Leave out that the client waits for an invitation, which it has got already."""
    return b"".join(line for line in head.splitlines(keepends=True) if not line.lower().startswith(b"expect:"))


def _is_chunked(fields: dict[str, str]) -> bool:
    coding = fields.get("transfer-encoding", "").lower()
    if coding and coding != "chunked":
        raise Broken("a coding that dockerd does not know, either")
    return bool(coding)


def _length(fields: dict[str, str]) -> int:
    text = fields.get("content-length", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise Broken("not a length")
    return int(text)


def _is_hijacking(request: Request) -> bool:
    """Tell whether the answer to a request may be bytes without framing, also without an upgrade: as of old clients."""
    return request.method == "POST" and _HIJACKING.search(path_of(request.target)) is not None
