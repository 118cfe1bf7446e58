"""A machine without a guest: its kernel is a header alone, so QEMU runs and nothing in it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from kata_dind.errors import AbnormalShutdown
from kata_dind.host.locks import is_locked, locked
from kata_dind.host.namespaces import find_unshare
from kata_dind.machine.machine import open_machine
from kata_dind.machine.network import Isolation
from kata_dind.machine.qemu import start_qemu
from kata_dind.machine.shape import MachineShape, StopDeadlines
from kata_dind.vocabulary import Accelerator

pytestmark = pytest.mark.requires("qemu", "netns")


def empty_shape(directory: Path) -> MachineShape:
    """The least that QEMU takes for a Linux kernel. Source: the kernel's Documentation/arch/x86/boot.rst."""
    kernel = bytearray(1 << 16)
    kernel[0x1F1], kernel[0x211] = 4, 1  # four sectors of setup; loaded high
    kernel[0x1FE:0x200], kernel[0x202:0x208] = b"\x55\xaa", b"HdrS\x0f\x02"
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")  # the initramfs may lie anywhere
    (directory / "vmlinuz").write_bytes(kernel)
    (directory / "initramfs").write_bytes(bytes(1024))
    return MachineShape(
        accelerator=Accelerator.TCG, cpus=1, memory_mib=128, kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs", disks=(), network=False,
    )  # fmt: skip


def test_qemu_holds_the_locks_that_it_inherits(tmp_path: Path) -> None:
    isolation = Isolation(find_unshare(), as_root=os.geteuid() == 0, outbound=False)

    async def hold() -> None:
        async with contextlib.AsyncExitStack() as stack:
            with locked(tmp_path / "lock", timeout_seconds=0) as descriptor:
                qemu = stack.enter_context(
                    start_qemu(
                        empty_shape(tmp_path),
                        tmp_path,
                        isolation=isolation,
                        virtiofsd_socket=None,
                        pass_fds=[descriptor],
                    )
                )
                machine = open_machine(qemu, on_event=lambda _: None, deadlines=StopDeadlines(0, 0, 3))
                await stack.enter_async_context(machine)
            assert is_locked(tmp_path / "lock"), "only we have held it"

    with pytest.raises(AbnormalShutdown):  # there is no guest to shut down
        asyncio.run(hold())
    assert not is_locked(tmp_path / "lock")
