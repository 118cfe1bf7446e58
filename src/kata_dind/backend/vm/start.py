"""From a QEMU that starts to a running guest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from kata_dind.backend.events import OnEvent
from kata_dind.backend.plan import StartKind
from kata_dind.backend.vm.begin import BegunGuest
from kata_dind.backend.vm.descriptors import watch_descriptors
from kata_dind.backend.vm.events import guest_events
from kata_dind.backend.vm.plan import MEMORY, STATE, VmPlan, grows, machine_shape, require_seed_machine
from kata_dind.backend.vm.saved import UNFINISHED, commit_saved, drop_saved, no_space_for_state, take_saved
from kata_dind.backend.vm.space import LIMITS_BYTES, SpaceStage
from kata_dind.backend.vm.space_watch import watch_space
from kata_dind.backend.vm.streams import AgentStream, open_stream
from kata_dind.dataroot.kinds import GUEST_PATH
from kata_dind.errors import NoSpace, SandboxError
from kata_dind.host.disks import free_bytes
from kata_dind.host.process import process_status
from kata_dind.machine.machine import Machine, open_machine
from kata_dind.machine.plugging import grow_disk, plug_cpus, plug_memory, plug_share
from kata_dind.machine.shape import DATA, EPHEMERAL, StopDeadlines
from kata_dind.wire.channel import background, first_of
from kata_dind.wire.requests import Exec, Output, Request, StreamLost, Where

CLONE_FILES = frozenset(("layer.qcow2", "data.qcow2", "guest.log", "vmm.log", "network.log"))
"""The files in the directory of a clone without shares that was started early, before it is adopted."""


_TESTIMONY = "grep -E ' /var/lib/(docker|kata-dind) ' /proc/self/mountinfo; dmesg | tail -n 10"
_TESTIMONY_SECONDS = 5.0

_FLUSH = {"kind": "flush", "data_root": GUEST_PATH}

_TAKE_DATA = {"kind": "space", "bound": False, "refuse": False, "time": None}
"""Sent to a guest that resumes: it may have been told to refuse data before, and the watch begins anew."""


class VmGuest:
    """The guest of a machine, as the owner of a sandbox sees it. A guest that has lost its share counts as ended."""

    def __init__(self, begun: BegunGuest, machine: Machine) -> None:
        self._plan = begun.plan
        self._machine = machine
        self._directory = begun.directory
        self._watched = begun.watched
        self._virtiofsd = begun.virtiofsd
        self.ended = asyncio.Event()

    def open(self, request: Request) -> AgentStream:
        """Ask the agent for something."""
        return open_stream(self._machine.channel, request, self._plan)

    async def snapshot(self) -> None:
        """End the machine with its devices' state beside its memory."""
        await self._machine.snapshot(self._directory / STATE, flush=_FLUSH)

    def require_suspendable(self) -> None:
        """Raise NoSpace where the state may not fit, and SandboxError for a guest that is paused for lack of space."""
        if self._machine.paused.is_set():
            raise SandboxError("the guest is paused, since the host's disk is full", id="guest.paused")
        needed = most_state_bytes(self._plan, process_status(self._machine.process.pid))
        free = free_bytes(self._directory)
        # Twice, so that a guest that can't be suspended after all runs on without its data being refused.
        if free < needed + 2 * LIMITS_BYTES[SpaceStage.SHORT]:
            raise no_space_for_state(
                self._directory, f"it takes up to {needed >> 20} MiB, and {free >> 20} MiB are free"
            )

    async def suspend(self, facts: Mapping[str, Any]) -> None:
        """End the machine with its state in the sandbox's directory."""
        directory = self._directory
        disks = [disk.path.name for disk in machine_shape(self._plan, directory).disks if not disk.read_only]
        commit = functools.partial(commit_saved, directory, disks, facts)
        try:
            await self._machine.suspend(directory / UNFINISHED, flush=_FLUSH, commit=commit)
        except NoSpace as error:
            raise no_space_for_state(directory, error.summary) from error

    def move(self, plan: VmPlan, directory: Path, deadlines: StopDeadlines) -> None:
        """Give a clone without shares to a sandbox: its plan, its directory, and the deadlines of its shutdown."""
        self._plan = plan
        for path in self._directory.iterdir():
            if path.name in CLONE_FILES:
                path.rename(directory / path.name)
        self._machine.logs = [directory / log.name for log in self._machine.logs]
        self._machine.deadlines = deadlines
        self._watched.remove(self._directory)
        self._watched.add(directory)
        self._directory = directory

    def discard(self) -> None:
        """End the machine at once; with shares, after the guest has written them out."""
        self._machine.deadlines = EPHEMERAL
        self._machine.discarded = self._virtiofsd is None

    def evidence(self) -> str:
        """Return which process has ended, and the logs' tails."""
        lost = self._virtiofsd is not None and self._virtiofsd.ended()
        parts = [self._virtiofsd.describe_end()] if lost and self._virtiofsd else []
        return "\n".join([*parts, self._machine.evidence()])

    async def testimony(self) -> str:
        """Ask the guest's kernel what it saw."""
        command = Exec(("sh", "-c", _TESTIMONY), Where.GUEST)
        with contextlib.suppress(StreamLost, TimeoutError):
            async with asyncio.timeout(_TESTIMONY_SECONDS):
                stream = self.open(command)
                stream.end()
                output = b""
                while (part := await stream.receive()) is not None:
                    output += part.data if isinstance(part, Output) else b""
                return "--- guest kernel\n" + output.decode(errors="replace").strip()
        return ""

    async def watch(self) -> None:
        """Set `ended` when QEMU or virtiofsd has ended; without its share the guest's writes would hang for ever."""
        share_lost = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._virtiofsd is not None:
            loop.add_reader(self._virtiofsd.pidfd, share_lost.set)
        try:
            await first_of(self._machine.ended.wait(), share_lost.wait())
        finally:
            if self._virtiofsd is not None:
                loop.remove_reader(self._virtiofsd.pidfd)
        self._machine.cut_off = share_lost.is_set()
        self.ended.set()


