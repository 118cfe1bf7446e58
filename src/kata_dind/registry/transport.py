"""HTTP for lookups, on the standard library: one deadline for all, checked addresses, limited bodies and redirects.

`http.client` opens its connections through us, which no client library offers in full: a name is resolved once, each
address is checked before it is connected to, and every single read ends at the deadline, so that a server that sends a
byte now and then gains nothing. Credentials go to no other server than the one that they are for.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from kata_dind.registry.reach import Address
from kata_dind.registry.unread import Unread
from kata_dind.version import __version__

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MOST_UNWANTED_BYTES = 64 << 10
"""What is read of an answer that is not the one that was hoped for."""

_FRESH = 0.9
"""Which part of a deadline's time has to be left."""

RefusedAddress = Callable[[str, Address], str]
"""Returns why an address, to which a host leads, is not connected to; empty if it may be."""

IsPlain = Callable[[str], bool]
"""Tells whether a host may be asked without TLS."""


class Deadline:
    """The moment at which a lookup ends, whatever it waits for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_seconds(self) -> float:
        """Return how long there is still; never less than 0."""
        return max(0.0, self._end - time.monotonic())

    def is_fresh(self) -> bool:
        """Tell whether nearly all of the time is still there, so that who misses the deadline from now on is slow."""
        return self.left_seconds() >= _FRESH * self.seconds

    def require_seconds(self) -> float:
        """Return how long there is still. Raises TimeoutError if nothing is left."""
        left = self.left_seconds()
        if not left:
            raise TimeoutError
        return left


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, after redirects."""

    status: int
    headers: Mapping[str, str]
    """By names in small letters; several of one name are joined by commas."""
    body: bytes
    is_redirected: bool = False
    """Another server than the one that was asked has said it."""


class Session:
    """The requests of one lookup. Its connections are used again, and end with it."""

    def __init__(
        self,
        deadline: Deadline,
        *,
        tls: Callable[[], ssl.SSLContext],
        refused_address: RefusedAddress,
        is_plain: IsPlain,
    ) -> None:
        self.deadline = deadline
        self._tls = tls
        self._refused_address = refused_address
        self._is_plain = is_plain
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open.values():
            connection.close()

    def get(
        self,
        url: str,
        *,
        most_bytes: int,
        authorization: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer to a request, redirects followed. Raises Unread.

        `authorization` is sent to the server of the URL alone. Of an answer that is no success, little is read.
        """
        first = parts = self._parts(url)
        for _ in range(_MOST_REDIRECTS + 1):
            is_same = _origin(parts) == _origin(first)
            sent = {**(headers or {}), "User-Agent": f"kata-dind/{__version__}"}
            if authorization and is_same:
                sent["Authorization"] = authorization
            answer = self._answer(parts, sent, most_bytes)
            if answer.status not in _REDIRECTS:
                return replace(answer, is_redirected=not is_same)
            parts = self._parts(urljoin(parts.geturl(), answer.headers.get("location", "")))
        raise Unread(f"{first.hostname} redirects again and again")

    def _parts(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            is_whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise Unread("it leads to something that is not a URL") from None
        if not is_whole or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise Unread("it leads to a URL that is not one of a server")
        if parts.scheme == "http" and not self._is_plain(parts.netloc):
            raise Unread(f"{parts.hostname} would be asked without TLS, which the policy does not allow")
        return parts._replace(fragment="")

    def _answer(self, parts: SplitResult, headers: Mapping[str, str], most_bytes: int) -> Answer:
        is_kept = _origin(parts) in self._open
        try:
            try:
                return self._exchange(parts, headers, most_bytes)
            except ConnectionError:
                if not is_kept:
                    raise
                # The server has ended a connection that we had kept.
                self._close(parts)
                return self._exchange(parts, headers, most_bytes)
        except TimeoutError:
            self._close(parts)
            waited = f"{self.deadline.seconds:g} s"
            raise Unread(f"{parts.hostname} did not answer in full in {waited}", is_hosts=True, is_late=True) from None
        except ssl.SSLCertVerificationError as error:
            self._close(parts)
            raise Unread(f"the certificate of {parts.hostname} is not valid here ({error.verify_message})") from None
        except OSError as error:
            self._close(parts)
            said = error.strerror or str(error) or type(error).__name__
            raise Unread(f"{parts.hostname} can't be asked ({said})", is_hosts=True) from None
        except (http.client.HTTPException, ValueError):
            self._close(parts)
            raise Unread(f"{parts.hostname} does not speak HTTP as it should") from None

    def _exchange(self, parts: SplitResult, headers: Mapping[str, str], most_bytes: int) -> Answer:
        connection = self._open.get(_origin(parts)) or _Connection(parts, self._tls, self)
        self._open[_origin(parts)] = connection
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers=dict(headers))
        with contextlib.closing(connection.getresponse()) as response:
            is_success = 200 <= response.status < 300
            body = _body(response, most_bytes) if is_success else response.read(_MOST_UNWANTED_BYTES)
            if response.will_close or not response.isclosed():
                self._close(parts)
            names = {name.lower() for name in response.headers}
            found = {name: ", ".join(map(str, response.headers.get_all(name, []))) for name in names}
            return Answer(response.status, found, body)

    def _close(self, parts: SplitResult) -> None:
        connection = self._open.pop(_origin(parts), None)
        if connection is not None:
            connection.close()

    def opened_socket(self, host_named: str, host: str, port: int) -> socket.socket:
        """Connect to the first address of a host that is allowed and answers. Raises OSError, Unread."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        refusal, failure = "", OSError("it has no address")
        for family, kind, protocol, _, address in found:
            refusal = self._refused_address(host_named, ipaddress.ip_address(str(address[0]).partition("%")[0]))
            if refusal:
                continue
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self.deadline.require_seconds())
                opened.connect(address)
            except OSError as error:
                opened.close()
                failure = error
                if isinstance(error, TimeoutError):
                    raise
                continue
            return opened
        if refusal:
            raise Unread(refusal)
        raise failure


