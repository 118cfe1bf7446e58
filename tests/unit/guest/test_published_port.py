"""What dockerd starts for a published port, with the agent at the other end, under both shells of the images."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.wire.channel import Channel, ChannelStream
from tests.unit.guest.agent_process import GUEST_ADDRESS
from tests.unit.guest.conftest import AgentProcess, collect, read_line, start_command

SCRIPT = Path(__file__).parents[3] / "src" / "kata_dind" / "guest" / "published_port.sh"
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "ash"]}

# As docker-proxy: it says on descriptor 3 whether it listens, closes that, and runs until it gets a signal.
PROXY = """#!/bin/sh
trap 'printf "ended\\n" >>"$LOG"; exit 0' INT TERM
printf '%s\\n' "$*" >>"$LOG"
case $* in
*"$REFUSES"*) printf '1\\nlisten: bind: address already in use' >&3; exit 1 ;;
esac
printf '0\\n' >&3
exec 3>&-
while :; do sleep 0.05; done
"""


@dataclass
class Asking:
    """A script that asks, as dockerd sees it."""

    pid: int
    word: int
    """Where its word for dockerd arrives, on its descriptor 3."""
    exit_code: int | None = None

    def interrupt(self) -> None:
        """End it as dockerd does."""
        os.kill(self.pid, signal.SIGINT)

    def wait(self) -> int:
        if self.exit_code is None:
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.exit_code

    def said(self) -> bytes:
        """Wait for its whole word, at whose end it closes the descriptor."""
        said = b""
        while piece := os.read(self.word, 4096):
            said += piece
        return said


class Image:
    """The directories of a container, as far as the script sees them."""

    def __init__(self, directory: Path, shell: list[str]) -> None:
        self._shell = shell
        self._directory = directory
        self.script = self._directory / "published_port.sh"
        self.log = self._directory / "proxies"
        self.log.touch()
        shutil.copy(SCRIPT, self.script)
        self._programs = self._directory / "programs"
        self._programs.mkdir()
        for name in ("mkfifo", "rm", "sleep"):
            (self._programs / name).symlink_to(shutil.which(name) or name)

    def add_proxy(self) -> None:
        self.add_program("docker-proxy", PROXY)

    def add_program(self, name: str, text: str) -> None:
        (self._programs / name).write_text(text)
        (self._programs / name).chmod(0o755)

    @property
    def proxies(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def places(self) -> set[str]:
        return {path.name for path in (self._directory / "ports").iterdir()}

    @contextlib.contextmanager
    def ask(
        self, *flags: str, address: str = "0.0.0.0", port: int = 8080, refuses: str = "nothing"
    ) -> Iterator[Asking]:
        read, write = os.pipe()
        options = ["-proto", "tcp", "-host-ip", address, "-host-port", str(port),
                   "-container-ip", "172.17.0.2", "-container-port", "80", *flags]  # fmt: skip
        environment = {"PATH": str(self._programs), "LOG": str(self.log), "REFUSES": refuses}
        argv = [shutil.which(self._shell[0]) or "", *self._shell[1:], str(self.script), *options]
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=[(os.POSIX_SPAWN_DUP2, write, 3)], setpgroup=0)
        os.close(write)
        asking = Asking(pid, read)
        try:
            yield asking
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            asking.wait()
            os.close(read)


def image_of(agent: AgentProcess, shell: list[str]) -> Image:
    agent.call(_nothing)  # it has made its place for questions when it answers
    return Image(agent.run_directory, shell)


async def _nothing(channel: Channel) -> None:
    await collect(start_command(channel, ["true"]))


@pytest.fixture(params=SHELLS)
def image(agent: AgentProcess, request: pytest.FixtureRequest) -> Image:
    return image_of(agent, SHELLS[request.param])


async def told(stream: ChannelStream) -> dict[str, Any]:
    """Return the next line of the guest's."""
    found: dict[str, Any] = json.loads(await read_line(stream))
    return found


async def connected(channel: Channel, *, published: int = 0) -> tuple[ChannelStream, list[dict[str, Any]]]:
    """Open the stream; return it with the ports that are published already."""
    stream = channel.open({"kind": "ports"})
    lines = b""
    while b'"all"' not in lines:
        lines += await read_line(stream)
    *known, last = map(json.loads, lines.splitlines())
    assert last == {"all": published}
    return stream, known


async def answer(stream: ChannelStream, number: int, error: str = "") -> None:
    message = {"id": number, "error": error} if error else {"id": number, "ok": True}
    await stream.send(json.dumps(message).encode() + b"\n")


async def ended(asking: Asking) -> int:
    return await asyncio.to_thread(asking.wait)


async def said(asking: Asking) -> bytes:
    return await asyncio.to_thread(asking.said)


