"""A machine without a guest: its kernel is a header alone, so QEMU runs and nothing in it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import AbnormalShutdown, BootFailed, HostError, KataDindError, SandboxError
from kata_dind.host.locks import is_locked, locked
from kata_dind.host.namespaces import find_unshare
from kata_dind.host.process import daemon
from kata_dind.machine import machine as machine_module
from kata_dind.machine.machine import Machine, open_machine
from kata_dind.machine.network import Isolation, WayOut
from kata_dind.machine.plugging import grow_disk, plug_cpus, plug_memory
from kata_dind.machine.qemu import Qemu, start_qemu
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


@contextlib.contextmanager
def started(
    directory: Path, shape: MachineShape, *, pass_fds: Sequence[int] = (), state: Path | None = None
) -> Iterator[Qemu]:
    isolation = Isolation(find_unshare(), as_root=os.geteuid() == 0, outbound=False)
    with start_qemu(
        shape, directory, isolation=isolation, virtiofsd_socket=None, pass_fds=pass_fds, state=state
    ) as qemu:
        yield qemu


@contextlib.asynccontextmanager
async def met(qemu: Qemu) -> AsyncIterator[Machine]:
    """Meet a QEMU whose guest will never answer, and end it without asking that guest."""
    async with open_machine(qemu, on_event=lambda _: None, deadlines=StopDeadlines(0, 0, 3)) as machine:
        machine.discarded = True
        yield machine


def kill(qemu: Qemu) -> None:
    os.kill(qemu.process.pid, signal.SIGKILL)
    assert qemu.process.ended(within_seconds=5)


def test_qemu_holds_the_locks_that_it_inherits(tmp_path: Path) -> None:
    async def hold() -> None:
        async with contextlib.AsyncExitStack() as stack:
            with locked(tmp_path / "lock", timeout_seconds=0) as descriptor:
                qemu = stack.enter_context(started(tmp_path, empty_shape(tmp_path), pass_fds=[descriptor]))
                machine = await stack.enter_async_context(met(qemu))
                machine.discarded = False
            assert is_locked(tmp_path / "lock"), "only we have held it"

    with pytest.raises(AbnormalShutdown):  # there is no guest to shut down
        asyncio.run(hold())
    assert not is_locked(tmp_path / "lock")


# --- a QEMU that ends before its guest answers is one event, so it has one sentence, whichever wait sees it first


ENDED = "QEMU ended before the guest answered"


def require_evidence(error: KataDindError, summary: str, how: str) -> None:
    assert error.summary == summary
    first, second, *_ = error.details.splitlines()
    assert first == f"qemu ended ({how})"
    assert second.startswith("command: qemu-system-")
    assert "vmlinuz" in second


def test_one_that_ends_before_we_meet_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            kill(qemu)
            async with met(qemu):
                pytest.fail("it was met")

    with pytest.raises(BootFailed) as caught:
        asyncio.run(scenario())
    require_evidence(caught.value, ENDED, "SIGKILL")


def test_one_that_does_not_take_its_options(tmp_path: Path) -> None:
    async def scenario() -> None:
        shape = empty_shape(tmp_path)
        shape.initramfs.unlink()
        with started(tmp_path, shape) as qemu:
            async with met(qemu):
                pytest.fail("it was met")

    with pytest.raises(BootFailed) as caught:
        asyncio.run(scenario())
    require_evidence(caught.value, ENDED, "exit 1")
    assert "No such file or directory" in caught.value.details  # QEMU's own words


def test_one_that_ends_while_the_way_out_opens(tmp_path: Path) -> None:
    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            # In slirp4netns's place: it can't enter the network of a process that has ended.
            script = f"sleep 0.5; kill -9 {qemu.process.pid}; exit 1"
            with daemon(["sh", "-c", script], name="slirp4netns", log=tmp_path / "network.log") as slirp:
                reader, writer = os.pipe()
                try:
                    async with met(qemu._replace(way_out=WayOut(slirp, reader))):
                        pytest.fail("it was met")
                finally:
                    os.close(reader)
                    os.close(writer)

    with pytest.raises(BootFailed) as caught:
        asyncio.run(scenario())
    require_evidence(caught.value, ENDED, "SIGKILL")


def test_one_that_ends_while_we_wait_for_the_guest(tmp_path: Path) -> None:
    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            async with met(qemu) as machine:
                asyncio.get_running_loop().call_later(0.2, kill, qemu)
                await machine.wait_for_guest(timeout_seconds=30)

    with pytest.raises(BootFailed) as caught:
        asyncio.run(scenario())
    require_evidence(caught.value, ENDED, "SIGKILL")


def test_a_way_out_that_fails_by_itself_is_told_as_that(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            started(tmp_path, empty_shape(tmp_path)) as qemu,
            daemon(["false"], name="slirp4netns", log=tmp_path / "network.log") as slirp,
        ):
            reader, writer = os.pipe()
            try:
                async with met(qemu._replace(way_out=WayOut(slirp, reader))):
                    pytest.fail("it was met")
            finally:
                os.close(reader)
                os.close(writer)

    with pytest.raises(HostError, match="cannot give the guest a network") as caught:
        asyncio.run(scenario())
    assert caught.value.details == "slirp4netns ended (exit 1)\ncommand: false"


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_is_not_a_saved_state_could_not_be_read(tmp_path: Path, killed: bool) -> None:
    (tmp_path / "state").write_bytes(bytes(1 << 20))

    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path), state=tmp_path / "state") as qemu:
            async with met(qemu) as machine:
                if killed:
                    kill(qemu)
                await machine.wait_until_loaded(timeout_seconds=30)

    with pytest.raises(BootFailed) as caught:
        asyncio.run(scenario())
    assert caught.value.summary == "QEMU could not read the saved state"
    assert "\ncommand: qemu-system-" in f"\n{caught.value.details}"


# --- a QEMU that is gone, or is silent, when it is asked for something


ASKED: dict[str, Callable[[Machine, Path], Coroutine[Any, Any, None]]] = {
    "processors": lambda machine, _: plug_cpus(machine, 1),
    "memory": lambda machine, _: plug_memory(machine, 128, shared=False),
    "a disk": lambda machine, _: grow_disk(machine, "data", size_bytes=1 << 30),
    "its state": lambda machine, directory: machine._write_state(directory / "written", memory=True),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_one_that_has_ended_is_told_as_that_whatever_it_is_asked(
    tmp_path: Path, ask: Callable[[Machine, Path], Coroutine[Any, Any, None]]
) -> None:
    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            async with met(qemu) as machine:
                os.kill(qemu.process.pid, signal.SIGKILL)
                await ask(machine, tmp_path)

    with pytest.raises(SandboxError) as caught:
        asyncio.run(scenario())
    require_evidence(caught.value, "the guest is gone: qemu ended (SIGKILL)", "SIGKILL")


def test_one_that_is_silent_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_ANSWER_SECONDS", 0.2)

    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            async with met(qemu) as machine:
                os.kill(qemu.process.pid, signal.SIGSTOP)
                try:
                    await plug_cpus(machine, 1)
                finally:
                    os.kill(qemu.process.pid, signal.SIGCONT)

    with pytest.raises(SandboxError, match=r"^QEMU did not answer 'query-hotpluggable-cpus' within 0.2 s$"):
        asyncio.run(scenario())


def test_a_state_that_takes_too_long_tells_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "state_seconds", lambda _: 0.0)

    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            async with met(qemu) as machine:
                await machine._write_state(tmp_path / "written", memory=True)

    too_long = (
        r"^QEMU did not write the machine's state within 0 s: \d+ of \d+ MiB are done, and the migration is '[a-z-]+'$"
    )
    with pytest.raises(SandboxError, match=too_long):
        asyncio.run(scenario())


def test_a_state_is_written_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        with started(tmp_path, empty_shape(tmp_path)) as qemu:
            async with met(qemu) as machine:
                assert await machine._memory_bytes() == 128 << 20
                await machine._write_state(tmp_path / "written", memory=True)
                await machine._end_kept()
                assert machine.ended.is_set()

    asyncio.run(scenario())
    assert (tmp_path / "written").stat().st_size > 0
