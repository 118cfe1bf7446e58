"""Ports that containers publish with `docker run -p`, reached from this host: from clones, as users have them.

A server is there a moment after its container has started, so each test asks it until it answers; but what listens on
this host is there when `docker run` returns, and that is looked at without waiting.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.store.claims import LOCALHOST
from tests.ipv6 import has_ipv6
from tests.vm.driver import COMMAND_SECONDS, SandboxDriver, kata_dind, states, succeed, wait_until
from tests.vm.namespace import make_network_namespace
from tests.web_clients import get, listens

pytestmark = pytest.mark.requires("qemu")

WEB = "echo {answer} >/index.html; exec /bin/busybox httpd -vv -f -p 80 -h /"
SLEEP = "exec /bin/busybox sleep 3600"

# busybox has no server of UDP; this one runs in the network of the container.
_ECHO = (
    "nsenter --net=/proc/$(docker inspect --format '{{{{.State.Pid}}}}' {container})/ns/net setsid perl -MSocket -e "
    "'socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(53, INADDR_ANY)); "
    "while ($a = recv(S, $d, 9999, 0)) {{ send(S, $d, 0, $a) }}' </dev/null >/dev/null 2>&1 &"
)


def free_ports(count: int = 1) -> range:
    """Return numbers in a row that no program of this host has on any address."""
    for first in range(20080, 30000, 10):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    taken = stack.enter_context(socket.socket(socket.AF_INET6, kind))
                    taken.bind(("::", port))
            return range(first, first + count)
    raise AssertionError("no port is free")


def docker(sandbox: SandboxDriver, *words: str, fails: bool = False, with_errors: bool = False) -> str:
    done = kata_dind("docker", sandbox.name, "--", *words)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout.strip() + (done.stderr if fails or with_errors else "")


def publish(sandbox: SandboxDriver, *options: str, script: str = WEB.format(answer="web"), fails: bool = False) -> str:
    image = ("--entrypoint", "/bin/busybox", "kata-dind/hello", "sh", "-c", script)
    return docker(sandbox, "run", "--detach", *options, *image, fails=fails)


def echo(address: str, port: int, words: bytes) -> bytes:
    """Ask a UDP server until it answers."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(2)
            asking.sendto(words, (address, port))
            with contextlib.suppress(OSError):
                return asking.recv(4096)
        assert time.monotonic() < deadline, f"{address}:{port} does not answer"


def address_of(sandbox: SandboxDriver) -> str:
    return str(json.loads(succeed("env", sandbox.name, "--json"))["TESTCONTAINERS_HOST_OVERRIDE"])


def ports_of(sandbox: SandboxDriver) -> list[dict[str, Any]]:
    return list(json.loads(succeed("port", sandbox.name, "--json")))


def has_no_ports(sandbox: SandboxDriver) -> bool:
    return not ports_of(sandbox)


@contextlib.contextmanager
def clone_of(seed: str, name: str, *options: str) -> Iterator[SandboxDriver]:
    succeed("up", name, "--seed", seed, *options)
    try:
        yield SandboxDriver(name)
    finally:
        succeed("rm", "--force", name)


@pytest.fixture(scope="module")
def both(small_seed: str) -> Iterator[tuple[SandboxDriver, SandboxDriver]]:
    with clone_of(small_seed, "ports-1") as one, clone_of(small_seed, "ports-2") as other:
        for sandbox in one, other:
            # With its first port each starts a program that it keeps.
            docker(sandbox, "rm", "--force", publish(sandbox, "--publish", "80"))
        yield one, other


@pytest.fixture(scope="module")
def one(both: tuple[SandboxDriver, SandboxDriver]) -> SandboxDriver:
    return both[0]


@pytest.fixture(autouse=True)
def no_container_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for sandbox in request.getfixturevalue("both") if "both" in request.fixturenames else ():
        sandbox.succeed("docker ps --all --quiet | xargs -r docker rm --force")
        wait_until(functools.partial(has_no_ports, sandbox), what="its ports are closed")