def test_a_port_that_the_host_grants_is_the_proxys_until_it_ends(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask() as asking:
            question = await told(stream)
            assert question == {
                "id": 1,
                "open": {
                    "protocol": "tcp",
                    "host_address": "0.0.0.0",
                    "port": 8080,
                    "container_address": "172.17.0.2",
                    "container_port": 80,
                    "retried": True,
                },
            }
            assert image.proxies == []
            await answer(stream, 1)
            assert await said(asking) == b"0\n"
            assert len(image.proxies) == 1
            assert image.places == {"asked"}
            asking.interrupt()
            assert await ended(asking) == 0
            assert await told(stream) == {"id": 1, "close": True}

    agent.call(scenario)


def test_a_refusal_is_what_dockerd_reads(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask("-use-listen-fd") as asking:
            question = await told(stream)
            assert question["open"]["retried"] is False
            await answer(stream, 1, "Bind for 127.0.0.1:8080 failed: port is already allocated")
            assert await said(asking) == b"1\nBind for 127.0.0.1:8080 failed: port is already allocated"
            assert await ended(asking) == 1
        assert image.proxies == []
        with image.ask():  # what was refused is forgotten without a word
            assert (await told(stream))["id"] == 2

    agent.call(scenario)


def test_an_image_without_docker_proxy_needs_none(agent: AgentProcess, image: Image) -> None:
    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask() as asking:
            await answer(stream, (await told(stream))["id"])
            assert await said(asking) == b"0\n"
            asking.interrupt()
            assert await ended(asking) == 0
            assert await told(stream) == {"id": 1, "close": True}

    agent.call(scenario)


def test_a_loopback_port_has_a_second_proxy_that_ends_with_the_first(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask(address="127.0.0.1") as asking:
            await answer(stream, (await told(stream))["id"])
            assert await said(asking) == b"0\n"
            second, first = image.proxies
            assert f"-host-ip {GUEST_ADDRESS} -host-port 8080" in second
            assert "-host-ip 127.0.0.1 -host-port 8080" in first
            asking.interrupt()
            assert await ended(asking) == 0
            assert await told(stream) == {"id": 1, "close": True}
            while image.proxies.count("ended") < 2:  # noqa: ASYNC110 - a process sets no event
                await asyncio.sleep(0.02)

    agent.call(scenario)


def test_a_loopback_port_whose_second_proxy_cannot_listen_is_refused(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask(address="127.0.0.1", refuses=GUEST_ADDRESS) as asking:
            await answer(stream, (await told(stream))["id"])
            assert await said(asking) == f"1\nlisten tcp {GUEST_ADDRESS}:8080: bind: address already in use".encode()
            assert await ended(asking) == 1
        assert await told(stream) == {"id": 1, "close": True}

    agent.call(scenario)


def test_the_ipv6_half_of_a_port_needs_no_second_proxy(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with image.ask() as first:
            await answer(stream, (await told(stream))["id"])
            assert await said(first) == b"0\n"
            with image.ask(address="::") as second:
                await answer(stream, (await told(stream))["id"])
                assert await said(second) == b"0\n"
            assert len(image.proxies) == 2

    agent.call(scenario)


def test_a_new_host_is_told_of_the_ports_that_there_are(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()

    with contextlib.ExitStack() as stack:
        asking = []

        async def first(channel: Channel) -> None:
            stream, _ = await connected(channel)
            asking.append(stack.enter_context(image.ask()))
            await answer(stream, (await told(stream))["id"])
            asking.append(stack.enter_context(image.ask(port=8081)))
            assert (await told(stream))["id"] == 2

        async def second(channel: Channel) -> None:
            stream, known = await connected(channel, published=2)
            assert [(port["id"], port["published"]) for port in known] == [(1, True), (2, False)]
            await answer(stream, 2)
            assert (await collect(channel.open({"kind": "ports"}))).result == {
                "error": "ValueError: the ports have a stream already"
            }

        agent.call(first)
        agent.call(second)
        assert [each.said() for each in asking] == [b"0\n", b"0\n"]


def test_without_an_agent_it_is_docker_proxy(agent: AgentProcess, image: Image) -> None:
    image.add_proxy()
    (agent.run_directory / "ports" / "asked").unlink()
    with image.ask() as asking:
        assert asking.said() == b"0\n"
        assert len(image.proxies) == 1


@pytest.mark.parametrize("line", [b"\n", b"x\n", b"1 2 3\n", b"0 tcp 0.0.0.0 80 172.17.0.2 80 yes\n", b"\xff " * 9])
def test_nonsense_in_the_place_for_questions_is_ignored(agent: AgentProcess, line: bytes) -> None:
    async def scenario(channel: Channel) -> None:
        stream, _ = await connected(channel)
        with (agent.run_directory / "ports" / "asked").open("wb") as place:
            place.write(line)
        stream.close()
        await connected(channel)

    agent.call(scenario)
