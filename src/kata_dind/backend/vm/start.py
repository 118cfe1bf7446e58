"""From a plan to a running guest: disks, file sharing, the machine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from kata_dind.backend import OnEvent
from kata_dind.backend.vm.plan import (
    CHILD_SUFFIX,
    MEMORY,
    STATE,
    Plan,
    StartKind,
    data_disk,
    grows,
    layer_disk,
    machine_shape,
)
from kata_dind.backend.vm.saved import STATE_FILE, UNFINISHED, commit_saved, drop_saved, no_room, take_saved
from kata_dind.backend.vm.space import LIMITS_BYTES, Room, require_room, watch_space
from kata_dind.dataroot.kinds import DATA_ROOT_SHARE, GUEST_PATH
from kata_dind.errors import NoSpace, SandboxError
from kata_dind.host.channel import ChannelStream, background, first_of
from kata_dind.host.disks import copied_to_memory, create_disk, free_bytes
from kata_dind.host.namespaces import find_unshare
from kata_dind.host.process import Daemon, process_status
from kata_dind.image.store import require_image, use_image
from kata_dind.machine.machine import Machine, StopDeadlines, open_machine
from kata_dind.machine.network import Isolation
from kata_dind.machine.shape import DATA, MachineShape
from kata_dind.machine.virtiofsd import Bind, start_virtiofsd
from kata_dind.seed.store import use_seed
from kata_dind.vocabulary import DataRootKind, Filesystem

LAYER_MIB = 10 * 1024

IN_ORDER = StopDeadlines()

# Shares are written through, and the agent syncs; dockerd's own files go with the sandbox.
EPHEMERAL = StopDeadlines(dockerd_seconds=0)

CUT_OFF = StopDeadlines(dockerd_seconds=0, guest_seconds=0)

CLONE_FILES = frozenset(("layer.qcow2", "data.qcow2", "guest.log", "vmm.log", "network.log"))
"""What lies in the directory of a clone without shares before anybody owns it."""


_HOLD = {"kind": "hold", "data_root": GUEST_PATH}

_ROOMY = {"kind": "space", "bound": False, "hold": False, "time": None}
"""What a guest is told that was saved when the host may have had less room; the watch begins anew."""


class VmGuest:
    """The guest of a machine, as the owner of a sandbox sees it; one that has lost its share counts as ended."""

    def __init__(
        self, plan: Plan, machine: Machine, virtiofsd: Daemon | None, directory: Path, watched: set[Path]
    ) -> None:
        self._plan = plan
        self._machine = machine
        self._directory = directory
        self._watched = watched
        self._virtiofsd = virtiofsd
        self.ended = asyncio.Event()

    def open(self, request: dict[str, Any]) -> ChannelStream:
        """Open a stream to the agent."""
        return self._machine.channel.open(request)

    async def save(self) -> None:
        """End the machine with its devices' state beside its memory."""
        await self._machine.save(self._directory / STATE, hold=_HOLD)

    def require_suspendable(self) -> None:
        """Raise NoSpace where the state may not fit, SandboxError for a guest that stands still for want of space."""
        if self._machine.paused.is_set():
            raise SandboxError("the guest is paused, since the host's disk is full")
        needed = most_state_bytes(self._plan, process_status(self._machine.process.pid))
        free = free_bytes(self._directory)
        # Twice, so that the guest goes on without a hold if the save fails.
        if free < needed + 2 * LIMITS_BYTES[Room.SHORT]:
            raise no_room(self._directory, f"it takes up to {needed >> 20} MiB, and {free >> 20} MiB are free")

    async def suspend(self, facts: dict[str, Any]) -> None:
        """End the machine with its state in the sandbox's directory."""
        directory = self._directory
        disks = [disk.path.name for disk in machine_shape(self._plan, directory).disks if not disk.read_only]
        commit = functools.partial(commit_saved, directory, disks, facts)
        try:
            await self._machine.suspend(directory / UNFINISHED, hold=_HOLD, commit=commit)
        except NoSpace as error:
            raise no_room(directory, error.summary) from error

    def move(self, directory: Path, deadlines: StopDeadlines) -> None:
        """Let a clone without shares go on in another directory, with all its files, and go down by these deadlines."""
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
        """Return what has ended, and the logs' tails."""
        lost = self._virtiofsd is not None and self._virtiofsd.ended()
        parts = [self._virtiofsd.describe_end()] if lost and self._virtiofsd else []
        return "\n".join([*parts, self._machine.evidence()])

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


def copy_children(plan: Plan, directory: Path) -> None:
    """Give a clone its own empty disks over the seed's, unless it has them."""
    assert plan.seed_directory is not None
    disks = [layer_disk(directory), *([data_disk(directory)] if plan.data_disk else [])]
    for disk in disks:
        child = disk.with_suffix(CHILD_SUFFIX)
        if not child.exists():
            unfinished = child.with_suffix(".new")
            shutil.copyfile(plan.seed_directory / child.name, unfinished)
            unfinished.replace(child)


def make_disks(plan: Plan, directory: Path) -> None:
    """Make the disks, or the directory, that a sandbox writes, unless they are there. Raises NoSpace."""
    if plan.seed:
        copy_children(plan, directory)
    else:
        create_disk(layer_disk(directory), size_mib=LAYER_MIB)
        if plan.data_disk:
            create_disk(data_disk(plan.data_directory), size_mib=plan.data_root_mib, filesystem=plan.filesystem)
    for share in plan.shares:
        if share.name == DATA_ROOT_SHARE:
            share.host_path.mkdir(exist_ok=True)