def test_a_port_is_reachable_when_docker_run_has_returned(one: SandboxDriver) -> None:
    (port,) = free_ports()
    container = publish(one, "--publish", f"{port}:80")
    own = address_of(one)
    places = [*LOCALHOST, own] if has_ipv6() else [LOCALHOST[0], own]
    assert [listens(address, port) for address in places] == [True] * len(places)
    assert [get(address, port) for address in places] == ["web"] * len(places)
    assert "198.18.1.2" in docker(one, "logs", container, with_errors=True)  # the guest's gateway, for every client
    assert succeed("port", one.name, str(port)).splitlines() == [
        f"[{place}]:{port}" if ":" in place else f"{place}:{port}" for place in places
    ]
    assert succeed("port", one.name).splitlines()[0] == f"{port}/tcp -> 127.0.0.1:{port}"
    row = next(row for row in succeed("ls").splitlines() if row.startswith(one.name))
    assert f" {port} " in row
    docker(one, "rm", "--force", docker(one, "ps", "--quiet"))
    wait_until(lambda: not any(listens(address, port) for address in places), what="the port is closed")


def test_two_sandboxes_publish_one_number(both: tuple[SandboxDriver, SandboxDriver]) -> None:
    one, other = both
    (port,) = free_ports()
    for sandbox in both:
        publish(sandbox, "--publish", f"{port}:80", script=WEB.format(answer=sandbox.name))
    assert address_of(one) != address_of(other)
    assert get(address_of(one), port) == get("127.0.0.1", port) == one.name
    assert get(address_of(other), port) == other.name
    told = kata_dind("port", other.name, f"{port}/tcp")
    assert told.stdout == f"{address_of(other)}:{port}\n"
    assert f"port {port}/tcp of 127.0.0.1 belongs to the sandbox '{one.name}'" in told.stderr
    row = next(row for row in succeed("ls").splitlines() if row.startswith(other.name))
    assert f" {address_of(other)}:{port} " in row


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_number_that_another_program_has_is_refused_as_docker_does(one: SandboxDriver, address: str) -> None:
    (port,) = free_ports()
    with socket.create_server((address, port)):
        said = publish(one, "--publish", f"{port}:80", fails=True)
    assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in said
    assert ports_of(one) == []


def test_ranges_and_udp(one: SandboxDriver) -> None:
    first, second, third = free_ports(3)
    container = publish(one, "--publish", f"{first}-{second}:80-81", "--publish", f"{third}:53/udp", script=SLEEP)
    one.succeed(_ECHO.format(container=container))
    assert [(known["protocol"], known["port"], known["container_port"]) for known in ports_of(one)] == [
        ("tcp", first, 80),
        ("tcp", second, 81),
        ("udp", third, 53),
    ]
    assert echo("127.0.0.1", third, b"anybody?") == b"anybody?"
    assert echo(address_of(one), third, b"you?") == b"you?"
    assert listens("127.0.0.1", second)
    assert succeed("port", one.name, f"{third}/udp").splitlines()[0] == f"127.0.0.1:{third}"


def test_numbers_that_dockerd_draws(both: tuple[SandboxDriver, SandboxDriver]) -> None:
    numbers = set()
    for sandbox in both:
        publish(sandbox, "--publish", "80", script=WEB.format(answer=sandbox.name))
        (known,) = ports_of(sandbox)
        numbers.add(known["port"])
        assert get(address_of(sandbox), known["port"]) == sandbox.name
    assert len(numbers) == 1  # as clones do


def test_what_is_published_on_a_loopback_address_is_reachable_there(one: SandboxDriver) -> None:
    (port,) = free_ports()
    publish(one, "--publish", f"127.0.0.1:{port}:80")
    own = address_of(one)
    assert get("127.0.0.1", port) == get(own, port) == "web"
    assert ports_of(one)[0]["addresses"] == ["127.0.0.1", own]
    docker(one, "restart", docker(one, "ps", "--quiet"))
    assert get("127.0.0.1", port) == "web"


def test_an_unknown_port_is_told(one: SandboxDriver) -> None:
    done = kata_dind("port", one.name, "7777")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        f"kata-dind: no container of '{one.name}' publishes the port 7777/tcp",
    )


