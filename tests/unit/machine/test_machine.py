"""What QEMU says to the commands that it finds at its start, without QEMU."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kata_dind.errors import BootFailed
from kata_dind.machine.machine import _require_restore
from kata_dind.machine.qemu import restore_commands

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
TAKEN, RESUMED = b'{"return": {}}\r\n', b'{"timestamp": {}, "event": "RESUME"}\r\n'


def hear(*said: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            hearing = asyncio.ensure_future(_require_restore(ours))
            for part in said:
                theirs.sendall(part)
                await asyncio.sleep(0.001)
            theirs.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(hearing, 5)

    asyncio.run(scenario())


def test_three_answers_are_a_machine_that_goes_on() -> None:
    hear(GREETING, TAKEN, TAKEN[:5], TAKEN[5:] + RESUMED, TAKEN)


def test_what_qemu_refuses_is_a_failed_boot_with_its_reason() -> None:
    refusal = b'{"error": {"class": "GenericError", "desc": "no such migration capability"}}\r\n'
    with pytest.raises(BootFailed) as caught:
        hear(GREETING, TAKEN, refusal)
    assert caught.value.details == "no such migration capability"


def test_a_qemu_that_ends_is_for_others_to_tell() -> None:
    hear(GREETING, TAKEN)


def test_the_commands_are_a_line_each() -> None:
    commands = restore_commands(11)
    assert [line[:12] for line in commands.splitlines()] == [b'{"execute": '] * 3
    assert b'"fd:11"' in commands
