"""What a guest reaches. The servers are in a network namespace of the tests' own, and would answer if they were asked.

Each is asked from the guest OS, and the server itself says whether it was reached. Nothing leaves the namespace.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.driver import SandboxDriver, succeed
from tests.vm.namespace import NetworkNamespace, Server, make_network_namespace, serve_dns, serve_tcp, serve_udp

pytestmark = pytest.mark.requires("qemu", "root", "netns")

OUTSIDE = "203.0.113.7"
RESOLVER = "203.0.113.53"
METADATA = "169.254.169.254"
LOOPBACK = "127.0.0.1"

GUEST, QEMU = "198.18.1.15", "198.18.0.100"
"""Where a sandbox itself is, seen from within: its guest, and its network namespace around QEMU."""

# Every address that has a meaning in one of the two user networks, and those that QEMU and slirp4netns use by default.
ALIASES = [
    *(f"198.18.1.{host}" for host in (1, 2, 3, 4, 255)),
    *(f"198.18.0.{host}" for host in (1, 2, 3, 4, 255)),
    *("10.0.2.2", "10.0.2.3", "10.0.2.100", "0.0.0.0", "127.0.0.2"),
]

_KNOCK = """
import json, socket, sys, threading
def tcp(address, port):
    try:
        with socket.create_connection((address, port), 4) as connected:
            connected.settimeout(4)
            connected.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return connected.recv(4096).rpartition(b"\\r\\n")[2].decode()
    except OSError as error:
        return None
def udp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(3)
        try:
            asking.sendto(b"?", (address, port))
            return asking.recv(4096).decode()
        except OSError as error:
            return None
def knock(number, kind, address, port):
    answers[number] = {"tcp": tcp, "udp": udp}[kind](address, port)
targets = json.loads(sys.argv[1])
answers = [None] * len(targets)
threads = [threading.Thread(target=knock, args=(number, *target)) for number, target in enumerate(targets)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"""

_RESOLVE = """
import socket, sys
print(socket.gethostbyname(sys.argv[1]))
"""

_LISTEN = """
import os, socket, sys
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])))
if os.fork():
    os._exit(0)
os.setsid()
for fd in (0, 1, 2):
    os.close(fd)
while True:
    connected, _ = listening.accept()
    connected.recv(4096)
    connected.sendall(b"inside")
    connected.close()
