"""A running machine: QEMU with its side processes, its QMP socket, and the channel to the agent.

The order in which things start is the order of reading; they end in reverse, the guest before QEMU before its disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.errors import AbnormalShutdown, BootFailed, GuestNotReady, HostError, NoSpace, SandboxError
from kata_dind.host.disks import is_full
from kata_dind.host.process import Daemon, tail
from kata_dind.machine.monitor import disconnect, negotiate, require_restore
from kata_dind.machine.qemu import Qemu, state_parts
from kata_dind.machine.shape import StopDeadlines
from kata_dind.wire.channel import Channel, ChannelClosed, first_of, open_channel

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

logger = logging.getLogger(__name__)


_NO_LIMIT = {"max-bandwidth": 1 << 40}
"""QEMU would be considerate of a network: 128 MiB a second."""

_MEET_SECONDS = 30.0
"""For QEMU to take commands."""

_ANSWER_SECONDS = 60.0
"""For QEMU to answer a command, some of which wait for a disk that may be slow."""

_LAST_MOMENT_SECONDS = 2.0
"""A program closes its sockets, or leaves its network, at most this long before it has ended."""

_STATE_SECONDS = 60.0
_STATE_BYTES_PER_SECOND = 8 << 20
"""For a state to be written: less than any disk takes, a memory card and a share over a network included."""

_QUIT_SECONDS = 30.0
"""For QEMU to end after the machine's state was written; it has nothing left to write."""

_FLUSH_SECONDS = 300.0
"""For the guest to flush: what it has to write out may be a fifth of its memory, and the disk slow."""

