"""What dockerd starts for a published port in a pod, the command that stands for the agent there, and the host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.containerd.plan import container_config
from kata_dind.backend.containerd.ports import AskedPorts, port_command
from kata_dind.backend.events import GuestEvent, Kernel
from kata_dind.host.process import run as run_command
from kata_dind.wire.requests import Output, Result, StreamLost, Terminal
from tests.unit.backend.containerd.test_plan import plan
from tests.unit.guest.test_published_port import SHELLS, Asking, Image, ended, said

OWN, HOST = "10.0.0.7", "10.0.0.1"

# As a firewall: it takes a rule, or refuses all.
FIREWALL = """#!/bin/sh
printf '%s\\n' "$*" >>"${LOG%/*}/rules"
[ "$REFUSES" != rules ] || { printf 'no table\\n' >&2; exit 3; }
"""


class LocalCommand:
    """A command of this host as a stream, as the backend has one of a container's."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        )
        self.result: Result | None = None

    async def process(self) -> asyncio.subprocess.Process:
        return await asyncio.shield(self._starting)

    async def receive(self) -> Output | None:
        process = await self.process()
        assert process.stdout
        if data := await process.stdout.read(4096):
            return Output(data)
        self.result = Result(await process.wait())
        return None

    async def send(self, data: bytes) -> None:
        stdin = (await self.process()).stdin
        assert stdin
        stdin.write(data)

    def end(self) -> None:
        if self._starting.done() and (stdin := self._starting.result().stdin):
            stdin.close()

    def resize(self, terminal: Terminal) -> None:
        pass

    def signal(self, number: int) -> None:
        pass

    def close(self) -> None:
        self.end()


class Host:
    """The process that serves a sandbox, for as long as it does."""

    def __init__(self, ports: AskedPorts, commands: list[LocalCommand], events: list[GuestEvent]) -> None:
        self.ports = ports
        self.commands = commands
        self.events = events
        self._lines: list[dict[str, Any]] = []

    async def hear(self) -> dict[str, Any]:
        """Return what is told next."""
        while not self._lines:
            async with asyncio.timeout(20):
                part = await self.ports.receive()
            assert part is not None
            self._lines += map(json.loads, part.data.splitlines())
        return self._lines.pop(0)

    async def answer(self, number: int, error: str = "") -> None:
        message = {"id": number, "error": error} if error else {"id": number, "ok": True}
        await self.ports.send(json.dumps(message).encode() + b"\n")

    async def grant(self, asking: Asking) -> int:
        """Grant the next question, and see that dockerd learns of it."""
        number = int((await self.hear())["id"])
        await self.answer(number)
        assert await said(asking) == b"0\n"
        return number


class Pod(Image):
    """The directories of a container in a pod, and its host, which comes and goes."""

    def __init__(self, directory: Path, shell: list[str]) -> None:
        super().__init__(directory, shell)
        self.rules = directory / "rules"
        self._ports = directory / "ports"
        self._ports.mkdir()
        os.mkfifo(self._ports / "asked", 0o600)
        (self._ports / "served").touch()
        self.add_proxy()
        self.add_program("iptables", FIREWALL)

    @property
    def questions(self) -> set[str]:
        return self.places - {"asked", "served", "addresses"}

    async def has_questions(self, count: int) -> None:
        """Wait until so many scripts have written their questions down."""
        files = self._ports.glob
        while sum(bool(file.read_text()) for file in files("*.port")) < count:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def served(self, *, own: str = OWN, known: int = 0) -> AsyncIterator[Host]:
        """Serve the pod."""
        shell = [shutil.which(self._shell[0]) or "", *self._shell[1:]]
        async with serving(self._ports, shell, addresses=(own, HOST if own else "")) as host:
            if not known:
                assert await host.hear() == {"all": 0}
            yield host


@contextlib.asynccontextmanager
async def serving(places: Path, shell: list[str], *, addresses: tuple[str, str]) -> AsyncIterator[Host]:
    """Answer the questions in a directory, by a command under a shell; at the end that has ended as well."""
    commands: list[LocalCommand] = []
    events: list[GuestEvent] = []

    def run() -> LocalCommand:
        commands.append(LocalCommand((*shell, *port_command(addresses, directory=str(places))[1:])))
        return commands[-1]

    host = Host(AskedPorts(run, ended=asyncio.Event(), on_event=events.append), commands, events)
    try:
        yield host
    finally:
        host.ports.close()
        for command in commands:
            async with asyncio.timeout(20):
                await (await command.process()).wait()


