"""From a QEMU that starts to a running guest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kata_dind.backend.events import OnEvent
from kata_dind.backend.plan import StartKind
from kata_dind.backend.vm.begin import BegunGuest
from kata_dind.backend.vm.descriptors import watch_descriptors
from kata_dind.backend.vm.events import guest_events
from kata_dind.backend.vm.plan import (
    MEMORY,
    STATE,
    PlannedShare,
    VmPlan,
    can_plug_share,
    grows,
    machine_shape,
    next_share,
    require_seed_machine,
    with_machine,
)
from kata_dind.backend.vm.saved import UNFINISHED, commit_saved, drop_saved, no_space_for_state, take_saved
from kata_dind.backend.vm.space import LIMITS_BYTES, SpaceStage
from kata_dind.backend.vm.space_watch import watch_space
from kata_dind.backend.vm.streams import AgentStream, open_stream
from kata_dind.backend.vm.touching import open_toucher, touch
from kata_dind.dataroot.kinds import GUEST_PATH
from kata_dind.errors import HostError, KataDindError, NoSpace, SandboxError
from kata_dind.host.disks import free_bytes
from kata_dind.host.process import process_status
from kata_dind.host.shareable import require_shareable
from kata_dind.machine.forwarding import GuestPorts, open_guest_ports
from kata_dind.machine.machine import Machine, open_machine
from kata_dind.machine.plugging import grow_disk, plug_cpus, plug_memory, plug_share, unplug_share
from kata_dind.machine.shape import DATA, EPHEMERAL, StopDeadlines
from kata_dind.vocabulary import NetworkMode
from kata_dind.wire.channel import background, first_of
from kata_dind.wire.requests import Exec, Output, Request, StreamLost, Where

logger = logging.getLogger(__name__)

NETWORK_LOG = "network.log"

CLONE_FILES = frozenset(("layer.qcow2", "data.qcow2", "guest.log", "vmm.log", NETWORK_LOG))
"""The files in the directory of a clone without shares that was started early, before it is adopted."""


_MEMORY_FILE = "memory-backend-memfd"
"""QEMU's name for it."""

_TESTIMONY = "grep -E ' /var/lib/(docker|kata-dind) ' /proc/self/mountinfo; dmesg | tail -n 10"
_TESTIMONY_SECONDS = 5.0

_REFUSALS = {
    "attach": "the guest can't attach the share",
    "detach": "the guest keeps the share",
    "freeze": "its state can't be saved",
}

_FLUSH = {"kind": "flush", "data_root": GUEST_PATH}

_TAKE_DATA = {"kind": "space", "bound": False, "refuse": False, "time": None}
"""Sent to a guest that resumes: it may have been told to refuse data before, and the watch begins anew."""


