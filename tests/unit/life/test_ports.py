"""A sandbox's ports, from what dockerd starts in the guest to what listens on this host; only the machine is absent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from kata_dind.backend import Guest, Ports
from kata_dind.backend.vm.streams import AgentStream
from kata_dind.life.ports import SandboxPorts
from kata_dind.life.status import Status
from kata_dind.progress import silent
from kata_dind.store.claims import likely_address
from kata_dind.store.sandboxes import Record, create_record
from kata_dind.wire.channel import Channel
from tests.unit.guest.conftest import AgentProcess, agent
from tests.unit.guest.test_published_port import Image, ended, image_of, said
from tests.unit.life.test_listeners import LocalPorts, free_port, guest
from tests.unit.life.test_listeners import said as said_by

__all__ = ["agent"]


class AgentGuest:
    """The guest as its owner sees it, as far as its ports go."""

    def __init__(self, channel: Channel, ports: Ports | None) -> None:
        self._channel = channel
        self.ports = ports

    def open(self, request: object) -> AgentStream:
        return AgentStream(self._channel.open({"kind": "ports"}))


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "s"))
    return create_record("demo")


@pytest.fixture
def image(agent: AgentProcess) -> Image:
    return image_of(agent, ["dash"])


@contextlib.asynccontextmanager
async def followed(agent: AgentProcess, record: Record, ports: LocalPorts | None) -> AsyncIterator[SandboxPorts]:
    async with asyncio.timeout(20), agent.channel() as channel:
        kept = SandboxPorts(record, Status(record, report=silent))
        kept.take_address()
        kept.follow(cast(Guest, AgentGuest(channel, ports)))
        try:
            yield kept
        finally:
            await kept.unfollow()
            kept.close()


def known_ports(record: Record) -> list[dict[str, object]]:
    return list(record.read("status.json").get("ports", ()))


def test_a_port_is_listened_for_before_dockerd_has_the_word(agent: AgentProcess, image: Image, record: Record) -> None:
    async def scenario() -> None:
        port, own = free_port(), likely_address(record.directory)
        async with guest("web", own) as (_, ports), followed(agent, record, ports) as kept:
            with image.ask(port=port) as asking:
                assert await said(asking) == b"0\n"
                assert await said_by("127.0.0.1", port) == await said_by(own, port) == b"web"
                assert [known["port"] for known in known_ports(record)] == [port]
            async with asyncio.timeout(10):
                while known_ports(record):  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(0.02)
            assert kept.told.is_set()
            with pytest.raises(ConnectionRefusedError):
                await said_by("127.0.0.1", port)

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_refused(agent: AgentProcess, image: Image, record: Record) -> None:
    async def scenario() -> None:
        port = free_port()
        with socket.create_server(("127.0.0.1", port)):
            async with guest("web", "127.64.1.1") as (_, ports), followed(agent, record, ports):
                with image.ask(port=port) as asking:
                    word = await said(asking)
                    assert word == f"1\nBind for 127.0.0.1:{port} failed: port is already allocated".encode()
                    assert await ended(asking) == 1
                assert known_ports(record) == []

    asyncio.run(scenario())


def test_another_owner_listens_for_what_is_published_already(agent: AgentProcess, image: Image, record: Record) -> None:
    async def scenario() -> None:
        port = free_port()
        async with guest("web", "127.64.1.1") as (_, ports):
            async with followed(agent, record, ports) as first:
                asking = stack.enter_context(image.ask(port=port))
                assert await said(asking) == b"0\n"
                assert first.told.is_set()
            with pytest.raises(ConnectionRefusedError):
                await said_by("127.0.0.1", port)
            async with followed(agent, record, ports) as second:
                await second.told.wait()
                assert await said_by("127.0.0.1", port) == b"web"

    with contextlib.ExitStack() as stack:
        asyncio.run(scenario())


def test_addresses_of_the_users_choice_are_those_of_the_spec(agent: AgentProcess, image: Image, record: Record) -> None:
    async def scenario() -> None:
        record.write("spec.json", {"publish_addresses": ["127.64.9.9"]})
        port = free_port()
        async with guest("web", "127.64.1.1") as (_, ports), followed(agent, record, ports):
            with image.ask(port=port) as asking:
                assert await said(asking) == b"0\n"
                assert await said_by("127.64.9.9", port) == b"web"

    asyncio.run(scenario())


def test_a_guest_whose_ports_cannot_be_reached_is_not_asked(agent: AgentProcess, record: Record) -> None:
    async def scenario() -> None:
        async with followed(agent, record, None) as kept:
            assert kept.told.is_set()
        assert json.loads((record.directory / "status.json").read_text() or "{}").get("ports") is None

    (record.directory / "status.json").write_text("{}")
    asyncio.run(scenario())
