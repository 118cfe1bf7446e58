"""QEMU's process, with the sockets on which it is told what to do and reaches the agent.

Nothing here needs an event loop, whose import takes as long as QEMU's own start.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kata_dind.host.process import Daemon
from kata_dind.machine.argv import machine_argv
from kata_dind.machine.network import Isolation, WayOut, isolated_daemon
from kata_dind.machine.shape import MachineShape, Wiring


class Qemu(NamedTuple):
    """A QEMU process that has been started, and may not take commands yet."""

    name: str
    process: Daemon
    way_out: WayOut
    logs: tuple[Path, ...]
    qmp_socket: socket.socket
    agent: socket.socket
    state_fd: int | None
    """The state that it restores or resumes; None for a machine that boots."""
    answers: socket.socket | None
    """The socket with the answers to `restore_commands`, if it was given them at its start."""


@contextlib.contextmanager
def start_qemu(
    shape: MachineShape,
    directory: Path,
    *,
    isolation: Isolation,
    virtiofsd_socket: Path | None,
    state: Path | None = None,
    memory_fd: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Qemu]:
    """Start QEMU, which inherits `pass_fds`, for the length of the block; its logs lie in a directory.

    Without `state` the machine boots. With a state of `Machine.snapshot` it is restored, and its memory is the
    shape's memory file or the file `memory_fd`. With neither of those, `state` is one of `Machine.suspend`, which has
    the memory in it, and the machine resumes.
    Raises HostError when its network can't be made.
    """
    console, log = directory / "guest.log", directory / "vmm.log"
    with contextlib.ExitStack() as stack:
        qmp_socket, its_qmp = _socketpair(stack)
        agent, its_agent = _socketpair(stack)
        answers, its_answers = _socketpair(stack)
        asks_fd = state_fd = None
        if state:
            state_fd = stack.enter_context(state.open("rb")).fileno()
        if state_fd is not None and (shape.memory_file or memory_fd is not None):
            # A clone is to be there in a moment. A state with the memory in it is loaded later, by `Machine.load`,
            # which hears how that ends.
            asks_fd = its_answers.fileno()
            answers.send(restore_commands(state_fd))
        wiring = Wiring(its_qmp.fileno(), its_agent.fileno(), console, virtiofsd_socket, state_fd, memory_fd, asks_fd)
        wires = [fd for fd in (wiring.qmp_fd, wiring.agent_fd, asks_fd, state_fd, memory_fd) if fd is not None]
        process, way_out = stack.enter_context(
            isolated_daemon(machine_argv(shape, wiring), isolation, name="qemu", log=log, pass_fds=[*wires, *pass_fds])
        )
        for its in (its_qmp, its_agent, its_answers):
            its.close()  # so that we read an end of file when QEMU ends
        yield Qemu(
            shape.name,
            process,
            way_out,
            (log, console),
            qmp_socket,
            agent,
            state_fd,
            None if asks_fd is None else answers,
        )


def state_parts(*, memory: bool) -> dict[str, Any]:
    """Return QEMU's setting of whether a state has the memory in it beside the devices. Source: qapi/migration.json."""
    states = {"events": True, "x-ignore-shared": not memory}
    return {"capabilities": [{"capability": name, "state": state} for name, state in states.items()]}


def restore_commands(state_fd: int) -> bytes:
    """Return the commands that make QEMU restore the devices' state; it reads them when it starts to listen."""
    commands = [
        {"execute": "qmp_capabilities"},
        {"execute": "migrate-set-capabilities", "arguments": state_parts(memory=False)},
        {"execute": "migrate-incoming", "arguments": {"uri": f"fd:{state_fd}"}},
    ]
    return b"".join(json.dumps(command).encode() + b"\n" for command in commands)


def _socketpair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
        stack.callback(end.close)
    return pair