def _make_memory(shape: MachineShape) -> None:
    if shape.memory_file and shape.memory_file.written:
        with shape.memory_file.path.open("wb") as file:
            os.truncate(file.fileno(), shape.memory_mib << 20)


def _state_of(plan: Plan, directory: Path) -> Path | None:
    if plan.start is StartKind.RESUME:
        return directory / STATE_FILE
    return plan.seed_directory / STATE if plan.start is StartKind.RESTORE and plan.seed_directory else None


async def _go_on(machine: Machine, directory: Path, *, timeout_seconds: float) -> None:
    """Let a machine go on from a sandbox's saved state, which is used once, or can't be used."""
    try:
        await machine.wait_until_loaded(timeout_seconds=timeout_seconds)
        take_saved(directory)
    except SandboxError:
        drop_saved(directory)
        raise
    await machine.resume()
    drop_saved(directory)


def most_state_bytes(plan: Plan, status: str) -> int:
    """Return how large the saved state can be, of a machine whose process has this proc_pid_status(5).

    It has the pages that are the machine's own, and those of the seed's memory, of which it may have written some.
    """
    own = sum(int(kib) << 10 for kib in re.findall(r"^(?:RssAnon|VmSwap):\s*(\d+) kB$", status, re.MULTILINE))
    seeds = 0
    if plan.start is StartKind.RESTORE and plan.seed_directory is not None:
        seeds = (plan.seed_directory / MEMORY).stat().st_blocks * 512
    return min(own + seeds, plan.memory_mib << 20)


@contextlib.asynccontextmanager
async def start_guest(
    plan: Plan, deadlines: StopDeadlines, locks: Sequence[int], directory: Path, on_event: OnEvent
) -> AsyncIterator[VmGuest]:
    """Start a plan's machine in a sandbox's directory; the block's end stops it.

    What writes the data root, virtiofsd and QEMU, inherits the locks, for it may outlive us by a moment.
    Raises NoSpace, HostError, BootFailed; AbnormalShutdown at the end of a block that went well itself.
    """
    unshare, as_root = find_unshare(), os.geteuid() == 0
    shape = machine_shape(plan, directory)
    sparse = {disk.path.parent for disk in shape.disks if not disk.read_only}
    sparse |= {share.host_path.parent for share in plan.shares if share.name == DATA_ROOT_SHARE}
    with contextlib.ExitStack() as stack:
        if plan.seed:
            stack.enter_context(use_seed(plan.seed))
        if not plan.start.goes_on:
            stack.enter_context(use_image(require_image(plan.image_id)))
        if plan.start is not StartKind.RESUME:
            make_disks(plan, directory)
        require_room(sparse)
        if plan.start is not StartKind.RESUME:
            drop_saved(directory)  # the disks are about to move on from it
        _make_memory(shape)
        socket_path = virtiofsd = memory_fd = None
        if plan.shares:
            socket_path = directory / "virtiofsd.sock"
            binds = [Bind(share.name, share.host_path, share.read_only) for share in plan.shares]
            virtiofsd = stack.enter_context(
                start_virtiofsd(directory / "shared", binds, socket_path=socket_path, log=directory / "virtiofsd.log",
                                unshare=unshare, as_root=as_root, xattr=plan.xattr, pass_fds=locks)
            )  # fmt: skip
        seed = plan.seed_directory if plan.start is StartKind.RESTORE else None
        if seed and plan.shares:
            # virtiofsd can't see what QEMU would have for itself in place of the seed's pages.
            memory_fd = stack.enter_context(copied_to_memory(seed / MEMORY))
        async with open_machine(
            shape,
            directory,
            isolation=Isolation(unshare, as_root, outbound=plan.network, allow_link_local=plan.allow_link_local),
            virtiofsd_socket=None if seed else socket_path,
            state=_state_of(plan, directory),
            memory_fd=memory_fd,
            on_event=on_event,
            deadlines=deadlines,
            pass_fds=locks,
        ) as machine:
            if plan.start is StartKind.RESUME:
                await _go_on(machine, directory, timeout_seconds=plan.timeout_seconds)
            await machine.wait_for_guest(timeout_seconds=plan.timeout_seconds)
            if plan.start is StartKind.RESUME:
                await machine.channel.open(_ROOMY).wait_closed()
            if seed and plan.memory_mib > plan.seed_memory_mib:
                await machine.plug_memory(plan.memory_mib - plan.seed_memory_mib, shared=bool(plan.shares))
            if seed and socket_path:
                await machine.plug_share(socket_path)
            if seed and plan.cpus > plan.seed_cpus:
                await machine.plug_cpus(plan.cpus - plan.seed_cpus)
            if seed and grows(plan):
                await machine.grow_disk(DATA, size_bytes=plan.data_root_mib << 20)
            guest = VmGuest(plan, machine, virtiofsd, directory, sparse)
            on_xfs = plan.filesystem is Filesystem.XFS and plan.data_root in (DataRootKind.BLOCK, DataRootKind.LOOP)
            watch = watch_space(machine, sparse, on_event, holds_data=not on_xfs)
            async with background(guest.watch()), background(watch):
                yield guest
