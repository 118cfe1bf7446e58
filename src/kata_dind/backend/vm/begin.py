"""From a plan to a QEMU that starts: disks, file sharing, the machine's process. It does without an event loop."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kata_dind.backend.plan import StartKind
from kata_dind.backend.vm.plan import (
    CHILD_SUFFIX,
    MEMORY,
    STATE,
    VmPlan,
    data_disk,
    layer_disk,
    machine_shape,
    require_seed_machine,
)
from kata_dind.backend.vm.saved import STATE_FILE, drop_saved
from kata_dind.backend.vm.shares import ServedShares
from kata_dind.backend.vm.space import require_space
from kata_dind.dataroot.kinds import DATA_ROOT_SHARE
from kata_dind.host.disks import copied_to_memory, create_disk
from kata_dind.host.namespaces import find_unshare
from kata_dind.machine.network import Isolation
from kata_dind.machine.qemu import Qemu, start_qemu
from kata_dind.machine.shape import MachineShape
from kata_dind.store.seeds import use_seed
from kata_dind.vocabulary import NetworkMode

LAYER_MIB = 10 * 1024

_SEED_BYTES = 1 << 30
"""A seed of a default machine takes 0.4 GiB, most of it memory, and 0.5 more where the cache is on another file system.

The disk must not become full while the memory of a machine is a file on it: QEMU can't pause that machine, which hangs.
"""


class BegunGuest(NamedTuple):
    """A guest whose processes run, and that was not connected to yet."""

    plan: VmPlan
    directory: Path
    qemu: Qemu
    shares: ServedShares
    late_share: bool
    """Whether the machine gets its share while it runs."""
    watched: set[Path]
    """Directories with disks that grow as the guest writes."""


@contextlib.contextmanager
def begin_guest(plan: VmPlan, locks: Sequence[int], directory: Path) -> Iterator[BegunGuest]:
    """Start the processes of a plan's machine in a sandbox's directory, for the length of the block.

    virtiofsd and QEMU, which write the data root, inherit the locks, since they may outlive us by a moment.
    Raises NoSpace, HostError.
    """
    unshare, as_root, asked = find_unshare(), os.geteuid() == 0, plan.own.asked
    shape = machine_shape(plan, directory)
    sparse = {disk.path.parent for disk in shape.disks if not disk.read_only}
    sparse |= {share.host_path.parent for share in plan.own.shares if share.name == DATA_ROOT_SHARE}
    with contextlib.ExitStack() as stack:
        if plan.seed:
            stack.enter_context(use_seed(plan.seed))
        if not plan.start.continues:
            from kata_dind.image.store import require_image, use_image  # which a clone need not load

            stack.enter_context(use_image(require_image(plan.image.image_id)))
        if plan.start is not StartKind.RESUME:
            make_disks(plan, directory)
        require_space(sparse, what="a guest")
        if plan.start is StartKind.BOOT_TO_SNAPSHOT:
            require_space([directory], least_bytes=_SEED_BYTES, what="the making of a seed")
        if plan.start is not StartKind.RESUME:
            drop_saved(directory)  # the guest is about to change the disks, which then don't match it
        _make_memory(shape)
        memory_fd = None
        shares = ServedShares(directory, unshare=unshare, as_root=as_root, xattr=plan.own.xattr, pass_fds=locks)
        stack.enter_context(shares)
        if plan.own.shares:
            shares.start(plan.own.shares)
        seed = plan.own.seed if plan.start is StartKind.RESTORE else None
        if seed and plan.own.shares:
            # In the seed's own file virtiofsd would not see pages that the guest has changed, of which QEMU has copies.
            memory_fd = stack.enter_context(copied_to_memory(seed.directory / MEMORY))
        qemu = stack.enter_context(
            start_qemu(
                shape,
                directory,
                isolation=Isolation(
                    unshare, as_root, asked.network is NetworkMode.NAT, allow_link_local=asked.allow_link_local
                ),
                virtiofsd_socket=shares.socket if plan.own.shares and not plan.start.continues else None,
                state=_state_of(plan, directory),
                memory_fd=memory_fd,
                pass_fds=locks,
            )
        )
        late_share = bool(plan.own.shares) and plan.start.continues
        yield BegunGuest(plan, directory, qemu, shares, late_share, sparse)


def copy_children(plan: VmPlan, directory: Path) -> None:
    """Give a clone its own empty disks over the seed's, unless they are there already."""
    assert plan.own.seed is not None
    disks = [layer_disk(directory), *([data_disk(directory)] if plan.own.data_disk else [])]
    for disk in disks:
        child = disk.with_suffix(CHILD_SUFFIX)
        if not child.exists():
            unfinished = child.with_suffix(".new")
            shutil.copyfile(plan.own.seed.directory / child.name, unfinished)
            unfinished.replace(child)


def make_disks(plan: VmPlan, directory: Path) -> None:
    """Make the disks, or the directory, that a sandbox writes, unless they are there already. Raises NoSpace."""
    if plan.seed:
        copy_children(plan, directory)
    else:
        create_disk(layer_disk(directory), size_mib=LAYER_MIB)
        if plan.own.data_disk:
            create_disk(
                data_disk(plan.own.data_directory), size_mib=plan.data_root_mib, filesystem=plan.own.asked.filesystem
            )
    for share in plan.own.shares:
        if share.name == DATA_ROOT_SHARE:
            share.host_path.mkdir(exist_ok=True)


def _make_memory(shape: MachineShape) -> None:
    if shape.memory_file and shape.memory_file.written:
        with shape.memory_file.path.open("wb") as file:
            os.truncate(file.fileno(), shape.memory_mib << 20)


def _state_of(plan: VmPlan, directory: Path) -> Path | None:
    if plan.start is StartKind.RESUME:
        return directory / STATE_FILE
    return require_seed_machine(plan).directory / STATE if plan.start is StartKind.RESTORE else None