async def _resume(machine: Machine, directory: Path, *, timeout_seconds: float) -> None:
    """Resume a machine from a sandbox's saved state, which is used up by that, also when it can't be read."""
    try:
        await machine.wait_until_loaded(timeout_seconds=timeout_seconds)
        take_saved(directory)
    except SandboxError:
        drop_saved(directory)
        raise
    await machine.unpause()
    drop_saved(directory)


def most_state_bytes(plan: VmPlan, status: str) -> int:
    """Return how large the saved state of a machine can be, from the proc_pid_status(5) of its process.

    The state has the machine's own pages in it, and those of the seed's memory.
    """
    own = sum(int(kib) << 10 for kib in re.findall(r"^(?:RssAnon|VmSwap):\s*(\d+) kB$", status, re.MULTILINE))
    seeds = 0
    if plan.start is StartKind.RESTORE:
        seeds = (require_seed_machine(plan).directory / MEMORY).stat().st_blocks * 512
    return min(own + seeds, plan.memory_mib << 20)


@contextlib.asynccontextmanager
async def start_guest(begun: BegunGuest, deadlines: StopDeadlines, on_event: OnEvent) -> AsyncIterator[VmGuest]:
    """Connect to a guest that was begun, and plug in what its seed lacks; the block's end stops it.

    Raises HostError, BootFailed, and AbnormalShutdown at the end of a block that raised nothing itself.
    """
    plan, directory = begun.plan, begun.directory
    lacks = plan.own.seed if plan.start is StartKind.RESTORE else None

    def heard(message: dict[str, Any]) -> None:
        for event in guest_events(message, plan.start):
            on_event(event)

    async with open_machine(begun.qemu, on_event=heard, deadlines=deadlines) as machine:
        if plan.start is StartKind.RESUME:
            await _resume(machine, directory, timeout_seconds=plan.timeout_seconds)
        await machine.wait_for_guest(timeout_seconds=plan.timeout_seconds)
        if plan.start is StartKind.RESUME:
            await machine.ask_guest(_TAKE_DATA, timeout_seconds=plan.timeout_seconds)
        if lacks and plan.memory_mib > lacks.memory_mib:
            await plug_memory(machine, plan.memory_mib - lacks.memory_mib, shared=bool(plan.own.shares))
        if begun.late_share:
            await plug_share(machine, begun.late_share)
        if lacks and plan.cpus > lacks.cpus:
            await plug_cpus(machine, plan.cpus - lacks.cpus)
        if grows(plan):
            await grow_disk(machine, DATA, size_bytes=plan.data_root_mib << 20)
        guest = VmGuest(begun, machine)
        async with contextlib.AsyncExitStack() as watches:
            await watches.enter_async_context(background(guest.watch()))
            await watches.enter_async_context(background(watch_space(machine, begun.watched, on_event)))
            if begun.virtiofsd is not None:
                await watches.enter_async_context(background(watch_descriptors(machine, begun.virtiofsd.pid)))
            yield guest
