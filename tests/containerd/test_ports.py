"""Ports that containers publish in a pod, reached from the host of that pod's containerd."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kata_dind.image.archive import Layer, docker_archive
from kata_dind.sandbox.api import Sandbox, start
from tests import web_clients
from tests.containerd.sandboxes import Sandboxes, kill_supervisor, supervisor_of, wait_until
from tests.web_clients import listens

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")

# A container's name is what its web server answers.
WEB = "hostname >/index.html; exec busybox httpd -f -p 80 -h /"
SLEEP = "exec busybox sleep 3600"

# busybox has no server of UDP; this one runs in the network of the container.
ECHO = """
network=/proc/$(docker inspect --format '{{.State.Pid}}' echo)/ns/net
nsenter --net="$network" setsid perl -MSocket -e '
socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(53, INADDR_ANY));
while ($a = recv(S, $d, 9999, 0)) { send(S, $d, 0, $a) }' </dev/null >/dev/null 2>&1 &
"""

get = functools.partial(web_clients.get, seconds=20)


def docker(sandbox: Sandbox, *words: str, fails: bool = False) -> str:
    argv = ["docker", "--host", sandbox.docker_host, *words]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout.strip()


def publish(sandbox: Sandbox, name: str, *options: str, script: str = WEB, fails: bool = False) -> str:
    words = ("run", "--detach", "--name", name, "--hostname", name, *options, "web:1", "sh", "-c", script)
    return docker(sandbox, *words, fails=fails)


def with_image(sandbox: Sandbox) -> Sandbox:
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    layer = Layer({}, executables={"bin/busybox": busybox}, links={"bin/sh": "busybox", "bin/hostname": "busybox"})
    archive = docker_archive("web:1", [layer], {"Env": ["PATH=/bin"]})
    argv = ["docker", "--host", sandbox.docker_host, "load", "--quiet"]
    subprocess.run(argv, input=archive, check=True, capture_output=True, timeout=60)
    return sandbox


def own_address(sandbox: Sandbox) -> str:
    return str(sandbox.inspect()["address"])


def ports_of(sandbox: Sandbox) -> list[dict[str, Any]]:
    return list(sandbox.inspect()["ports"])


def reaches(sandbox: Sandbox, address: str, port: int) -> bool:
    """Tell whether a program in a pod can connect."""
    script = f'exit !IO::Socket::INET->new(PeerAddr => "{address}:{port}", Timeout => 2)'
    return sandbox.run(["perl", "-MIO::Socket::INET", "-e", script]).exit_code == 0


def echo(address: str, port: int, words: bytes) -> bytes:
    """Ask a UDP server until it answers."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.5)
            asking.sendto(words, (address, port))
            with contextlib.suppress(OSError):
                return asking.recv(4096)
    raise AssertionError(f"{address}:{port} does not answer")


SMALL: Any = {"data_root": "memory", "size": "512M", "memory": "1G"}


def test_a_life_of_ports(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL))
    own = own_address(sandbox)
    publish(sandbox, "one", "--publish=8080:80", "--publish=127.0.0.1:8081:80", "--publish=8000-8001:90-91")
    assert [listens(address, 8080) for address in ("127.0.0.1", "::1", own)] == [True] * 3
    assert [get(address, 8080) for address in ("127.0.0.1", "::1", own)] == ["one"] * 3
    assert [get(address, 8081) for address in ("127.0.0.1", own)] == ["one"] * 2
    assert [(known["port"], known["container_port"], known["addresses"]) for known in ports_of(sandbox)] == [
        (8000, 90, ["127.0.0.1", "::1", own]),
        (8001, 91, ["127.0.0.1", "::1", own]),
        (8080, 80, ["127.0.0.1", "::1", own]),
        (8081, 80, ["127.0.0.1", own]),
    ]
    docker(sandbox, "restart", "--time=0", "one")
    assert get("127.0.0.1", 8080) == get(own, 8081) == "one"
    with socket.create_server(("127.0.0.1", 8082)):
        said = publish(sandbox, "two", "--publish=8082:80", fails=True)
    assert "tarting userland proxy: Bind for 127.0.0.1:8082 failed: port is already allocated" in said
    docker(sandbox, "rm", "--force", "one")
    wait_until(lambda: ports_of(sandbox) == [])
    assert [listens(own, port) for port in (8000, 8080, 8081, 8082)] == [False] * 4
    assert sandbox.run(["sh", "-c", "ls /run/kata-dind/ports"]).stdout.split() == [b"addresses", b"asked", b"served"]
    assert b"DROP" not in sandbox.run(["iptables", "-S", "INPUT"]).stdout


