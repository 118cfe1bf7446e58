"""A running machine: QEMU with its side processes, its control socket, and the channel to the agent.

The order in which things start is the order of reading; they end in reverse, the guest before QEMU before its disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kata_dind.errors import AbnormalShutdown, BootFailed, HostError, NoSpace, SandboxError
from kata_dind.host.disks import is_full
from kata_dind.host.process import Daemon, tail
from kata_dind.machine.argv import SHARE_TAG, node_name
from kata_dind.machine.qemu import Qemu, saved_parts
from kata_dind.machine.shape import StopDeadlines
from kata_dind.wire.channel import Channel, ChannelClosed, first_of, open_channel

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

logger = logging.getLogger(__name__)


_NO_LIMIT = {"max-bandwidth": 1 << 40}
"""QEMU would be considerate of a network: 128 MiB a second."""

_HOLD_SECONDS = 300.0
"""For the guest to write everything out, which may be a fifth of its memory, on a slow disk."""

_GO_ON_SECONDS = 60.0
"""For its agent to answer again; on a busy host an emulated guest takes seconds to."""


class Machine:
    """A machine whose guest may be talked to over `channel`."""

    def __init__(
        self, process: Daemon, qmp: QMPClient, channel: Channel, logs: list[Path], deadlines: StopDeadlines
    ) -> None:
        self.process = process
        self.channel = channel
        self._qmp = qmp
        self.logs = logs
        self.deadlines = deadlines
        """How long the machine may take to go down at the end of its block."""
        self.ended = asyncio.Event()
        """Set when QEMU has ended, for whatever reason."""
        self.dockerd_was_killed = False
        """Set when the agent had to kill dockerd on the way down."""
        self.discarded = False
        """Set when nobody will miss what is on the machine's disks: it ends at once, and that is no failure."""
        self.cut_off = False
        """Set to end QEMU without asking the guest, which could not do what it is asked any more."""
        self.saved = False
        """Set when the machine has ended with its state on file, from which it goes on."""
        self.paused = asyncio.Event()
        """Set while the guest stands still because the host's disk is full."""
        self._migrated = asyncio.Event()
        """Set when a state has been written or read, or could not be."""
        self._migration = ""
        """How that went: `completed` or `failed`."""
        self._still = asyncio.Lock()
        """Held while the guest stands still to be saved, so that nobody else lets it go on, or ends it."""
        asyncio.get_running_loop().add_reader(process.pidfd, self._process_ended)

    def _process_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self.process.pidfd)
        self.ended.set()

    async def wait_for_guest(self, *, timeout_seconds: float) -> None:
        """Wait for the agent's answer. Raises BootFailed when QEMU ends or the time is over, with the logs' tails."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await first_of(self.channel.agreed.wait(), self.ended.wait())
        except TimeoutError as error:
            raise BootFailed(
                f"the guest did not answer within {timeout_seconds:g} s", details=self.evidence()
            ) from error
        if not self.channel.agreed.is_set():
            raise BootFailed("QEMU ended before the guest answered", details=self.evidence())

    def heard_block_error(self, event: Any) -> bool:
        """Take note of a BLOCK_IO_ERROR that has paused the guest. Source: qapi/block-core.json."""
        if event["data"]["action"] == "stop":
            self.paused.set()
        return False  # nothing to queue

    def heard_migration(self, event: Any) -> bool:
        """Take note of a MIGRATION event that is the last of its kind. Source: qapi/migration.json."""
        if event["data"]["status"] in ("completed", "failed"):
            self._migration = event["data"]["status"]
            self._migrated.set()
        return False  # nothing to queue

    async def pause(self) -> None:
        """Let the guest stand still; one that is being saved does."""
        if not self._still.locked():
            self.paused.set()
            await self._execute("stop")

    async def resume(self) -> None:
        """Let the guest go on, and repeat the writes that it was paused for; one that fails again pauses it again.

        A guest that is being saved goes on by itself if it can't be.
        """
        if not self._still.locked():
            self.paused.clear()
            await self._execute("cont")

    async def save(self, state: Path, *, hold: dict[str, Any]) -> None:
        """End the machine with its devices' state in a file; its memory is in the shape's, which it must write to.

        Its disks are as they are, mounted. `hold` is what tells the agent. Raises SandboxError when QEMU can't.
        """
        async with self._still:
            await self._hold(hold)
            await self._write_state(state, memory=False)
            await self._end_saved()

    async def suspend(self, state: Path, *, hold: dict[str, Any], commit: Callable[[], None]) -> None:
        """End the machine with its memory and its devices' state in a file. `commit` blocks until all of it is safe.

        Its disks are as they are, mounted. `hold` is what tells the agent. Raises what `commit` raises, and NoSpace or
        SandboxError when QEMU can't: then the guest goes on, with a channel that has begun anew; where it can't, raises
        AbnormalShutdown.
        """
        async with self._still:
            try:
                await self._hold(hold)
                await self._command("stop")
                await self._write_state(state, memory=True)
                await asyncio.to_thread(commit)
            except BaseException as error:
                _remove(state)  # before the guest needs the room
                await self._go_on(error)
                raise
            await self._end_saved()

    async def _hold(self, request: dict[str, Any]) -> None:
        stream = self.channel.open(request)
        self.channel.hush()
        answer = asyncio.ensure_future(stream.wait_closed())
        try:
            async with asyncio.timeout(_HOLD_SECONDS):
                await first_of(asyncio.wait([answer]), self.paused.wait())
            if not answer.done():
                raise SandboxError("the guest was paused, since the host's disk is full")
            if "error" in (result := answer.result()):
                raise SandboxError(f"the guest could not be held still: {result['error']}")
        except TimeoutError as error:
            raise SandboxError(f"the guest did not hold still within {_HOLD_SECONDS:g} s") from error
        except ChannelClosed as error:
            raise SandboxError("the guest is gone", details=self.evidence()) from error
        finally:
            answer.cancel()

    async def _write_state(self, state: Path, *, memory: bool) -> None:
        from qemu.qmp import QMPError

        try:
            with state.open("xb") as file:
                self._qmp.send_fd_scm(file.fileno())
                await self._qmp.execute("getfd", {"fdname": "state"})
                await self._qmp.execute("migrate-set-capabilities", saved_parts(memory=memory))
                await self._qmp.execute("migrate-set-parameters", _NO_LIMIT)
                self._migrated.clear()
                await self._qmp.execute("migrate", {"uri": "fd:state"})
                await first_of(self._migrated.wait(), self.ended.wait())
                if not self._migrated.is_set():
                    raise SandboxError("QEMU ended while it saved the machine", details=self.evidence())
                if self._migration == "failed":
                    info = cast(dict[str, Any], await self._qmp.execute("query-migrate"))
                    why = f"QEMU could not save the machine: {info.get('error-desc', 'no reason given')}"
                    raise NoSpace(why) if is_full(state.parent) else SandboxError(why)
        except (QMPError, OSError) as error:
            raise SandboxError(f"QEMU could not save the machine: {error}", details=self.evidence()) from error

    async def _end_saved(self) -> None:
        self.saved = True
        await self._execute("quit")
        await self.ended.wait()

    async def _go_on(self, why: BaseException) -> None:
        """Let a guest that was to be saved go on. Raises AbnormalShutdown when it can't."""
        try:
            async with asyncio.timeout(_GO_ON_SECONDS):
                self.paused.clear()
                await self._command("migrate_cancel")  # harmless when there is nothing to cancel
                await self._command("cont")
                self.channel.begin()
                await first_of(self.channel.agreed.wait(), self.ended.wait(), self.paused.wait())
        except (TimeoutError, SandboxError) as error:
            self.cut_off = True
            raise AbnormalShutdown(f"the sandbox could neither be saved nor go on: {why}", details=str(error)) from why
        if self.ended.is_set():
            raise AbnormalShutdown(f"QEMU ended while it was saved: {why}", details=self.evidence()) from why

    async def wait_until_loaded(self, *, timeout_seconds: float) -> None:
        """Wait until QEMU has read all of a state that has the memory in it. Raises BootFailed when it can't."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await first_of(self._migrated.wait(), self.ended.wait())
        except TimeoutError as error:
            raise BootFailed(f"QEMU did not read the saved state within {timeout_seconds:g} s") from error
        if self._migration != "completed":
            raise BootFailed("QEMU could not read the saved state", details=self.evidence())

    async def plug_share(self, virtiofsd_socket: Path) -> None:
        """Give a running machine, whose memory is a shared file, its shared directory. Raises HostError."""
        from qemu.qmp import QMPError

        backend = {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": str(virtiofsd_socket)}},
                                              "server": False}}  # fmt: skip
        try:
            await self._qmp.execute("chardev-add", {"id": "share", "backend": backend})
            await self._qmp.execute("device_add", {"driver": "vhost-user-fs-pci", "id": "share", "chardev": "share",
                                                   "tag": SHARE_TAG, "bus": "hotplug0"})  # fmt: skip
        except QMPError as error:
            raise HostError(f"the machine takes no share: {error}", details=self.evidence()) from error

    async def plug_cpus(self, count: int) -> None:
        """Give a running machine further processors, of those that its shape has room for. Raises HostError."""
        from qemu.qmp import QMPError

        try:
            places = cast(list[dict[str, Any]], await self._qmp.execute("query-hotpluggable-cpus"))
            free = sorted((place for place in places if "qom-path" not in place), key=_place_of_cpu)
            for place in free[:count]:
                await self._qmp.execute("device_add", {"driver": place["type"], **place["props"]})
        except QMPError as error:
            raise HostError(f"the machine takes no further processor: {error}", details=self.evidence()) from error

    async def plug_memory(self, size_mib: int, *, shared: bool) -> None:
        """Give a running machine further memory, `shared` where another process must see it. Raises HostError."""
        from qemu.qmp import QMPError

        memory = {"qom-type": "memory-backend-memfd", "id": "further", "size": size_mib << 20, "share": shared}
        try:
            await self._qmp.execute("object-add", memory)
            await self._qmp.execute("device_add", {"driver": "pc-dimm", "memdev": "further"})
        except QMPError as error:
            raise HostError(f"the machine takes no further memory: {error}", details=self.evidence()) from error

    async def grow_disk(self, serial: str, *, size_bytes: int) -> None:
        """Make a disk larger while the guest uses it; the guest hears of it. Raises NoSpace."""
        from qemu.qmp import QMPError

        try:
            await self._qmp.execute("block_resize", {"node-name": node_name(serial), "size": size_bytes})
        except QMPError as error:
            raise NoSpace(f"the data root's disk can't grow to {size_bytes >> 20} MiB: {error}",
                          hint="use a smaller --size") from error  # fmt: skip

    async def _execute(self, command: str) -> None:
        try:
            await self._command(command)
        except SandboxError as error:  # QEMU has ended, which `ended` tells
            logger.warning("qmp: %s: %s", command, error.summary)

    async def _command(self, command: str) -> None:
        from qemu.qmp import QMPError

        try:
            await self._qmp.execute(command)
        except QMPError as error:
            raise SandboxError(f"QEMU refused '{command}': {error}") from error

    def evidence(self) -> str:
        """Return how QEMU ended, if it did, and the last lines of the machine's logs."""
        parts = [self.process.describe_end()] if self.ended.is_set() else []
        parts += [f"--- {log.name}\n{text}" for log in self.logs if (text := tail(log))]
        return "\n".join(parts)

    async def stop(self) -> None:
        """Take the guest down: dockerd, its file systems, the power; then QEMU.

        Raises AbnormalShutdown when the guest had to be cut off.
        """
        async with self._still:  # what is being saved is saved, or goes on, before it goes down
            pass
        if self.saved:
            await self.ended.wait()
            return
        if self.ended.is_set():
            raise AbnormalShutdown("QEMU ended by itself", details=self.evidence())
        deadlines = self.deadlines
        if not self.discarded and await self._guest_powers_off(deadlines):
            if self.dockerd_was_killed and deadlines.dockerd_seconds > 0:
                raise AbnormalShutdown(
                    f"dockerd did not stop within {deadlines.dockerd_seconds:g} s and was killed; "
                    "its data root is checked at the next start"
                )
            return
        with contextlib.suppress(Exception):  # whatever fails here, the next rung is TERM
            async with asyncio.timeout(deadlines.quit_seconds):
                await self._qmp.execute("quit")
                await self.ended.wait()
        if self.discarded:
            return
        why = "was paused, since the host's disk is full," if self.paused.is_set() else "could not shut down"
        raise AbnormalShutdown(
            f"the guest {why} and was cut off; its data root is checked at the next start",
            details=self.evidence(),
        )

    async def _guest_powers_off(self, deadlines: StopDeadlines) -> bool:
        if self.cut_off or not self.channel.agreed.is_set():
            return False
        with contextlib.suppress(TimeoutError, ChannelClosed):
            async with asyncio.timeout(deadlines.dockerd_seconds + deadlines.guest_seconds):
                self.channel.open({"kind": "poweroff", "timeout_seconds": deadlines.dockerd_seconds})
                await first_of(self.ended.wait(), self.paused.wait())
        return self.ended.is_set()


