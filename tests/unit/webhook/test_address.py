"""The addresses that `webhook serve` is told to listen on."""

from __future__ import annotations

import os
import socket

import pytest

from kata_dind.errors import HostError, SpecError
from kata_dind.webhook.serving import Address, _listen, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("[::]:8443", "::", 8443), ("127.0.0.1:1", "127.0.0.1", 1), (":65535", "", 65535), ("name:80", "name", 80)],
)
def test_an_address(text: str, host: str, port: int) -> None:
    assert parse_address(text, option="--listen") == Address(host, port)


@pytest.mark.parametrize("text", ["", "8443", "[::]", "::1:80", "a:", "a:-1", "a:65536", "a:٣٤", "a:8 0"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not an address with a port"):
        parse_address(text, option="--listen")


def refusal(text: str, option: str = "--listen") -> HostError:
    with pytest.raises(HostError) as refused:
        _listen(parse_address(text, option=option)).close()
    assert refused.value.id == "webhook.port-unusable"
    return refused.value


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refusal(f"127.0.0.1:{port}", "--http-listen")
    assert error.summary == f"can't listen on 127.0.0.1:{port}: another program listens there"
    assert error.hint == f"ss -ltnp 'sport = :{port}' shows which; or choose a port with --http-listen"


@pytest.mark.parametrize(("text", "shown"), [("192.0.2.1:8443", "192.0.2.1"), ("[2001:db8::1]:8443", "[2001:db8::1]")])
def test_an_address_of_another_machine(text: str, shown: str) -> None:
    error = refusal(text)
    assert error.summary == f"can't listen on {shown}:8443: this machine has no such address"
    assert error.hint == "--listen '[::]:8443' is all addresses of this machine"


@pytest.mark.parametrize("name", ["nobody.invalid", "a..b", "x" * 64, "a\0b"])
def test_a_name_that_leads_nowhere(name: str) -> None:
    error = refusal(f"{name}:8443")
    assert error.summary == f"can't listen on {name}:8443: {name!r} is not the name of an address of this machine"
    assert error.hint == "--listen '[::]:8443' is all addresses of this machine"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_port_of_roots() -> None:
    os.seteuid(65534)
    try:
        error = refusal("127.0.0.1:1")
    finally:
        os.seteuid(0)
    assert error.summary == "can't listen on 127.0.0.1:1: only root may use so low a port"
    assert error.hint == "--listen '[::]:8443', and a Service can still offer 443"


@pytest.mark.parametrize("text", [":0", "[::]:0", "127.0.0.1:0", "localhost:0"])
def test_what_can_be_listened_on(text: str) -> None:
    with _listen(parse_address(text, option="--listen")) as listening:
        assert listening.getsockname()[1] != 0