_RUN_ON_SECONDS = 60.0
"""For the agent of a guest that could not be suspended to answer again; in an emulated guest that can take seconds."""


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
        """Set when the contents of the machine's disks are not needed any more: cutting it off is then right."""
        self.cut_off = False
        """Set when the guest can't answer any more: QEMU ends without asking it to shut down."""
        self.kept = False
        """Set when the machine's state is on file and its QEMU was told to quit."""
        self.paused = asyncio.Event()
        """Set while the guest stands still because the host's disk is full."""
        self._loads = False
        """Set when QEMU was told to read a state that has the memory in it."""
        self._migrated = asyncio.Event()
        """Set when a state has been written or read, or could not be."""
        self._migration = ""
        """How the last of these ended: `completed` or `failed`."""
        self._still = asyncio.Lock()
        """Locked during a snapshot or a suspension, so that nothing else pauses, unpauses or ends the guest then."""
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
                f"the guest did not answer within {timeout_seconds:g} s",
                id="vm.boot-timed-out",
                details=self.evidence(),
            ) from error
        if not self.channel.agreed.is_set():
            raise self._ended_early()

    def _ended_early(self) -> BootFailed:
        """Return the one error of a QEMU that ends before its guest answers, whichever wait notices it first."""
        if self._loads and self._migration != "completed":
            return BootFailed("QEMU could not read the saved state", id="vm.state-unreadable", details=self.evidence())
        return BootFailed("QEMU ended before the guest answered", id="vm.boot-failed", details=self.evidence())

    async def load(self, state_fd: int) -> None:
        """Let QEMU read a state that has the memory in it, for which `wait_until_loaded` waits.

        Raises BootFailed when QEMU refuses, or has ended before it was told.
        """
        from qemu.qmp import ExecuteError

        try:
            await self.ask("migrate-set-capabilities", state_parts(memory=True))
            self._loads = True
            await self.ask("migrate-incoming", {"uri": f"fd:{state_fd}"})
        except ExecuteError as error:
            raise BootFailed(
                f"QEMU could not read the saved state: {error}", id="vm.state-unreadable", details=self.evidence()
            ) from error
        except SandboxError as error:
            if not self.ended.is_set():
                raise
            if not self._loads:
                raise self._ended_early() from error

    async def require_running(self) -> None:
        """Raise BootFailed when QEMU has ended. It waits a moment first, since QEMU's sockets close before it ends."""
        await self._last_moment()
        if self.ended.is_set():
            raise self._ended_early()

    async def _last_moment(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENT_SECONDS):
                await self.ended.wait()

    async def _gone(self) -> SandboxError:
        """Return the one error of a QEMU that ends later, whichever wait notices it first."""
        await self._last_moment()
        return SandboxError(
            f"the guest is gone: {self.process.describe_state()}", id="guest.gone", details=self.evidence()
        )

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
        """Pause the guest, unless a snapshot or a suspension is under way, in which it stands still anyway."""
        if not self._still.locked():
            self.paused.set()
            await self._execute("stop")

    async def unpause(self) -> None:
        """Let a paused guest run again; QEMU repeats the write that failed, and pauses it anew if that fails again.

        Does nothing during a suspension, after which a guest that could not be suspended runs on anyway.
        """
        if not self._still.locked():
            self.paused.clear()
            await self._execute("cont")

    async def snapshot(self, state: Path, *, flush: dict[str, Any]) -> None:
        """End the machine with its devices' state in a file; its memory stays in its shape's memory file.

        Its file systems stay mounted. `flush` is the agent's request to flush. Raises NoSpace or SandboxError.
        """
        async with self._still:
            await self._flush(flush)
            await self._write_state(state, memory=False)
            await self._end_kept()

    async def suspend(self, state: Path, *, flush: dict[str, Any], commit: Callable[[], None]) -> None:
        """End the machine with its memory and its devices' state in a file. `commit` blocks until all of it is safe.

        Its file systems stay mounted. `flush` is the agent's request to flush. Raises NoSpace, SandboxError, and what
        `commit` raises: then the guest runs on, with a channel that has begun anew. Raises AbnormalShutdown when it
        can't run on.
        """
        async with self._still:
            try:
                await self._flush(flush)
                await self._command("stop")
                await self._write_state(state, memory=True)
                await asyncio.to_thread(commit)
            except BaseException as error:
                _remove(state)  # before the guest needs the space
                await self._run_on(error)
                raise
            await self._end_kept()

    async def _flush(self, request: dict[str, Any]) -> None:
        stream = self.channel.open(request)
        self.channel.hush()
        answer = asyncio.ensure_future(stream.wait_closed())
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await first_of(asyncio.wait([answer]), self.paused.wait())
            if not answer.done():
                raise SandboxError("the guest was paused, since the host's disk is full", id="guest.paused")
            if "error" in (result := answer.result()):
                raise SandboxError(f"the guest could not flush its data: {result['error']}", id="guest.flush-failed")
        except TimeoutError as error:
            raise SandboxError(
                f"the guest did not flush its data within {_FLUSH_SECONDS:g} s", id="guest.flush-timed-out"
            ) from error
        except ChannelClosed as error:
            raise await self._gone() from error
        finally:
            answer.cancel()

    async def _write_state(self, state: Path, *, memory: bool) -> None:
        from qemu.qmp import ExecuteError

        try:
            with state.open("xb") as file:
                await self._give(file.fileno(), "state")
                await self.ask("migrate-set-capabilities", state_parts(memory=memory))
                await self.ask("migrate-set-parameters", _NO_LIMIT)
                seconds = state_seconds(await self._memory_bytes() if memory else 0)
                self._migrated.clear()
                await self.ask("migrate", {"uri": "fd:state"})
                await self._wait_until_written(timeout_seconds=seconds)
                if self._migration == "failed":
                    info = await self.ask("query-migrate")
                    why = f"QEMU could not write the machine's state: {info.get('error-desc', 'no reason given')}"
                    if is_full(state.parent):
                        raise NoSpace(why, id="host.no-space")
                    raise SandboxError(why, id="vm.state-not-written", details=self.evidence())
        except (ExecuteError, OSError) as error:
            raise SandboxError(
                f"QEMU could not write the machine's state: {error}", id="vm.state-not-written", details=self.evidence()
            ) from error

    async def _wait_until_written(self, *, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await first_of(self._migrated.wait(), self.ended.wait())
        except TimeoutError as error:
            how_far = await self._how_far()
            raise SandboxError(
                f"QEMU did not write the machine's state within {timeout_seconds:g} s{how_far}",
                id="vm.state-write-timed-out",
                details=self.evidence(),
            ) from error
        if not self._migrated.is_set():
            raise await self._gone()

    async def _how_far(self) -> str:
        """Return how much of a state was written or read, as a part of a sentence; empty where QEMU does not tell."""
        from qemu.qmp import ExecuteError

        with contextlib.suppress(TimeoutError, SandboxError, ExecuteError):
            async with asyncio.timeout(_LAST_MOMENT_SECONDS):
                info = await self.ask("query-migrate")
                ram = info.get("ram", {})
                done, all_of_it = (ram.get(key, 0) >> 20 for key in ("transferred", "total"))
                return f": {done} of {all_of_it} MiB are done, and the migration is '{info.get('status', 'unknown')}'"
        return ""

    async def _memory_bytes(self) -> int:
        sizes = await self.ask("query-memory-size-summary")
        return int(sizes["base-memory"]) + int(sizes.get("plugged-memory", 0))

    async def _end_kept(self) -> None:
        self.kept = True
        await self._execute("quit")
        await self._wait_until_quit()

    async def _wait_until_quit(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUIT_SECONDS):
                await self.ended.wait()
        if not self.ended.is_set():
            logger.warning(
                "QEMU has written the machine's state and does not end, so it is forced to: %s", self.evidence()
            )

    async def _run_on(self, why: BaseException) -> None:
        """Let a guest run on that could not be suspended. Raises AbnormalShutdown when it can't."""
        try:
            async with asyncio.timeout(_RUN_ON_SECONDS):
                self.paused.clear()
                await self._command("migrate_cancel")  # harmless when there is nothing to cancel
                await self._command("cont")
                await self.begin_anew()
        except (TimeoutError, SandboxError) as error:
            self.cut_off = True
            if not self.ended.is_set():
                raise AbnormalShutdown(
                    f"the sandbox could not be suspended and can't run on: {why}",
                    id="vm.cannot-run-on",
                    details=f"{error}\n{self.evidence()}",
                ) from why
        if self.ended.is_set():
            raise AbnormalShutdown(
                f"QEMU ended while the sandbox was being suspended: {why}",
                id="vm.ended-while-suspending",
                details=self.evidence(),
            ) from why

    async def begin_anew(self) -> None:
        """Begin the channel anew: all its streams are lost. Returns when the agent has answered, or can't."""
        self.channel.begin()
        await first_of(self.channel.agreed.wait(), self.ended.wait(), self.paused.wait())

    async def wait_until_loaded(self, *, timeout_seconds: float) -> None:
        """Wait until QEMU has read all of a state that has the memory in it. Raises BootFailed when it can't."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await first_of(self._migrated.wait(), self.ended.wait())
        except TimeoutError as error:
            how_far = await self._how_far()
            raise BootFailed(
                f"QEMU did not read the saved state within {timeout_seconds:g} s{how_far}",
                id="vm.state-read-timed-out",
                details=self.evidence(),
            ) from error
        if self._migration != "completed":
            raise self._ended_early()

    async def _execute(self, command: str) -> None:
        try:
            await self._command(command)
        except SandboxError as error:  # QEMU has ended, and `ended` says so
            logger.warning("qmp: %s: %s", command, error.summary)

    async def _command(self, command: str) -> None:
        from qemu.qmp import ExecuteError

        try:
            await self.ask(command)
        except ExecuteError as error:
            raise SandboxError(
                f"QEMU refused '{command}': {error}", id="vm.command-refused", details=self.evidence()
            ) from error

    async def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return QEMU's answer to a command.

        Raises qemu.qmp's ExecuteError when QEMU refuses, SandboxError when it has ended or does not answer.
        """
        from qemu.qmp import ExecuteError, QMPError

        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._qmp.execute(command, arguments)
        except ExecuteError:
            raise
        except TimeoutError as error:
            raise SandboxError(
                f"QEMU did not answer '{command}' within {_ANSWER_SECONDS:g} s",
                id="vm.no-answer",
                details=self.evidence(),
            ) from error
        except QMPError as error:
            raise await self._gone() from error

    async def _give(self, fd: int, name: str) -> None:
        """Hand a descriptor to QEMU, under a name. Raises what `ask` raises."""
        from qemu.qmp import QMPError

        try:
            self._qmp.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise await self._gone() from error
        await self.ask("getfd", {"fdname": name})

    async def ask_guest(self, request: dict[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
        """Return the agent's answer to a request. Raises GuestNotReady without one, SandboxError without QEMU."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.channel.open(request).wait_closed()
        except TimeoutError as error:
            raise GuestNotReady(
                f"the guest did not answer '{request['kind']}' within {timeout_seconds:g} s",
                id="guest.no-answer",
                details=self.evidence(),
            ) from error
        except ChannelClosed as error:
            raise await self._gone() from error

    def evidence(self) -> str:
        """Return how QEMU ended, or that it runs; its command; and the last lines of the machine's logs."""
        logs = [f"--- {log.name}\n{text}" for log in self.logs if (text := tail(log))]
        return "\n".join([self.process.describe_state(), self.process.command, *logs])

    async def stop(self) -> None:
        """Take the guest down: dockerd, its file systems, the power; then QEMU.

        Raises AbnormalShutdown when the guest had to be cut off.
        """
        async with self._still:  # a snapshot or a suspension under way ends first, well or not
            pass
        if self.kept:
            await self._wait_until_quit()
            return
        if self.ended.is_set():
            raise AbnormalShutdown("QEMU ended by itself", id="vm.ended-by-itself", details=self.evidence())
        deadlines = self.deadlines
        if not self.discarded and await self._guest_powers_off(deadlines):
            if self.process.returncode() != 0:
                raise AbnormalShutdown("QEMU ended by itself", id="vm.ended-by-itself", details=self.evidence())
            if self.dockerd_was_killed and deadlines.dockerd_seconds > 0:
                raise AbnormalShutdown(
                    f"dockerd did not stop within {deadlines.dockerd_seconds:g} s and was killed; "
                    "its data root was not unmounted",
                    id="dockerd.stop-timed-out",
                )
            return
        with contextlib.suppress(Exception):  # whatever fails here, the next rung is TERM
            async with asyncio.timeout(deadlines.quit_seconds):
                await self._qmp.execute("quit")
                await self.ended.wait()
        if self.discarded:
            return
        if self.paused.is_set():
            raise AbnormalShutdown(
                "the guest was paused, since the host's disk is full, and was cut off; its data root was not unmounted",
                id="guest.paused",
                details=self.evidence(),
            )
        raise AbnormalShutdown(
            "the guest could not shut down and was cut off; its data root was not unmounted",
            id="guest.cut-off",
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


@contextlib.asynccontextmanager
async def open_machine(
    qemu: Qemu, *, on_event: Callable[[dict[str, Any]], None], deadlines: StopDeadlines
) -> AsyncIterator[Machine]:
    """Connect to a QEMU that has been started; at the block's end the guest is told to shut down.

    A machine that resumes stands still until `wait_until_loaded` has returned and `unpause` is called.
    Raises BootFailed when QEMU does not start, HostError when its network can't be made, and AbnormalShutdown at the
    end of a block that raised nothing itself.
    """
    from qemu.qmp import EventListener, QMPClient, QMPError  # while QEMU starts

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
            async with asyncio.timeout(_MEET_SECONDS):
                qmp.register_listener(EventListener("MIGRATION", machine.heard_migration))
                if qemu.answers:
                    await require_restore(qemu.answers)  # first, so that QEMU serves one QMP socket at a time
                await negotiate(qemu.qmp_socket)
                await qmp.connect(qemu.qmp_socket)
        except BootFailed as error:
            error.details = f"{error.details}\n{machine.evidence()}"
            raise
        except TimeoutError as error:
            raise BootFailed(
                f"QEMU did not take commands within {_MEET_SECONDS:g} s",
                id="vm.control-timed-out",
                details=machine.evidence(),
            ) from error
        except (QMPError, OSError) as error:
            await machine.require_running()
            raise BootFailed(
                f"QEMU does not take commands: {error}", id="vm.control-failed", details=machine.evidence()
            ) from error
        stack.push_async_callback(disconnect, qmp)
        if qemu.state_fd is not None and not qemu.answers:
            await machine.load(qemu.state_fd)
        try:
            qemu.way_out.wait_until_open()  # it mostly is already, since QEMU takes longer
        except HostError:
            await machine.require_running()  # there is no way out of the network of a QEMU that has ended
            raise
        qmp.register_listener(EventListener("BLOCK_IO_ERROR", machine.heard_block_error))
        stack.push_async_exit(_stop_unless_hidden(machine))
        yield machine


def state_seconds(memory_bytes: int) -> float:
    """Compute how long QEMU may take to write a machine's state with `memory_bytes` of memory in it."""
    return _STATE_SECONDS + memory_bytes / _STATE_BYTES_PER_SECOND


def _remove(state: Path) -> None:
    state.unlink(missing_ok=True)


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