async def _require_restore(control: socket.socket) -> None:
    """Hear how QEMU took `restore_commands`, and hang up. Raises BootFailed when it refuses one of them."""
    with contextlib.suppress(ConnectionResetError):  # QEMU has ended, which others tell
        await _hear_answers(control, 3, refusal="QEMU does not go on from the saved machine")
    control.close()


async def _negotiate(control: socket.socket) -> None:
    """Make QEMU take commands. Raises OSError when it ends, BootFailed when it refuses.

    Not by QMPClient, which takes an event that comes before the answer for a refusal; a guest that goes on has some.
    """
    await asyncio.get_running_loop().sock_sendall(control, b'{"execute": "qmp_capabilities"}\n')
    await _hear_answers(control, 1, refusal="QEMU does not take commands")


async def _hear_answers(control: socket.socket, count: int, *, refusal: str) -> None:
    """Hear QEMU's answers to so many commands; what follows them is left in the socket.

    Raises ConnectionResetError when QEMU ends, BootFailed when it refuses a command.
    """
    while count:
        message = json.loads(await _receive_line(control))
        if "error" in message:
            raise BootFailed(refusal, details=message["error"]["desc"])
        count -= "return" in message


async def _receive_line(control: socket.socket) -> bytes:
    loop, readable, line = asyncio.get_running_loop(), asyncio.Event(), b""
    loop.add_reader(control, readable.set)
    try:
        while not line.endswith(b"\n"):
            await readable.wait()
            readable.clear()
            try:
                seen = control.recv(1 << 16, socket.MSG_PEEK)
            except BlockingIOError:  # what the loop had noticed has been taken since
                continue
            if not seen:
                raise ConnectionResetError("QEMU has hung up")
            line += control.recv(seen.find(b"\n") + 1 or len(seen))
    finally:
        loop.remove_reader(control)
    return line