class VmGuest:
    """The guest of a machine, as the owner of a sandbox sees it. A guest that has lost its share counts as ended."""

    def __init__(self, begun: BegunGuest, machine: Machine, ports: GuestPorts | None) -> None:
        self._plan = begun.plan
        self.ports = ports
        self._machine = machine
        self._directory = begun.directory
        self._watched = begun.watched
        self._shares = begun.shares
        self._share_watch: asyncio.Task[None] | None = None
        self._share_lost = asyncio.Event()
        self._toucher: AgentStream | None = None
        self._can_plug_share = can_plug_share(begun.plan)
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
        if self._toucher is not None:
            self._toucher.close()  # since it may have files of shares open
        if self._shares.daemon is not None:
            await self._let_go_of_shares()
        disks = [disk.path.name for disk in machine_shape(self._plan, directory).disks if not disk.read_only]
        commit = functools.partial(commit_saved, directory, disks, facts)
        try:
            await self._machine.suspend(directory / UNFINISHED, flush=_FLUSH, commit=commit)
        except BaseException as error:
            if self._plan.own.shares and not self._machine.ended.is_set() and not self._machine.cut_off:
                await self._take_shares_again()
            if isinstance(error, NoSpace):
                raise no_space_for_state(directory, error.summary) from error
            raise

    # --- shares

    async def share(self, host_path: Path, guest_path: str, *, read_only: bool) -> VmPlan:
        """Give the guest a further share, and return its plan. Raises SpecError, HostError, SandboxError."""
        plan = self._plan
        require_shareable(host_path)
        if not self._can_plug_share:
            raise SandboxError(
                "the sandbox was started without shares, and gets its first one when it resumes",
                id="share.needs-resume",
            )
        share = next_share(plan.own.shares, host_path, guest_path, read_only=read_only)
        if self._shares.daemon is None:
            await self._plug([share])
        else:
            await asyncio.to_thread(self._shares.add, share)
        try:
            await self._ask_about_shares("attach", [share])
        except SandboxError:
            with contextlib.suppress(HostError):
                await asyncio.to_thread(self._shares.remove, share)
            raise
        self._plan = with_machine(plan, shares=(*plan.own.shares, share))
        return self._plan

    async def unshare(self, guest_path: str) -> VmPlan:
        """Take a share away, and return the plan without it. Raises SandboxError while a container uses it."""
        share = next(share for share in self._plan.own.shares if share.guest_path == guest_path)
        await self._ask_about_shares("detach", [share])
        await asyncio.to_thread(self._shares.remove, share)
        others = tuple(other for other in self._plan.own.shares if other != share)
        self._plan = with_machine(self._plan, shares=others)
        return self._plan

    async def touch(self, guest_paths: Sequence[str]) -> None:
        """Let the guest touch paths, and wait for that. Raises SandboxError, StreamLost."""
        if self._toucher is None or self._toucher.result is not None:
            self._toucher = open_toucher(self._machine.channel)
        await touch(self._toucher, guest_paths)

    async def _let_go_of_shares(self) -> None:
        """Let the containers stand still, and take their shares away. Raises SandboxError, with all as it was."""
        try:
            await self._ask_about_shares("freeze", [])
        except BaseException:
            await self._machine.begin_anew()  # as after every suspension that has failed
            raise
        try:
            self.watch_share(watched=False)
            await unplug_share(self._machine)
            self._shares.end()
        except BaseException:
            await self._take_shares_again()
            await self._machine.begin_anew()
            raise

    async def _take_shares_again(self) -> None:
        """Give the shares back to the guest of a machine that could not be suspended."""
        try:
            await self._plug(self._plan.own.shares)
            await self._ask_about_shares("attach", self._plan.own.shares)
        except KataDindError as error:
            logger.warning("the shares are lost: %s", error)
            self._share_lost.set()

    async def _plug(self, shares: Sequence[PlannedShare]) -> None:
        if self._shares.daemon is None:
            self._shares.start(shares)
            await plug_share(self._machine, self._shares.socket)
        self.watch_share(watched=True)

    async def _ask_about_shares(self, kind: str, shares: Sequence[PlannedShare]) -> None:
        request = {"kind": kind, "shares": [f"{share.name} {share.guest_path}" for share in shares]}
        answer = await self._machine.ask_guest(request, timeout_seconds=self._plan.timeout_seconds)
        if "error" in answer:
            raise SandboxError(f"{_REFUSALS[kind]}: {answer['error']}", id="share.guest-refused")

    def watch_share(self, *, watched: bool) -> None:
        """Take the end of virtiofsd for the guest's, or no longer: without its share the guest's writes would hang."""
        daemon, loop = self._shares.daemon, asyncio.get_running_loop()
        if daemon is None:
            return
        if self._share_watch is not None:
            self._share_watch.cancel()
            self._share_watch = None
        loop.remove_reader(daemon.pidfd)
        if watched:
            loop.add_reader(daemon.pidfd, self._share_lost.set)
            self._share_watch = asyncio.ensure_future(watch_descriptors(self._machine, daemon.pid))

    def move(self, plan: VmPlan, directory: Path, deadlines: StopDeadlines) -> None:
        """Give a clone without shares to a sandbox: its plan, its directory, and the deadlines of its shutdown."""
        self._plan = plan
        for path in self._directory.iterdir():
            if path.name in CLONE_FILES:
                path.rename(directory / path.name)
        self._machine.logs = [directory / log.name for log in self._machine.logs]
        if self.ports is not None:
            self.ports.log = directory / NETWORK_LOG
        self._machine.deadlines = deadlines
        self._watched.remove(self._directory)
        self._watched.add(directory)
        self._directory = self._shares.directory = directory

    def discard(self) -> None:
        """End the machine at once; with shares, after the guest has written them out."""
        self._machine.deadlines = EPHEMERAL
        self._machine.discarded = self._shares.daemon is None

    def evidence(self) -> str:
        """Return which process has ended, and the logs' tails."""
        daemon = self._shares.daemon
        parts = [daemon.describe_end()] if daemon is not None and daemon.ended() else []
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
        self.watch_share(watched=True)
        try:
            await first_of(self._machine.ended.wait(), self._share_lost.wait())
        finally:
            self.watch_share(watched=False)
        self._machine.cut_off = self._share_lost.is_set()
        self.ended.set()


