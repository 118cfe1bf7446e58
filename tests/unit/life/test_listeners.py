"""What listens on this host for published ports; the guest is a server of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kata_dind.errors import SandboxError
from kata_dind.life.listeners import Listeners, PortRefused, shared_addresses
from kata_dind.store.claims import SandboxClaims
from kata_dind.vocabulary import Transport
from kata_dind.wire.ports import PublishedPort
from tests.ipv6 import has_ipv6

OWN, OTHERS = "127.64.7.1", "127.64.7.2"
ON = ["127.0.0.1", "::1"]
HERE = ON if has_ipv6() else ON[:1]


class LocalPorts:
    """Ports of a guest that says its name to whoever connects."""

    host_ports: tuple[int, ...] = ()

    def __init__(self, place: tuple[str, int]) -> None:
        self._place = place
        self.forwards: list[tuple[str, int]] = []
        self.refuses = False

    async def forward(self, transport: Transport, port: int) -> LocalForward:
        if self.refuses:
            raise SandboxError("QEMU can't forward the port", id="vm.port-not-forwarded")
        self.forwards.append((transport, port))
        return LocalForward(self, (transport, port), self._place)

    async def listen(self, port: int) -> socket.socket:
        raise NotImplementedError


class LocalForward:
    """One of them."""

    def __init__(self, ports: LocalPorts, what: tuple[str, int], place: tuple[str, int]) -> None:
        self._ports, self._what, self._place = ports, what, place

    async def connect(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, self._place)
        return made

    async def close(self) -> None:
        self._ports.forwards.remove(self._what)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def web(port: int, address: str = "0.0.0.0", *, retried: bool = True) -> PublishedPort:
    return PublishedPort("tcp", address, port, "172.17.0.2", 80, retried)


async def said(address: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def guest(name: str, own: str, *, extra: tuple[str, ...] = ()) -> AsyncIterator[tuple[Listeners, LocalPorts]]:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    ports, claims = LocalPorts(server.sockets[0].getsockname()), SandboxClaims()
    listeners = Listeners(name, own=own, extra=extra, claims=claims, ports=ports)
    async with server:
        try:
            yield listeners, ports
        finally:
            await listeners.close_all()
            claims.close()


def running(scenario: Callable[[int], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(free_port()), 20))


@pytest.mark.parametrize(
    ("published_on", "extra", "addresses"),
    [
        ("0.0.0.0", (), ON),
        ("::", (), ON),
        ("198.18.1.15", (), ON),
        ("127.0.0.1", ("192.0.2.1",), ["127.0.0.1"]),
        ("127.0.0.9", (), ["127.0.0.1"]),
        ("::1", ("192.0.2.1",), ["::1"]),
        ("0.0.0.0", ("192.0.2.1",), ["192.0.2.1", *ON]),
        ("0.0.0.0", ("0.0.0.0",), ["0.0.0.0", "::1"]),
        ("0.0.0.0", ("0.0.0.0", "::"), ["0.0.0.0", "::"]),
    ],
)
def test_the_addresses_of_a_port(published_on: str, extra: tuple[str, ...], addresses: list[str]) -> None:
    assert shared_addresses(published_on, extra) == addresses


def test_a_port_is_there_until_both_of_its_halves_are_closed() -> None:
    async def scenario(port: int) -> None:
        async with guest("a", OWN) as (listeners, ports):
            await listeners.open(1, web(port), must=False)
            await listeners.open(2, web(port, "::"), must=False)
            assert ports.forwards == [("tcp", port)]
            (known,) = listeners.described()
            assert (known["addresses"], known["shared"], known["warnings"]) == ([*HERE, OWN], True, [])
            for address in (*HERE, OWN):
                assert await said(address, port) == b"a"
            await listeners.close(1)
            assert await said("127.0.0.1", port) == b"a"
            await listeners.close(2)
            assert (listeners.described(), ports.forwards) == ([], [])
            with pytest.raises(ConnectionRefusedError):
                await said("127.0.0.1", port)

    running(scenario)


def test_a_second_sandbox_has_its_own_address_and_is_told() -> None:
    async def scenario(port: int) -> None:
        async with guest("a", OWN) as (first, _), guest("b", OTHERS) as (second, _):
            await first.open(1, web(port), must=False)
            await second.open(1, web(port), must=False)
            (known,) = second.described()
            assert (known["addresses"], known["shared"]) == ([OTHERS], False)
            assert known["warnings"][0] == (
                f"port {port}/tcp of 127.0.0.1 belongs to another sandbox; here it is {OTHERS}:{port}"
            )
            assert [await said(address, port) for address in ("127.0.0.1", OWN, OTHERS)] == [b"a", b"a", b"b"]

    running(scenario)


def test_two_sandboxes_with_all_addresses_of_the_host() -> None:
    async def scenario(port: int) -> None:
        async with (
            guest("a", OWN, extra=("0.0.0.0",)) as (first, _),
            guest("b", OTHERS, extra=("0.0.0.0",)) as (second, _),
        ):
            await first.open(1, web(port), must=False)
            await second.open(1, web(port), must=False)
            places = ("127.0.0.1", "127.0.0.2", OWN, OTHERS)
            assert [await said(address, port) for address in places] == [b"a", b"a", b"a", b"b"]

    running(scenario)


@pytest.mark.parametrize("extra", [(), ("127.0.0.4",)])
def test_an_address_that_only_the_second_sandbox_publishes_on_is_its_own(extra: tuple[str, ...]) -> None:
    async def scenario(port: int) -> None:
        async with (
            guest("a", OWN, extra=extra) as (first, _),
            guest("b", OTHERS, extra=("127.0.0.5",)) as (second, _),
        ):
            await first.open(1, web(port), must=False)
            await second.open(1, web(port), must=False)
            assert [await said(address, port) for address in ("127.0.0.1", "127.0.0.5", OTHERS)] == [b"a", b"b", b"b"]
            (known,) = second.described()
            assert (known["addresses"], known["shared"]) == (["127.0.0.5", OTHERS], False)
            assert not any("127.0.0.5 belongs" in warning for warning in known["warnings"])
            await second.close(1)
            await first.close(1)
            await second.open(2, web(port), must=False)
            assert second.described()[0]["shared"]

    running(scenario)


@pytest.mark.parametrize(("first_on", "second_on"), [("0.0.0.0", "127.0.0.5"), ("127.0.0.5", "0.0.0.0")])
def test_all_addresses_of_the_host_and_one_of_them(first_on: str, second_on: str) -> None:
    async def scenario(port: int) -> None:
        async with (
            guest("a", OWN, extra=(first_on,)) as (first, _),
            guest("b", OTHERS, extra=(second_on,)) as (second, _),
        ):
            await first.open(1, web(port), must=False)
            await second.open(1, web(port), must=False)
            assert [await said(address, port) for address in ("127.0.0.1", "127.0.0.5", OTHERS)] == [b"a", b"a", b"b"]
            (known,) = second.described()
            assert any(f"of {second_on} belongs to another sandbox" in warning for warning in known["warnings"])

    running(scenario)


@pytest.mark.parametrize("address", ["0.0.0.0", *HERE])
def test_what_another_program_has_is_refused_in_dockers_words(address: str) -> None:
    async def scenario(port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, port), family=family):
            async with guest("a", OWN) as (listeners, ports):
                shown = "[::1]" if ":" in address else "127.0.0.1"
                words = rf"Bind for {shown}:{port} failed: port is already allocated".replace("[", r"\[")
                with pytest.raises(PortRefused, match=words):
                    await listeners.open(1, web(port), must=False)
                assert (listeners.described(), ports.forwards) == ([], [])
        async with guest("a", OWN) as (listeners, _):
            await listeners.open(1, web(port), must=False)

    running(scenario)


def test_a_port_of_a_container_that_runs_already_is_told_instead() -> None:
    async def scenario(port: int) -> None:
        with socket.create_server(("127.0.0.1", port)):
            async with guest("a", OWN) as (listeners, _):
                await listeners.open(1, web(port), must=True)
                (known,) = listeners.described()
                assert (known["addresses"], known["warnings"]) == (
                    [*HERE[1:], OWN],
                    [f"Bind for 127.0.0.1:{port} failed: port is already allocated"],
                )

    running(scenario)


def test_a_number_that_dockerd_drew_and_does_not_draw_again_is_told_instead() -> None:
    async def scenario(unused: int) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", next(port for port in range(59000, 60000) if _is_free(port))))
            taken.listen()
            port = taken.getsockname()[1]
            async with guest("a", OWN) as (listeners, _):
                await listeners.open(1, web(port, retried=False), must=False)
                assert listeners.described()[0]["addresses"] == [*HERE[1:], OWN]
                with pytest.raises(PortRefused):
                    await listeners.open(2, web(port, retried=True), must=False)

    running(scenario)


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def test_an_address_that_this_host_lacks_is_told() -> None:
    async def scenario(port: int) -> None:
        async with guest("a", OWN, extra=("192.0.2.1",)) as (listeners, _):
            await listeners.open(1, web(port), must=False)
            (known,) = listeners.described()
            assert known["addresses"] == [*HERE, OWN]
            assert known["warnings"] == [f"cannot listen on 192.0.2.1:{port}: Cannot assign requested address"]

    running(scenario)


def test_what_cannot_be_forwarded_is_refused() -> None:
    async def scenario(port: int) -> None:
        async with guest("a", OWN) as (listeners, ports):
            ports.refuses = True
            with pytest.raises(PortRefused, match="QEMU can't forward the port"):
                await listeners.open(1, web(port), must=False)
            sctp = web(port)._replace(protocol="sctp")
            with pytest.raises(PortRefused, match="a port of sctp can't be reached"):
                await listeners.open(2, sctp, must=False)
            assert listeners.described() == []

    running(scenario)


def test_datagrams_of_a_number_that_is_opened_anew_at_once() -> None:
    async def scenario(port: int) -> None:
        async with guest("a", OWN) as (listeners, _ports):
            for _ in range(3):
                await listeners.open(1, web(port)._replace(protocol="udp"), must=False)
                assert listeners.described()[0]["addresses"] == [*HERE, OWN]
                await listeners.close(1)

    running(scenario)
