"""A real dockerd asks about its ports: the script that it starts, the agent behind that, and this test as the host.

It has a network of its own, so that no port of this host is touched. Docker 29 differs from 20.10 in what it passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.image.archive import Layer, docker_archive
from kata_dind.proof.docker_api import DockerApi
from kata_dind.wire.channel import ChannelStream
from scripts import build_dind29
from tests.guest.daemons import NAMESPACES, process_1, wait_until_it_answers
from tests.unit.backend.containerd.test_asked_ports import serving
from tests.unit.guest.agent_process import GUEST_ADDRESS
from tests.unit.guest.conftest import AgentProcess, agent, read_line

pytestmark = pytest.mark.requires("root", "docker", "netns")
__all__ = ["agent"]

SCRIPT = Path(__file__).parents[2] / "src" / "kata_dind" / "guest" / "published_port.sh"
WEB = ("web:1", "httpd", "-f", "-p", "80", "-h", "/www")
OF_29 = [
    pytest.mark.requires("docker29"),
    pytest.mark.thorough if build_dind29.find_programs() else pytest.mark.slow(minutes=15),
    pytest.mark.timeout(3600),
]

_SESSION = """
set -eu
sysctl -q -w net.ipv6.conf.all.disable_ipv6=0 || :
ip link set lo up
mount -t tmpfs tmpfs "$1"
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
exec dockerd --host "unix://$2/docker.sock" --data-root "$1/data" \
	--storage-driver vfs --userland-proxy-path "$2/published_port.sh"
"""


@dataclass
class Dockerd:
    """A dockerd in a network of its own."""

    unshare: subprocess.Popen[bytes]
    socket: Path

    def docker(self, *words: str) -> str:
        """Run the client, whose command must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}"}
        return subprocess.run(["docker", *words], env=environment, capture_output=True, text=True, check=False)

    def fetch(self, address: str, port: int) -> str:
        """Ask a web server there, until it has started."""
        inside = ["nsenter", "--target", str(process_1(self.unshare)), "--net"]
        wget = ["busybox", "wget", "-q", "-O", "-", f"http://{address}:{port}/"]
        for _ in range(50):
            done = subprocess.run([*inside, *wget], capture_output=True, text=True, check=False, timeout=30)
            if done.returncode == 0:
                return done.stdout
            time.sleep(0.1)
        raise AssertionError(done.stderr)


