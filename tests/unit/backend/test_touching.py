"""Paths that an agent is told, and touches."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from kata_dind.backend.vm.streams import AgentStream
from kata_dind.backend.vm.touching import open_toucher, touch
from kata_dind.errors import SandboxError
from kata_dind.wire.channel import Channel
from kata_dind.wire.requests import StreamLost
from tests.unit.guest.conftest import AgentProcess, agent, start_shell

__all__ = ["agent"]


@pytest.mark.requires("root")
def test_the_guest_has_touched_what_it_was_told_when_the_answer_comes(agent: AgentProcess) -> None:
    (place := agent.run_directory / "share").mkdir()
    for number in range(1000):
        (place / f"{number:0200}").write_text("x")

    async def scenario(channel: Channel) -> None:
        toucher = open_toucher(channel)
        with INotify() as watch:
            watch.add_watch(place, flags.CLOSE_WRITE)
            for names in ([], [f"{number:0200}" for number in range(1000)], ["gone"], [f"{1:0200}"]):
                await touch(toucher, [f"{place}/{name}" for name in names])
                assert [event.name for event in watch.read(timeout=0)] == [name for name in names if name != "gone"]
        toucher.close()
        with pytest.raises(SandboxError, match="the guest can't report changes: its process has ended"):
            await touch(toucher, ["/app/file"])

    agent.call(scenario)


def test_a_guest_that_knows_no_touch_or_can_not_or_is_gone_is_an_error(agent: AgentProcess, tmp_path: Path) -> None:
    async def scenario(channel: Channel) -> None:
        with pytest.raises(SandboxError, match="the guest can't report changes: ValueError: unknown request 'none'"):
            await touch(AgentStream(channel.open({"kind": "none"})), ["/app/file"])
        with pytest.raises(SandboxError, match="the guest can't report changes: no such directory"):
            await touch(AgentStream(start_shell(channel, "echo no such directory >&2; exit 1")), ["/app"])
        toucher = AgentStream(start_shell(channel, "cat >/dev/null"))
        waiting = asyncio.ensure_future(touch(toucher, ["/app/file"]))
        await asyncio.sleep(0.1)
        channel.close()
        with pytest.raises(StreamLost):
            await waiting
        with pytest.raises(StreamLost):
            open_toucher(channel)

    agent.call(scenario)