"""


@dataclass(frozen=True)
class Network:
    """The namespace and its servers."""

    namespace: NetworkNamespace
    outside: Server
    metadata: Server
    loopback: Server
    loopback_udp: Server
    local_resolver: Server
    resolver: Server


@pytest.fixture(scope="module")
def network(private_directories: Path) -> Iterator[Network]:
    names = {"outside.test": OUTSIDE}
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(make_network_namespace([OUTSIDE, RESOLVER, METADATA]))
        yield Network(
            namespace,
            outside=stack.enter_context(serve_tcp(namespace, OUTSIDE, 80, greeting=b"outside")),
            metadata=stack.enter_context(serve_tcp(namespace, METADATA, 80, greeting=b"secret")),
            loopback=stack.enter_context(serve_tcp(namespace, LOOPBACK, 8080, greeting=b"loopback")),
            loopback_udp=stack.enter_context(serve_udp(namespace, LOOPBACK, 5353, greeting=b"loopback")),
            local_resolver=stack.enter_context(serve_dns(namespace, LOOPBACK, names={**names, "local.test": OUTSIDE})),
            resolver=stack.enter_context(serve_dns(namespace, RESOLVER, names=names)),
        )


@pytest.fixture(scope="module")
def listening_before(network: Network) -> set[str]:
    return network.namespace.listening_sockets()


@pytest.fixture(scope="module")
def guarded(network: Network, listening_before: set[str]) -> Iterator[SandboxDriver]:
    """A sandbox as people get it, on a host whose resolver is on its loopback."""
    with sandbox_in(network.namespace, "guarded") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def given_a_port(network: Network, guarded: SandboxDriver) -> Iterator[SandboxDriver]:
    """One that may reach a service of the host."""
    with sandbox_in(network.namespace, "given", "--host-port", "8080") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def open_to_link_local(network: Network, guarded: SandboxDriver) -> Iterator[SandboxDriver]:
    """A second sandbox beside it."""
    with sandbox_in(network.namespace, "neighbour", "--allow-link-local") as sandbox:
        yield sandbox


@contextlib.contextmanager
def sandbox_in(namespace: NetworkNamespace, name: str, *options: str) -> Iterator[SandboxDriver]:
    succeed("up", name, "--data-root", "memory", "--size", "512M", *options, prefix=namespace.prefix)
    try:
        yield SandboxDriver(name)
    finally:
        succeed("rm", "--force", name)


def knock(sandbox: SandboxDriver, targets: Sequence[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
    """Ask servers from the guest, each a kind, an address and a port; return the answers of those that gave one."""
    answers = json.loads(sandbox.python(_KNOCK, json.dumps(targets)))
    return {target: answer for target, answer in zip(targets, answers, strict=True) if answer is not None}


def test_the_outside_is_reached(network: Network, guarded: SandboxDriver) -> None:
    outside = ("tcp", OUTSIDE, 80)
    assert knock(guarded, [outside]) == {outside: "outside"}
    assert network.outside.clients


def test_a_container_reaches_the_outside_by_name(network: Network, guarded: SandboxDriver) -> None:
    fetch = ["run", "--rm", "kata-dind/hello", "busybox", "wget", "-q", "-O", "-", "http://outside.test/"]
    assert succeed("docker", guarded.name, "--", *fetch) == "outside"


def test_names_resolve_through_a_resolver_on_the_hosts_loopback(network: Network, guarded: SandboxDriver) -> None:
    network.namespace.resolve_with(LOOPBACK)
    assert guarded.python(_RESOLVE, "local.test").strip() == OUTSIDE
    assert network.local_resolver.clients


def test_names_resolve_through_an_ordinary_resolver(network: Network, guarded: SandboxDriver) -> None:
    network.namespace.resolve_with(RESOLVER)
    try:
        resolve = (
            f"until python3 -c '{_RESOLVE}' outside.test && ! python3 -c '{_RESOLVE}' local.test; do sleep 1; done"
        )
        guarded.succeed(resolve, where="guest")
        assert network.resolver.clients
    finally:
        network.namespace.resolve_with(LOOPBACK)


def test_the_hosts_loopback_is_not_reached_though_its_resolver_is(network: Network, guarded: SandboxDriver) -> None:
    network.namespace.resolve_with(LOOPBACK)
    targets = [
        (kind, address, server.port)
        for address in [LOOPBACK, GUEST, QEMU, *ALIASES]
        for kind, server in (("tcp", network.loopback), ("udp", network.loopback_udp))
    ]
    assert knock(guarded, targets) == {}
    assert (network.loopback.clients, network.loopback_udp.clients) == ([], [])


def test_a_container_reaches_no_more_than_the_guest(network: Network, guarded: SandboxDriver) -> None:
    closed = ["198.18.0.2", "198.18.0.3", "198.18.1.2", "198.18.1.3", METADATA, "172.17.0.1"]
    places = [(address, port) for address in closed for port in (80, network.loopback.port)]
    fetches = (
        f"busybox timeout 5 wget -q -O - http://{address}:{port}/ &" for address, port in [*places, (OUTSIDE, 80)]
    )
    script = "\n".join([*fetches, "wait"])
    assert succeed("docker", guarded.name, "--", "run", "--rm", "kata-dind/hello", "sh", "-c", script) == "outside"
    assert (network.loopback.clients, network.metadata.clients) == ([], [])


def test_link_local_addresses_are_not_reached(network: Network, guarded: SandboxDriver) -> None:
    assert knock(guarded, [("tcp", METADATA, 80), ("udp", METADATA, 53)]) == {}
    assert network.metadata.clients == []


def test_link_local_addresses_are_reached_when_allowed(network: Network, open_to_link_local: SandboxDriver) -> None:
    metadata = ("tcp", METADATA, 80)
    assert knock(open_to_link_local, [metadata]) == {metadata: "secret"}
    network.metadata.clients.clear()


def test_allowing_link_local_opens_no_more(network: Network, open_to_link_local: SandboxDriver) -> None:
    targets = [("tcp", address, network.loopback.port) for address in [LOOPBACK, GUEST, QEMU, *ALIASES]]
    assert knock(open_to_link_local, targets) == {}
    assert network.loopback.clients == []


FETCH = ["run", "--rm", "kata-dind/hello", "busybox", "timeout", "20", "wget", "-q", "-O", "-"]


@pytest.mark.thorough
def test_a_container_reaches_the_port_that_it_was_given_by_the_hosts_name(
    network: Network, given_a_port: SandboxDriver
) -> None:
    docker = ("docker", given_a_port.name, "--")
    assert succeed(*docker, *FETCH, "http://host.docker.internal:8080/") == "loopback"
    succeed(*docker, "network", "create", "own")
    in_own = [FETCH[0], "--network", "own", *FETCH[1:]]
    assert succeed(*docker, *in_own, "http://host.docker.internal:8080/") == "loopback"
    assert succeed(*docker, *FETCH, "http://outside.test/") == "outside"
    assert succeed(*docker, *in_own, "http://outside.test/") == "outside"
    assert network.loopback.clients
    network.loopback.clients.clear()


def test_names_are_still_those_of_the_hosts_resolver(network: Network, given_a_port: SandboxDriver) -> None:
    network.namespace.resolve_with(LOOPBACK)
    assert given_a_port.python(_RESOLVE, "local.test").strip() == OUTSIDE
    assert given_a_port.python(_RESOLVE, "host.docker.internal").strip() == "198.18.1.2"
    given_a_port.fail(f"python3 -c '{_RESOLVE}' unknown.test", where="guest")


def test_a_port_of_the_host_opens_that_port_at_the_gateway_and_no_more(
    network: Network, given_a_port: SandboxDriver
) -> None:
    gateway = ("tcp", "198.18.1.2", network.loopback.port)
    others = [("tcp", address, network.loopback.port) for address in [LOOPBACK, GUEST, QEMU, *ALIASES]]
    elsewhere = [
        (kind, address, port)
        for address in [LOOPBACK, GUEST, QEMU, *ALIASES]
        for kind, port in (("udp", network.loopback_udp.port), ("tcp", 80), ("tcp", 22), ("udp", network.loopback.port))
    ]
    assert knock(given_a_port, [*others, *elsewhere]) == {gateway: "loopback"}
    assert network.loopback_udp.clients == []
    network.loopback.clients.clear()
    assert knock(given_a_port, [("tcp", METADATA, 80)]) == {}


def test_a_sandbox_beside_it_has_no_such_port(
    network: Network, guarded: SandboxDriver, given_a_port: SandboxDriver
) -> None:
    assert knock(guarded, [("tcp", address, network.loopback.port) for address in ALIASES]) == {}
    assert network.loopback.clients == []


def test_the_host_does_not_reach_what_listens_for_a_guest(network: Network, given_a_port: SandboxDriver) -> None:
    assert not [row for row in network.namespace.listening_sockets() if ":53 " in row and "127.0.0.1:53" not in row]


def test_a_sandbox_does_not_reach_another(guarded: SandboxDriver, open_to_link_local: SandboxDriver) -> None:
    # Both have the same addresses, so the port must be one on which only the other listens.
    open_to_link_local.python(_LISTEN, "9999")
    listener = ("tcp", GUEST, 9999)
    assert knock(open_to_link_local, [listener]) == {listener: "inside"}
    assert knock(guarded, [("tcp", address, 9999) for address in [LOOPBACK, GUEST, QEMU, *ALIASES]]) == {}


def test_the_host_does_not_reach_the_guest(network: Network, open_to_link_local: SandboxDriver) -> None:
    with network.namespace.entered():
        for address in (GUEST, QEMU, LOOPBACK):
            with pytest.raises(OSError), socket.create_connection((address, 9999), 2):
                pass


def test_nothing_listens_on_tcp(network: Network, guarded: SandboxDriver, listening_before: set[str]) -> None:
    assert network.namespace.listening_sockets() == listening_before
    rows = guarded.succeed("cat /proc/net/tcp /proc/net/tcp6", where="guest").splitlines()
    assert [row for row in rows if row.split()[3] == "0A"] == []