@pytest.fixture(params=["20.10", pytest.param("29", marks=OF_29)])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The version of Docker, whose programs come first on the PATH."""
    if request.param == "29":
        monkeypatch.setenv("PATH", f"{build_dind29.require_programs()}:{os.environ['PATH']}")
    return str(request.param)


@pytest.fixture
def dockerd(version: str, agent: AgentProcess, tmp_path: Path) -> Iterator[Dockerd]:
    with running_dockerd(agent.run_directory, tmp_path) as dockerd:
        yield dockerd


@contextlib.contextmanager
def running_dockerd(run_directory: Path, tmp_path: Path) -> Iterator[Dockerd]:
    shutil.copy(SCRIPT, run_directory)
    mounted, log = tmp_path / "mounted", tmp_path / "dockerd.log"
    mounted.mkdir()
    with log.open("wb") as sink:
        session = ["sh", "-c", _SESSION, "sh", str(mounted), str(run_directory)]
        process = subprocess.Popen([*NAMESPACES, *session], stdout=sink, stderr=sink)
    try:
        started = Dockerd(process, run_directory / "docker.sock")
        wait_until_it_answers(process, started.socket, log)
        archive = tmp_path / "web.tar"
        archive.write_bytes(_image())
        started.docker("load", "--quiet", "--input", str(archive))
        yield started
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(process_1(process), 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _image() -> bytes:
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    layer = Layer({"www/index.html": b"web"}, executables={"bin/busybox": busybox}, links={"bin/httpd": "busybox"})
    return docker_archive("web:1", [layer], {"Env": ["PATH=/bin"]})


class Host:
    """This test, as the host of the agent: it answers by a rule, and keeps what was asked."""

    def __init__(self, stream: ChannelStream, refused: int) -> None:
        self._stream = stream
        self._refused = refused
        self.asked: list[tuple[str, int]] = []
        self.open: set[int] = set()
        self.retried: set[bool] = set()

    async def serve(self) -> None:
        while True:
            for line in (await read_line(self._stream)).splitlines():
                await self._hear(json.loads(line))

    async def _hear(self, message: dict[str, Any]) -> None:
        if "open" in message:
            port, number = message["open"], message["id"]
            self.asked.append((port["host_address"], port["port"]))
            self.retried.add(port["retried"])
            refuses = port["port"] == self._refused
            answer = {"id": number, "error": f"Bind for 127.0.0.1:{port['port']} failed"} if refuses else {"id": number}
            if not refuses:
                self.open.add(number)
            await self._stream.send(json.dumps(answer).encode() + b"\n")
        elif "close" in message:
            self.open.discard(message["id"])


@contextlib.asynccontextmanager
async def host_of(agent: AgentProcess, *, refused: int = 0) -> AsyncIterator[Host]:
    async with agent.channel() as channel:
        host = Host(channel.open({"kind": "ports"}), refused)
        task = asyncio.ensure_future(host.serve())
        try:
            yield host
        finally:
            task.cancel()


def test_a_port_is_asked_about_and_given_back(agent: AgentProcess, dockerd: Dockerd) -> None:
    async def scenario() -> None:
        async with host_of(agent) as host:
            container = await asyncio.to_thread(dockerd.docker, "run", "--detach", "--publish", "8080:80", *WEB)
            assert host.asked[0] == ("0.0.0.0", 8080)
            assert set(host.asked[1:]) <= {("::", 8080)}
            is_29 = DockerApi(dockerd.socket, timeout_seconds=5).info()["ServerVersion"].startswith("29")
            assert host.retried == {not is_29}
            assert await asyncio.to_thread(dockerd.fetch, "127.0.0.1", 8080) == "web"
            await asyncio.to_thread(dockerd.docker, "rm", "--force", container)
            async with asyncio.timeout(10):
                while host.open:  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_a_refusal_is_what_the_client_prints(agent: AgentProcess, dockerd: Dockerd) -> None:
    async def scenario() -> None:
        async with host_of(agent, refused=8080) as host:
            done = await asyncio.to_thread(dockerd.run, "run", "--publish", "8080:80", *WEB)
            assert done.returncode == 125
            assert "tarting userland proxy: Bind for 127.0.0.1:8080 failed" in done.stderr
            assert host.open == set()

    asyncio.run(scenario())


def test_a_loopback_port_is_at_the_guests_own_address_as_well(agent: AgentProcess, dockerd: Dockerd) -> None:
    async def scenario() -> None:
        async with host_of(agent) as host:
            words = ("run", "--detach", "--publish", "127.0.0.1:8081:80", *WEB)
            container = await asyncio.to_thread(dockerd.docker, *words)
            assert host.asked == [("127.0.0.1", 8081)]
            for address in ("127.0.0.1", GUEST_ADDRESS):
                assert await asyncio.to_thread(dockerd.fetch, address, 8081) == "web"
            await asyncio.to_thread(dockerd.docker, "restart", "--time", "0", container)
            assert await asyncio.to_thread(dockerd.fetch, GUEST_ADDRESS, 8081) == "web"

    asyncio.run(scenario())


def test_in_a_pod_a_command_stands_for_the_agent(version: str, tmp_path: Path) -> None:
    async def scenario(directory: Path, dockerd: Dockerd) -> None:
        inside = ["nsenter", "--target", str(process_1(dockerd.unshare)), "--pid", "--net", "--mount", "sh"]
        async with serving(directory / "ports", inside, addresses=(GUEST_ADDRESS, "127.0.0.1")) as host:
            closed, asked = set(), {}

            async def answer() -> None:
                while True:
                    message = await host.hear()
                    if "open" in message:
                        asked[message["id"]] = message["open"]["port"]
                        refused = message["open"]["port"] == 8082
                        await host.answer(message["id"], "Bind for 127.0.0.1:8082 failed" if refused else "")
                    elif "close" in message:
                        closed.add(message["id"])

            answering = asyncio.ensure_future(answer())
            words = ("run", "--detach", "--publish", "8080:80", "--publish", "127.0.0.1:8081:80", *WEB)
            container = await asyncio.to_thread(dockerd.docker, *words)
            for address, port in (("127.0.0.1", 8080), ("127.0.0.1", 8081), (GUEST_ADDRESS, 8081)):
                assert await asyncio.to_thread(dockerd.fetch, address, port) == "web"
            done = await asyncio.to_thread(dockerd.run, "run", "--publish", "8082:80", *WEB)
            assert "tarting userland proxy: Bind for 127.0.0.1:8082 failed" in done.stderr
            await asyncio.to_thread(dockerd.docker, "rm", "--force", container)
            async with asyncio.timeout(10):
                while closed != {number for number, port in asked.items() if port != 8082}:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
            answering.cancel()

    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as name:
        directory = Path(name)
        (directory / "ports").mkdir()
        os.mkfifo(directory / "ports" / "asked", 0o600)
        (directory / "ports" / "served").touch()
        with running_dockerd(directory, tmp_path) as dockerd:
            asyncio.run(scenario(directory, dockerd))


_LISTEN = """
import asyncio
from tests.unit.life.test_listeners import OWN, guest, web
async def listen():
    async with guest("a", OWN) as (listeners, _):
        await listeners.open(1, web(8080), must=False)
        print(listeners.described()[0]["addresses"], listeners.described()[0]["warnings"])
asyncio.run(listen())
"""


def test_a_host_without_ipv6_has_the_ports_that_it_can_have(tmp_path: Path) -> None:
    """Here the network of its own is the host's."""
    without = 'ip link set lo up; for where in all lo; do sysctl -q -w net.ipv6.conf.$where.disable_ipv6=1; done; "$@"'
    argv = ["unshare", "--net", "sh", "-c", without, "sh", sys.executable, "-c", _LISTEN]
    environment = {**os.environ, "KATA_DIND_STATE_DIR": str(tmp_path)}
    done = subprocess.run(argv, env=environment, cwd=SCRIPT.parents[3], capture_output=True, text=True, check=False)
    assert done.stdout == "['127.0.0.1', '127.64.7.1'] []\n", done.stderr