@pytest.fixture(params=SHELLS)
def pod(tmp_path: Path, request: pytest.FixtureRequest) -> Pod:
    return Pod(tmp_path, SHELLS[request.param])


def test_a_port_that_the_host_grants_until_its_end(pod: Pod) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            assert host.events == [Kernel(os.uname().release)]
            with pod.ask() as asking:
                assert await host.hear() == {
                    "id": 1,
                    "published": False,
                    "open": {
                        "protocol": "tcp",
                        "host_address": "0.0.0.0",
                        "port": 8080,
                        "container_address": "172.17.0.2",
                        "container_port": 80,
                        "retried": True,
                    },
                }
                assert pod.proxies == []
                await host.answer(1)
                assert await said(asking) == b"0\n"
                assert pod.questions == {f"{asking.pid}.port"}
                asking.interrupt()
                assert await ended(asking) == 0
                assert pod.proxies[1:] == ["ended"]
                assert await host.hear() == {"id": 1, "close": True}
            assert pod.questions == set()

    asyncio.run(scenario())


def test_the_host_may_come_before_the_container_has_made_the_place(tmp_path: Path) -> None:
    """As at the start of a pod that has run before."""
    run, tmpfs = tmp_path / "run", tmp_path / "tmpfs"
    config = container_config(plan(), script=f"cat {run}/published_port.sh", published_port="told", check=False)
    places = {"/run/kata-dind": str(run), "/dev/kata-dind.ports": str(tmpfs)}
    container = [functools.reduce(lambda text, place: text.replace(*place), places.items(), word)
                 for word in config["command"]]  # fmt: skip

    async def scenario() -> None:
        async with serving(run / "ports", ["sh"], addresses=(OWN, HOST)) as host:
            heard = asyncio.ensure_future(host.hear())
            await asyncio.sleep(0.3)
            made = await asyncio.to_thread(run_command, container, timeout_seconds=10)
            assert made.stdout == "told"
            assert await heard == {"all": 0}
        assert (run / "ports").readlink() == tmpfs

    asyncio.run(scenario())


def test_a_proxy_that_ends_by_itself_is_told(pod: Pod) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask(refuses="8080") as asking:
                await host.answer((await host.hear())["id"])
                assert await said(asking) == b"1\nlisten: bind: address already in use"
                assert await host.hear() == {"id": 1, "close": True}

    asyncio.run(scenario())


def test_a_refusal_is_what_dockerd_reads(pod: Pod) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask("-use-listen-fd") as asking:
                assert (await host.hear())["open"]["retried"] is False
                await host.answer(1, "Bind for 127.0.0.1:8080 failed: port is already allocated")
                assert await said(asking) == b"1\nBind for 127.0.0.1:8080 failed: port is already allocated"
                assert await ended(asking) == 1
            assert (pod.proxies, pod.questions) == ([], set())

    asyncio.run(scenario())


def test_an_image_without_docker_proxy_needs_none(pod: Pod) -> None:
    (pod.log.parent / "programs" / "docker-proxy").unlink()

    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask() as asking:
                await host.grant(asking)
                asking.interrupt()
                assert await ended(asking) == 0
                assert await host.hear() == {"id": 1, "close": True}

    asyncio.run(scenario())


def test_the_first_host_is_waited_for(pod: Pod) -> None:
    async def scenario() -> None:
        with pod.ask() as asking:
            await pod.has_questions(1)
            async with pod.served(known=1) as host:
                assert await host.grant(asking) == 1
                assert await host.hear() == {"all": 1}

    asyncio.run(scenario())


def test_while_there_is_no_host_ports_are_published_and_the_next_one_is_told(pod: Pod) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stays, ends, waits = (stack.enter_context(pod.ask(port=port)) for port in (8080, 8081, 8082))
            await pod.has_questions(3)
            async with pod.served(known=3) as host:
                asked = [await host.hear() for _ in range(4)]
                ports = {message["open"]["port"]: message["id"] for message in asked[:3]}
                for port in (8080, 8081):
                    await host.answer(ports[port])
                for asking in stays, ends:
                    assert await said(asking) == b"0\n"
            assert await said(waits) == b"0\n"  # which had asked, and is let go on
            ends.interrupt()
            comes = stack.enter_context(pod.ask(port=8083))
            assert await said(comes) == b"0\n"
            assert await ended(ends) == 0
            async with pod.served(known=3) as host:
                asked = [await host.hear() for _ in range(3)]
                assert sorted((each["open"]["port"], each["published"]) for each in asked) == [
                    (8080, True), (8082, True), (8083, True)
                ]  # fmt: skip
                assert await host.hear() == {"all": 3}

    asyncio.run(scenario())


