"""The process: loads what it needs, listens, follows files, and ends without losing a review."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import uvloop

from kata_dind.errors import HostError, SpecError
from kata_dind.host.descriptors import raise_descriptor_limit
from kata_dind.host.memory import give_free_memory_back, map_large_blocks
from kata_dind.host.small_files import text_of
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy
from kata_dind.pod.policy import Policy
from kata_dind.policies import policy_from_text
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind
from kata_dind.webhook.answering import Answering, warm_up
from kata_dind.webhook.certificates import load_certificate, serve_latest
from kata_dind.webhook.connections import Connections, Limits
from kata_dind.webhook.logs import event
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.reloads import Followed
from kata_dind.webhook.routes import Health, plain_routes, secure_routes

_BACKLOG = 2048
_HANDSHAKE_SECONDS = 10.0
_SPARE_DESCRIPTORS = 64
"""For the log, what listens, files that are read, and handshakes, which are no connections of ours yet."""
_TRIM_SECONDS = 2.0
_TRIM_CONNECTIONS = 50
_GOODBYE_SECONDS = 2.0
"""For a client to confirm the end of TLS."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host is all addresses of this machine."""

    host: str
    port: int
    option: str = field(default="--listen", compare=False)
    """Where it was given."""

    @property
    def name(self) -> str:
        """The address for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, option: str) -> Address:
    """Return the address in a text such as `[::]:8443`, `127.0.0.1:8443` or `:8443`. Raises SpecError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535 or (":" in bare and bare == host):
        raise SpecError(
            f"{option}: {text!r} is not an address with a port", id="spec.wrong-value", hint=f"{option} '[::]:8443'"
        )
    return Address(bare, int(port), option)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process was told."""

    listen: Address
    certificate_file: str
    key_file: str
    policy_file: str = ""
    """Empty: the default policy."""
    http_listen: Address | None = None
    reload_seconds: float = 5.0
    grace_seconds: float = 10.0
    drain_seconds: float = 3.0
    """How long new connections are still taken after a signal, since the cluster learns of it a moment later."""
    limits: Limits = field(default_factory=Limits)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises a KataDindError for what keeps the process from becoming ready."""
    started = time.monotonic()
    metrics = Metrics()
    policy = _follow_policy(settings, metrics)
    files = [settings.certificate_file, settings.key_file]
    certificate = Followed("certificate", files, load_certificate, metrics.certificate)
    metrics.policy_loaded.set_function(lambda: policy.loaded_at)
    metrics.certificate_expiry.set_function(lambda: certificate.current.expires)
    for kind in DataRootKind:  # the first review should not wait for them
        entrypoint_for_pods(Copy(kind))
    warm_up()
    _settle_memory()
    uvloop.run(_run(settings, metrics, Health(certificate, policy), started))


def _settle_memory() -> None:
    # uvloop has a buffer of this size for each connection, of which few read more than two pages. Nothing that an
    # ordinary review needs is as large: to map a block, to touch its pages and to unmap it takes tens of microseconds.
    map_large_blocks(256 << 10)
    # What is there now stays: collections need not look at it again, nor run for the few objects of a review.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def _keep_memory_low(all_connections: Sequence[Connections]) -> None:
    """Give back what closed connections leave between those that are open: without it, they grow us for hours."""
    before = 0
    while True:
        await asyncio.sleep(_TRIM_SECONDS)
        closed = sum(each.closed_count for each in all_connections)
        if closed - before >= _TRIM_CONNECTIONS:
            before = closed
            give_free_memory_back()


def _follow_policy(settings: Settings, metrics: Metrics) -> Followed[Policy]:
    name = settings.policy_file

    def parse(*contents: bytes) -> Policy:
        return policy_from_text(text_of(contents[0], name=name), name=name) if contents else Policy()

    return Followed("policy", [name] if name else [], parse, metrics.policy)