def test_a_supervisor_that_is_killed_leaves_no_listener(small_seed: str) -> None:
    (port,) = free_ports()
    with clone_of(small_seed, "ports-3") as sandbox, contextlib.ExitStack() as stack:
        publish(sandbox, "--publish", f"{port}:80")
        assert get("127.0.0.1", port) == "web"
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        os.kill(sandbox.supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not listens("127.0.0.1", port), what="the port is closed")
        for connected in connections:
            with contextlib.suppress(ConnectionResetError):
                assert connected.recv(1) == b""
        wait_until(lambda: states()["ports-3"] == "crashed", what="it is gone")
        assert json.loads(succeed("inspect", "ports-3", "--json"))["ports"] == []


def test_ports_come_back_with_a_saved_sandbox(small_seed: str) -> None:
    (port,) = free_ports()
    with clone_of(small_seed, "ports-4") as sandbox:
        publish(sandbox, "--publish", f"{port}:80")
        own = address_of(sandbox)
        assert get(own, port) == "web"
        succeed("stop", "--save", "ports-4")
        assert not listens("127.0.0.1", port)
        succeed("start", "ports-4")
        assert listens("127.0.0.1", port)
        assert get("127.0.0.1", port) == get(own, port) == "web"
        assert address_of(sandbox) == own


@pytest.mark.thorough
def test_ports_come_back_with_containers_that_docker_restarts(small_seed: str) -> None:
    (port,) = free_ports()
    with clone_of(small_seed, "ports-5") as sandbox:
        publish(sandbox, "--restart", "always", "--publish", f"{port}:80")
        succeed("stop", "ports-5")
        with socket.create_server(("127.0.0.1", port)):  # which does not keep the sandbox from starting
            succeed("start", "ports-5")
        sandbox.wait_until_succeeds("docker start $(docker ps --all --quiet)")
        assert get("127.0.0.1", port) == "web"


@pytest.mark.thorough
def test_an_address_of_ones_own_choice(small_seed: str, one: SandboxDriver) -> None:
    first, second = free_ports(2)
    publish(one, "--publish", f"{second}:80", script=WEB.format(answer="one"))
    with clone_of(small_seed, "ports-6", "--publish-address", "0.0.0.0") as sandbox:
        publish(sandbox, "--publish", f"{first}:80", "--publish", f"127.0.0.1:{second}:80")
        published, local = ports_of(sandbox)
        assert published["addresses"][:2] == ["::1", "0.0.0.0"] or published["addresses"][0] == "0.0.0.0"
        assert get("127.0.0.1", first) == get("127.0.0.2", first) == get(address_of(sandbox), first) == "web"
        assert local["addresses"] == [address_of(sandbox)]
        assert get(address_of(one), second) == "one"


@pytest.mark.thorough
def test_without_a_network_a_port_is_refused(private_directories: Path) -> None:
    succeed("up", "ports-7", "--network", "none", "--cold", "--data-root", "memory", "--size", "512M")
    try:
        sandbox = SandboxDriver("ports-7")
        sandbox.succeed("docker load --quiet --input /usr/share/kata-dind/hello.tar")
        said = publish(sandbox, "--publish", "8080:80", fails=True)
        assert "ports can't be published without a network" in said
    finally:
        succeed("rm", "--force", "ports-7")


@pytest.mark.thorough
@pytest.mark.requires("root", "netns")
def test_a_host_without_ipv6_has_the_other_addresses(small_seed: str) -> None:
    (port,) = free_ports()
    with make_network_namespace([]) as namespace:
        namespace.run("sysctl", "--quiet", "--write", "net.ipv6.conf.all.disable_ipv6=1")
        succeed("up", "ports-8", "--seed", small_seed, prefix=namespace.prefix)
        try:
            sandbox = SandboxDriver("ports-8")
            publish(sandbox, "--publish", f"{port}:80")
            (known,) = ports_of(sandbox)
            own = address_of(sandbox)
            assert (known["addresses"], known["warnings"]) == (["127.0.0.1", own], [])
            with namespace.entered():
                assert get("127.0.0.1", port) == get(own, port) == "web"
        finally:
            succeed("rm", "--force", "ports-8")