def test_datagrams_and_a_number_that_dockerd_draws(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL))
    publish(sandbox, "echo", "--publish=5353:53/udp", "--publish=127.0.0.1:5354:53/udp", script=SLEEP)
    assert sandbox.run(["sh", "-c", ECHO]).exit_code == 0
    assert echo("127.0.0.1", 5353, b"anybody?") == b"anybody?"
    assert echo(own_address(sandbox), 5354, b"you?") == b"you?"
    publish(sandbox, "web", "--publish=80")
    (known,) = (known for known in ports_of(sandbox) if known["protocol"] == "tcp")
    assert get("127.0.0.1", known["port"]) == "web"
    assert known["port"] == int(docker(sandbox, "port", "web", "80/tcp").splitlines()[0].rpartition(":")[2])


def test_two_sandboxes_publish_one_number_and_a_loopback_port_is_for_the_host_alone(sandboxes: Sandboxes) -> None:
    one, other = (with_image(sandboxes.up(name, **SMALL)) for name in ("one", "other"))
    for sandbox in one, other:
        publish(sandbox, sandbox.name, "--publish=8080:80", "--publish=127.0.0.1:8081:80")
        assert get(own_address(sandbox), 8080) == get(own_address(sandbox), 8081) == sandbox.name
    assert get("127.0.0.1", 8080) == get("127.0.0.1", 8081) == "one"
    (known, _) = ports_of(other)
    assert "port 8080/tcp of 127.0.0.1 belongs to the sandbox 'one'" in known["warnings"][0]
    assert [reaches(other, sandboxes.address_of(one), port) for port in (8080, 8081)] == [True, False]


def test_an_address_of_ones_own_choice(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL, publish_addresses=("127.9.9.9",)))
    publish(sandbox, "web", "--publish=8080:80", "--publish=127.0.0.1:8081:80")
    assert get("127.9.9.9", 8080) == get("127.0.0.1", 8081) == "web"
    assert not listens("127.9.9.9", 8081)


def test_without_a_network_a_port_is_refused(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL, network="none"))
    assert "ports can't be published without a network" in publish(sandbox, "web", "--publish=8080:80", fails=True)


def test_nobody_listens_while_nobody_serves_and_what_has_changed_is_seen_then(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL))
    for name, port in (("stays", "8080"), ("ends", "8081"), ("local", "127.0.0.1:8082")):
        publish(sandbox, name, f"--publish={port}:80")
    publish(sandbox, "comes", "--publish=8083:80", "--publish=127.0.0.1:8084:80")
    docker(sandbox, "stop", "--time=0", "comes")
    kill_supervisor(sandbox)
    assert [listens("127.0.0.1", port) for port in (8080, 8081, 8082, 8083)] == [False] * 4
    commands = "docker rm --force ends && docker start comes && docker restart --time=0 local"
    sandboxes.succeed_in_pod(sandbox, "sh", "-c", commands)
    with socket.create_server(("127.0.0.1", 8080)):  # which is told, and does not keep the sandbox from being served
        sandbox = start("demo")
        assert [known["port"] for known in ports_of(sandbox)] == [8080, 8082, 8083, 8084]
        assert "port is already allocated" in ports_of(sandbox)[0]["warnings"][0]
    own = own_address(sandbox)
    assert get(own, 8080) == "stays"
    assert get("127.0.0.1", 8082) == "local"
    assert get("127.0.0.1", 8083) == get("127.0.0.1", 8084) == "comes"
    os.kill(supervisor_of(sandbox), signal.SIGTERM)
    wait_until(lambda: sandbox.summary().problem is not None)
    assert not listens(own, 8083)
    start("demo")
    assert get("127.0.0.1", 8083) == "comes"
    docker(sandbox, "rm", "--force", "comes")
    wait_until(lambda: not listens(own, 8083))


def test_ports_come_back_with_containers_that_docker_restarts(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up())
    publish(sandbox, "web", "--publish=8080:80", "--publish=127.0.0.1:8081:80", "--restart=always")
    own = own_address(sandbox)
    sandbox.stop()
    assert not listens(own, 8080)
    start("demo")
    assert listens("127.0.0.1", 8080)
    assert get("127.0.0.1", 8080) == get("127.0.0.1", 8081) == get(own, 8080) == "web"


def test_a_pod_that_somebody_removes_leaves_no_listener(sandboxes: Sandboxes) -> None:
    sandbox = with_image(sandboxes.up(**SMALL))
    publish(sandbox, "web", "--publish=8080:80")
    assert get("127.0.0.1", 8080) == "web"
    sandboxes.kill_pod(sandbox)
    wait_until(lambda: sandbox.state == "crashed")
    assert not listens("127.0.0.1", 8080)
    assert ports_of(sandbox) == []


def test_a_bind_of_what_is_not_shared_is_refused(sandboxes: Sandboxes, tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    for place in shared, other:
        place.mkdir()
    sandbox = with_image(sandboxes.up(**SMALL, shares=(str(shared),)))
    said = publish(sandbox, "web", f"--volume={other}:/x", fails=True)
    assert f"not shared with the sandbox 'demo': {other}; run: kata-dind share add demo {other}" in said
    publish(sandbox, "web", f"--volume={shared}:/x", script="touch /x/seen; exec sleep 60")
    wait_until((shared / "seen").exists)