async def _run(settings: Settings, metrics: Metrics, health: Health, started: float) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unexpected)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    answering = Answering(lambda: health.policy.current, metrics)
    limits = _within_descriptors(settings.limits)
    secure = Connections("https", secure_routes(answering, health), metrics, limits)
    plain = Connections("http", plain_routes(metrics, health), metrics, limits)
    context = serve_latest(lambda: health.certificate.current)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_listening(settings.listen, secure, context))
        if settings.http_listen is not None:
            await stack.enter_async_context(_listening(settings.http_listen, plain))
        for followed in (health.certificate, health.policy):
            following = asyncio.create_task(followed.follow(every_seconds=settings.reload_seconds))
            stack.callback(following.cancel)
        stack.callback(asyncio.create_task(_keep_memory_low((secure, plain))).cancel)
        health.listening = True
        event(logging.INFO, "ready", version=__version__, seconds=round(time.monotonic() - started, 3))
        await ended.wait()
        health.stopping = secure.draining = plain.draining = True
        event(logging.INFO, "stopping", connections=secure.count)
        await asyncio.sleep(min(settings.drain_seconds, settings.grace_seconds))
    rest_seconds = max(0.0, settings.grace_seconds - settings.drain_seconds)
    await asyncio.gather(*(connections.end(within_seconds=rest_seconds) for connections in (secure, plain)))
    event(logging.INFO, "stopped")


def _within_descriptors(limits: Limits) -> Limits:
    """Return limits with as many connections for each port as this process may have descriptors."""
    most = (raise_descriptor_limit() - _SPARE_DESCRIPTORS) // 2
    return replace(limits, connections=max(1, min(limits.connections, most)))


@contextlib.asynccontextmanager
async def _listening(
    address: Address, connections: Connections, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Take connections for the length of the block; those that are open by then stay."""
    listening = _listen(address)
    server = await asyncio.get_running_loop().create_server(
        connections,
        sock=listening,
        backlog=_BACKLOG,
        ssl=context,
        ssl_handshake_timeout=_HANDSHAKE_SECONDS if context else None,
        ssl_shutdown_timeout=_GOODBYE_SECONDS if context else None,
    )
    host, port = listening.getsockname()[:2]
    event(logging.INFO, "listening", port=connections.port, address=Address(host, port).name)
    try:
        yield
    finally:
        server.close()


def _listen(address: Address) -> socket.socket:
    """Listen on an address; all addresses of IPv6 are all of IPv4 as well, and those alone where IPv6 is off."""
    host = address.host
    is_all = host in ("", "::")
    if is_all and not socket.has_dualstack_ipv6():
        host, is_all = "0.0.0.0", False
    family = socket.AF_INET6 if is_all or ":" in host else socket.AF_INET
    try:
        # A wrong name would leak a socket in create_server.
        socket.getaddrinfo(host or None, address.port, family, socket.SOCK_STREAM)
        return socket.create_server((host, address.port), family=family, backlog=_BACKLOG, dualstack_ipv6=is_all)
    except (OSError, ValueError) as error:  # ValueError: a name that no name server is asked for, such as `a..b`
        why, hint = _why_unusable(address, error)
        raise HostError(f"can't listen on {address.name}: {why}", id="webhook.port-unusable", hint=hint) from error


def _why_unusable(address: Address, error: OSError | ValueError) -> tuple[str, str]:
    """Return why an address can't be listened on, and what to do."""
    everywhere = f"{address.option} '[::]:{address.port}' is all addresses of this machine"
    if isinstance(error, socket.gaierror | ValueError):
        return f"{address.host!r} is not the name of an address of this machine", everywhere
    match error.errno:
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return "this machine has no such address", everywhere
        case errno.EADDRINUSE:
            listener = f"ss -ltnp 'sport = :{address.port}'"
            return "another program listens there", f"{listener} shows which; or choose a port with {address.option}"
        case errno.EACCES:
            return "only root may use so low a port", f"{address.option} '[::]:8443', and a Service can still offer 443"
        case number:
            return os.strerror(number or 0), ""


def _log_unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError):  # what a client did: also the errors of TLS are among these
        event(logging.DEBUG, "connection-broken", reason=type(error).__name__)
    else:
        event(logging.ERROR, "bug", error=error, message=str(context.get("message", "")))
