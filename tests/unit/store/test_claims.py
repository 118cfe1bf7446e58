"""Ports and addresses of running sandboxes: each has one holder, until that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import write_json
from kata_dind.store.claims import SandboxClaims, likely_address, sandbox_with_port
from kata_dind.store.sandboxes import sandboxes_directory
from kata_dind.vocabulary import Transport

_CLAIM = """
import sys
from kata_dind.store.claims import SandboxClaims
from kata_dind.vocabulary import Transport
claims = SandboxClaims()
print(claims.claim_port(Transport.TCP, 8080, "::1"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def two() -> Iterator[tuple[SandboxClaims, SandboxClaims]]:
    one, other = SandboxClaims(), SandboxClaims()
    yield one, other
    one.close()
    other.close()


def test_a_port_has_one_holder(two: tuple[SandboxClaims, SandboxClaims]) -> None:
    one, other = two
    assert one.claim_port(Transport.TCP, 8080, "127.0.0.1")
    assert one.claim_port(Transport.TCP, 8080, "127.0.0.1")
    assert not other.claim_port(Transport.TCP, 8080, "127.0.0.1")
    assert other.claim_port(Transport.UDP, 8080, "127.0.0.1")
    assert other.claim_port(Transport.TCP, 8081, "127.0.0.1")
    assert not any(other.claim_port(Transport.TCP, 8080, address) for address in ("::1", "0.0.0.0", "::"))
    one.release_port(Transport.TCP, 8080, "127.0.0.1")
    assert other.claim_port(Transport.TCP, 8080, "127.0.0.1")


def test_other_addresses_are_claimed_for_themselves(two: tuple[SandboxClaims, SandboxClaims]) -> None:
    one, other = two
    assert one.claim_port(Transport.TCP, 8080, "127.0.0.1")
    assert other.claim_port(Transport.TCP, 8080, "192.168.1.5")
    assert not one.claim_port(Transport.TCP, 8080, "192.168.1.5")
    assert one.claim_port(Transport.UDP, 8080, "192.168.1.5")
    other.release_port(Transport.TCP, 8080, "192.168.1.5")
    assert one.claim_port(Transport.TCP, 8080, "192.168.1.5")


def test_a_claim_ends_with_a_process_that_is_killed() -> None:
    claims = SandboxClaims()
    with subprocess.Popen([sys.executable, "-c", _CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert not claims.claim_port(Transport.TCP, 8080, "127.0.0.1")
        holder.kill()
        holder.wait()
        assert claims.claim_port(Transport.TCP, 8080, "127.0.0.1")
    claims.close()
    assert [path.name for path in state_directory().iterdir()] == ["claims.lock"]


def test_an_address_follows_from_the_directory_unless_another_sandbox_has_it(tmp_path: Path) -> None:
    one, other, third = (SandboxClaims() for _ in range(3))
    address = one.claim_address(tmp_path, "")
    assert address == likely_address(tmp_path)
    following = other.claim_address(tmp_path, "")
    assert following not in ("", address)
    other.close()
    assert third.claim_address(tmp_path / "renamed", following) == following
    one.close()
    third.close()


@pytest.mark.parametrize("name", ["a", "b", "ci-1", "x" * 40])
def test_an_address_is_one_of_the_loopback_and_no_common_one(name: str) -> None:
    first, second, _, last = map(int, likely_address(Path("/state/sandboxes") / name).split("."))
    assert first == 127
    assert 64 <= second < 128
    assert 1 <= last <= 254


def test_every_number_has_its_address() -> None:
    from kata_dind.store.claims import _ADDRESSES, _address_of, _number_of

    for number in (0, 1, 253, 254, 255, 254 * 256, _ADDRESSES - 1):
        assert _number_of(_address_of(number)) == number


def test_the_holder_of_a_port_is_found_by_what_its_status_says() -> None:
    for name, shared, addresses in (("has", True, ["127.0.0.1"]), ("lacks", False, ["192.168.1.5"])):
        (sandboxes_directory() / name).mkdir()
        ports = [{"protocol": "tcp", "port": 8080, "shared": shared, "addresses": addresses}]
        write_json(sandboxes_directory() / name / "status.json", {"ports": ports})
    assert sandbox_with_port(Transport.TCP, 8080, "127.0.0.1", except_for="lacks") == "has"
    assert sandbox_with_port(Transport.TCP, 8080, "127.0.0.1", except_for="has") == ""
    assert sandbox_with_port(Transport.UDP, 8080, "127.0.0.1", except_for="") == ""
    assert sandbox_with_port(Transport.TCP, 8080, "192.168.1.5", except_for="has") == "lacks"
    assert sandbox_with_port(Transport.TCP, 8080, "192.168.1.6", except_for="") == ""