def _origin(parts: SplitResult) -> tuple[str, str]:
    return parts.scheme, parts.netloc


def _body(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    promised = response.length
    body = response.read(most_bytes + 1) if promised is None or promised <= most_bytes else None
    if body is None or len(body) > most_bytes:
        raise Unread(f"its registry sends more than the {most_bytes >> 10} KiB that are read")
    if promised is not None and len(body) < promised:
        raise http.client.IncompleteRead(body)
    return body


class _Connection(http.client.HTTPConnection):
    """A connection that our session opens."""

    def __init__(self, parts: SplitResult, tls: Callable[[], ssl.SSLContext], session: Session) -> None:
        self._tls = tls() if parts.scheme == "https" else None
        # What http.client leaves out of the Host header.
        self.default_port = 80 if self._tls is None else 443
        super().__init__(str(parts.hostname), parts.port or self.default_port)
        self._named = parts.netloc
        self._session = session

    def connect(self) -> None:
        opened = self._session.opened_socket(self._named, self.host, self.port)
        try:
            # The time for all of the handshake.
            opened.settimeout(self._session.deadline.require_seconds())
            if self._tls is not None:
                opened = self._tls.wrap_socket(opened, server_hostname=self.host)
        except BaseException:
            opened.close()
            raise
        self.sock = cast(socket.socket, _Timed(opened, self._session.deadline))


class _Timed:
    """As much of a socket as http.client uses, with a deadline for each step."""

    def __init__(self, opened: socket.socket, deadline: Deadline) -> None:
        self._socket = opened
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(self._deadline.require_seconds())
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reader(self._socket, self._deadline))

    def close(self) -> None:
        # An answer that is still read keeps it open.
        self._socket.close()


class _Reader(io.RawIOBase):
    """The bytes that come in."""

    def __init__(self, opened: socket.socket, deadline: Deadline) -> None:
        self._socket = opened
        self._raw = opened.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._deadline.require_seconds())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