async def _resume(machine: Machine, directory: Path, *, shared: bool, timeout_seconds: float) -> None:
    """Resume a machine from a sandbox's saved state, which is used up by that, also when it can't be read.

    `shared` tells that its memory is a file, which virtiofsd sees.
    """
    try:
        await machine.wait_until_loaded(timeout_seconds=timeout_seconds)
        if shared:
            await asyncio.to_thread(_give_zeros_back, machine.process.pid)
        take_saved(directory)
    except SandboxError:
        drop_saved(directory)
        raise
    await machine.unpause()
    drop_saved(directory)


def _give_zeros_back(pid: int) -> None:
    """Free the pages that QEMU has looked at before it would have read zeros into them: a page each, in a file."""
    from kata_dind.host.memory_files import find_memory_file, give_zeros_back  # which other starts need not load

    try:
        if file := find_memory_file(pid, _MEMORY_FILE):
            logger.info("%d MiB of the guest's memory are zeros and were freed", give_zeros_back(file) >> 20)
    except OSError as error:
        logger.warning("the zeros in the guest's memory take space: %s", error)


def most_state_bytes(plan: VmPlan, status: str) -> int:
    """Return how large the saved state of a machine can be, from the proc_pid_status(5) of its process.

    The state has the machine's own pages in it, which virtiofsd may see, and those of the seed's memory.
    """
    own = sum(int(kib) << 10 for kib in re.findall(r"^(?:RssAnon|RssShmem|VmSwap):\s*(\d+) kB$", status, re.MULTILINE))
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
            shared = bool(plan.own.shares)
            await _resume(machine, directory, shared=shared, timeout_seconds=plan.timeout_seconds)
        await machine.wait_for_guest(timeout_seconds=plan.timeout_seconds)
        if plan.start is StartKind.RESUME:
            await machine.ask_guest(_TAKE_DATA, timeout_seconds=plan.timeout_seconds)
        if lacks and plan.memory_mib > lacks.memory_mib:
            await plug_memory(machine, plan.memory_mib - lacks.memory_mib, shared=bool(plan.own.shares))
        if begun.late_share:
            await plug_share(machine, begun.shares.socket)
        if lacks and plan.cpus > lacks.cpus:
            await plug_cpus(machine, plan.cpus - lacks.cpus)
        if grows(plan):
            await grow_disk(machine, DATA, size_bytes=plan.data_root_mib << 20)
        async with contextlib.AsyncExitStack() as watches:
            ports = None
            if plan.own.asked.network is not NetworkMode.NONE:
                ports = await watches.enter_async_context(
                    open_guest_ports(machine, log=directory / NETWORK_LOG, host_ports=plan.own.asked.host_ports)
                )
            guest = VmGuest(begun, machine, ports)
            await watches.enter_async_context(background(guest.watch()))
            await watches.enter_async_context(background(watch_space(machine, begun.watched, on_event)))
            yield guest