def test_a_command_that_is_lost_is_started_again_and_only_changes_are_told(pod: Pod) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            host = await stack.enter_async_context(pod.served())
            stays, ends = (stack.enter_context(pod.ask(port=port)) for port in (8080, 8081))
            for _ in range(2):
                await host.answer((await host.hear())["id"])
            for asking in stays, ends:
                assert await said(asking) == b"0\n"
            (await host.commands[0].process()).kill()
            hearing = asyncio.ensure_future(host.hear())
            ends.interrupt()
            assert await ended(ends) == 0
            told = [await hearing, await host.hear()]
            assert [message.get("close") for message in told] == [True, None]
            assert told[1] == {"all": 1}
            with pod.ask(port=8082) as another:  # which the first command's other half does not get
                await host.grant(another)

    asyncio.run(scenario())


def test_a_pod_that_has_ended_is_lost() -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        ports = AskedPorts(lambda: LocalCommand(("true",)), ended=ended, on_event=lambda _: None)
        ended.set()
        with pytest.raises(StreamLost):
            await ports.receive()

    asyncio.run(scenario())


def test_a_loopback_port_has_a_second_proxy_for_the_host_alone(pod: Pod) -> None:
    rule = f"INPUT -p tcp -d {OWN} --dport 8080 ! -s {HOST} -j DROP"

    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask(address="127.0.0.1") as asking:
                await host.grant(asking)
                second, first = pod.proxies
                assert f"-host-ip {OWN} -host-port 8080" in second
                assert "-host-ip 127.0.0.1 -host-port 8080" in first
                assert pod.rules.read_text() == f"-w -I {rule}\n"
                asking.interrupt()
                assert await ended(asking) == 0
                assert pod.proxies[2:] == ["ended", "ended"]
                assert pod.rules.read_text() == f"-w -I {rule}\n-w -D {rule}\n"
                assert await host.hear() == {"id": 1, "close": True}

    asyncio.run(scenario())


def test_a_loopback_port_that_can_not_be_kept_from_others_is_refused(pod: Pod) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask(address="127.0.0.1", refuses="rules") as asking:
                await host.answer((await host.hear())["id"])
                wanted = "kata-dind: 127.0.0.1:8080 can't be kept from other pods: iptables: no table"
                assert (await said(asking)).decode() == f"1\n{wanted}"
                assert await ended(asking) == 1
            assert await host.hear() == {"id": 1, "close": True}
            with pod.ask(address="127.0.0.1", port=8081, refuses=OWN) as asking:
                await host.answer((await host.hear())["id"])
                assert await said(asking) == f"1\nlisten tcp {OWN}:8081: bind: address already in use".encode()
                assert await ended(asking) == 1
                assert pod.rules.read_text().splitlines()[-1].startswith("-w -D INPUT")
            assert await host.hear() == {"id": 2, "close": True}
            assert pod.questions == set()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("own", "address", "proxies"),
    [(OWN, OWN, 1), (OWN, "172.17.0.1", 2), (OWN, "::", 2), ("", "127.0.0.1", 1), ("fd00::7", "::", 1)],
)
def test_what_is_reached_needs_no_second_proxy(pod: Pod, own: str, address: str, proxies: int) -> None:
    async def scenario() -> None:
        async with pod.served(own=own) as host:
            with pod.ask(address=address) as asking:
                await host.grant(asking)
                assert len(pod.proxies) == proxies

    asyncio.run(scenario())


def test_the_ipv6_half_of_a_port_needs_no_second_proxy(pod: Pod) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            with pod.ask() as first, pod.ask(port=8081) as other:
                for _ in first, other:
                    await host.answer((await host.hear())["id"])
                for asking in first, other:
                    assert await said(asking) == b"0\n"
                with pod.ask(address="::") as second:
                    await host.grant(second)
                    assert len(pod.proxies) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("line", ["x", "1 2 3", "7 tcp 0.0.0.0 many 172.17.0.2 80 yes", "7 end", "\0"])
def test_nonsense_is_ignored(pod: Pod, line: str) -> None:
    async def scenario() -> None:
        async with pod.served() as host:
            with (pod.log.parent / "ports" / "asked").open("w") as place:
                place.write(f"{line}\n")
            with pod.ask() as asking:
                await host.grant(asking)

    asyncio.run(scenario())