@contextlib.asynccontextmanager
async def open_machine(
    qemu: Qemu, *, on_event: Callable[[dict[str, Any]], None], deadlines: StopDeadlines
) -> AsyncIterator[Machine]:
    """Meet a QEMU that has been started; at the block's end the guest is told to go down.

    A machine whose saved state has the memory in it stands still until `wait_until_loaded` and `resume`.
    Raises BootFailed when QEMU does not start, HostError when its network can't be made, AbnormalShutdown at the end of
    a block that itself went well.
    """
    from qemu.qmp import EventListener, QMPClient, QMPError  # while QEMU is at it

    def heard(message: dict[str, Any]) -> None:
        if message.get("event") == "container-killed":
            machine.dockerd_was_killed = True
        on_event(message)

    qmp = QMPClient(qemu.name)
    qmp.await_greeting = qmp.negotiate = False
    async with contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(qemu.agent, on_event=heard))
        # No event comes before the next await.
        machine = Machine(qemu.process, qmp, channel, list(qemu.logs), deadlines)
        try:
            async with asyncio.timeout(30):
                qmp.register_listener(EventListener("MIGRATION", machine.heard_migration))
                if qemu.answers:
                    await _require_restore(qemu.answers)  # first, so that QEMU has one control socket at a time to mind
                await _negotiate(qemu.control)
                await qmp.connect(qemu.control)
                if qemu.state_fd is not None and not qemu.answers:
                    await qmp.execute("migrate-set-capabilities", saved_parts(memory=True))
                    await qmp.execute("migrate-incoming", {"uri": f"fd:{qemu.state_fd}"})
        except (QMPError, TimeoutError, OSError) as error:
            qemu.process.ended(within_seconds=1.0)
            raise BootFailed("QEMU did not start", details=qemu.process.describe_end()) from error
        stack.push_async_callback(_disconnect, qmp)
        qemu.way_out.wait_until_open()  # which took less time than QEMU
        qmp.register_listener(EventListener("BLOCK_IO_ERROR", machine.heard_block_error))
        stack.push_async_exit(_stop_unless_hidden(machine))
        yield machine


def _remove(state: Path) -> None:
    state.unlink(missing_ok=True)


def _place_of_cpu(place: dict[str, Any]) -> tuple[int, ...]:
    return tuple(place["props"].get(key, 0) for key in ("socket-id", "die-id", "core-id", "thread-id"))


def _stop_unless_hidden(machine: Machine) -> Callable[..., Any]:
    """Make an exit callback that stops the machine, and never hides the error that ended the block."""

    async def stop(_kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            await machine.stop()
        except AbnormalShutdown as abnormal:
            if error is None:
                raise
            error.add_note(abnormal.summary)

    return stop


async def _disconnect(qmp: QMPClient) -> None:
    try:
        await qmp.disconnect()
    except Exception as error:  # noqa: BLE001 - QEMU may have closed its end first, which qemu.qmp reports in many ways
        logger.debug("qmp: %s", error)
