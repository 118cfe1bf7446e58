"""What QEMU says to the commands that it finds at its start, without QEMU."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kata_dind.errors import BootFailed
from kata_dind.machine.machine import state_seconds
from kata_dind.machine.monitor import negotiate, require_restore
from kata_dind.machine.qemu import restore_commands

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
TAKEN, RESUMED = b'{"return": {}}\r\n', b'{"timestamp": {}, "event": "RESUME"}\r\n'


def hear(*said: bytes, by: Callable[[socket.socket], Coroutine[Any, Any, None]] = require_restore) -> bytes:
    """Let what QEMU says be heard; return what is left of it."""

    async def scenario() -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            hearing = asyncio.ensure_future(by(ours))
            for part in said:
                theirs.sendall(part)
                await asyncio.sleep(0.001)
            theirs.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(hearing, 5)
            return b"" if ours.fileno() < 0 else ours.recv(1 << 16)

    return asyncio.run(scenario())


def test_three_answers_are_a_machine_that_was_restored() -> None:
    hear(GREETING, TAKEN, TAKEN[:5], TAKEN[5:] + RESUMED, TAKEN)


def test_what_qemu_refuses_is_a_failed_boot_with_its_reason() -> None:
    refusal = b'{"error": {"class": "GenericError", "desc": "no such migration capability"}}\r\n'
    with pytest.raises(BootFailed) as caught:
        hear(GREETING, TAKEN, refusal)
    assert (caught.value.id, caught.value.details) == ("vm.restore-refused", "no such migration capability")


def test_a_qemu_that_ends_is_reported_elsewhere() -> None:
    hear(GREETING, TAKEN)


def test_an_event_before_the_answer_is_not_taken_for_a_refusal_and_what_follows_is_left() -> None:
    assert hear(GREETING, RESUMED, TAKEN + RESUMED[:9], RESUMED[9:], by=negotiate) == RESUMED
    assert hear(GREETING[:7], GREETING[7:] + RESUMED + TAKEN, by=negotiate) == b""


def test_a_qemu_that_refuses_commands_is_a_failed_boot_with_its_reason() -> None:
    refusal = b'{"error": {"class": "CommandNotFound", "desc": "no such command"}}\r\n'
    with pytest.raises(BootFailed) as caught:
        hear(GREETING, refusal, by=negotiate)
    assert (caught.value.id, caught.value.details) == ("vm.control-failed", "no such command")


@pytest.mark.parametrize("said", [[], [GREETING], [GREETING, TAKEN[:5]]])
def test_a_qemu_that_ends_before_it_takes_commands_has_hung_up(said: list[bytes]) -> None:
    with pytest.raises(ConnectionResetError):
        hear(*said, by=negotiate)


def test_the_commands_are_a_line_each() -> None:
    commands = restore_commands(11)
    assert [line[:12] for line in commands.splitlines()] == [b'{"execute": '] * 3
    assert b'"fd:11"' in commands


def test_a_state_may_take_the_longer_the_more_memory_is_in_it() -> None:
    assert state_seconds(0) == 60
    assert state_seconds(2 << 30) == 60 + 256
    assert state_seconds(64 << 30) == 60 + 8192
