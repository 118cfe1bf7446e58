"""Owning a sandbox: from a plan to a proven daemon, then its sockets, until it is told to stop.

The supervisor of `up` uses it, and in a thread `run` and the Python API do. It knows a backend by its protocols only.
Where a guest outlives its owner, the owner is a relay: it may come and go, and its end closes only the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from kata_dind.backend import Backend, Begun, Guest, SharingGuest, SnapshotGuest
from kata_dind.backend.events import GivenUp, GuestEvent, Kernel, Phase, Problem, Usable
from kata_dind.backend.plan import AnyPlan
from kata_dind.backend.plan_file import write_plan
from kata_dind.errors import AbnormalShutdown, KataDindError, NoSpace, SandboxError, SpecError
from kata_dind.host.disks import is_full
from kata_dind.life.container import FollowedContainer
from kata_dind.life.guests import volume_of
from kata_dind.life.host_services import serving_host_ports
from kata_dind.life.ports import SandboxPorts
from kata_dind.life.readiness import Readiness, asking_first, gone
from kata_dind.life.sockets import Sockets
from kata_dind.life.status import Status
from kata_dind.life.watching import SharesWatch
from kata_dind.progress import Report
from kata_dind.proof.verdict import Verdict
from kata_dind.store.sandboxes import Record, keep_shares, keep_watch
from kata_dind.wire.channel import first_of
from kata_dind.wire.requests import StreamLost

logger = logging.getLogger(__name__)

_GONE_SECONDS = 5.0
_PORTS_SECONDS = 10.0
"""How long the sandbox waits at most for the ports of a guest that ran before."""

Begin = Callable[[Path], AbstractContextManager[Begun]]
"""Begins to start the guest of a sandbox in a directory, for the length of a block."""


class Owner:
    """One start of one sandbox; `run` is its whole life."""

    def __init__(
        self, record: Record, plan: AnyPlan, backend: Backend, *, begin: Begin | None = None, report: Report
    ) -> None:
        self._record = record
        self._plan = plan
        self._backend = backend
        self._begin = begin or functools.partial(backend.begin, plan)
        self._volume = volume_of(plan, backend)
        self._proven = backend.proven(plan, record.directory)
        self._status = Status(record, report=report, goes_on=self._proven is not None and plan.outlives_owner)
        self._container = FollowedContainer(record.directory / backend.logs["dockerd"], self._status)
        self._readiness = Readiness(record, plan, self._proven, status=self._status, container=self._container)
        self._ports = SandboxPorts(record, self._status)
        self._watch = SharesWatch(record, self._status)
        self._sockets = Sockets(record, self)
        self._task: asyncio.Task[None] | None = None
        self._guest: Guest | None = None
        """Once the sandbox is ready."""
        self._stop = asyncio.Event()
        self._going_down = False
        self._suspending: asyncio.Task[None] | None = None
        self._sharing = asyncio.Lock()
        """Locked while a share comes or goes."""
        self._kept = False
        """Whether the guest has ended with its state on file."""
        self._publishes = False
        """Whether a guest that ran before has published ports."""
        self._no_space: NoSpace | None = None
        """The error of a start that was broken off since the guest was paused."""

    async def run(self) -> None:
        """Start the sandbox, serve it, stop it. Raises the error that made it fail, which is in its status, too."""
        self._status.write()
        self._task = asyncio.ensure_future(self._live())
        if self._stop.is_set():  # the stop was requested before there was a start to break off
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if self._no_space is not None:
                self._status.end("crashed", self._no_space)
                raise self._no_space from None
            self._status.end("stopped", None)
            raise
        except AbnormalShutdown as error:
            self._status.end("stopped", error)
            raise
        except KataDindError as error:
            failure = self._explained(error)
            self._status.end("crashed", failure)
            if failure is error:
                raise
            raise failure from error
        except BaseException as error:
            self._status.end("crashed", error)
            raise
        self._status.end("running" if self._plan.outlives_owner else "stopped", None)

    def request_stop(self) -> None:
        """Ask `run` to end, from the loop's thread: a start is broken off, a running sandbox goes down in order.

        A sandbox that is being stopped already is left alone, since every step of that ends by itself.
        """
        self._stop.set()
        if self._guest is None:
            self._break_off()

    def discard(self, guest: Guest) -> None:
        """Don't wait, at the end, for the sandbox's own disks, as a client has asked; a volume's data stays."""
        if self._volume is None:
            guest.discard()

    async def snapshot(self) -> None:
        """End the guest of a running sandbox with its state on file, to become a seed, and the sandbox with it."""
        assert self._guest is not None
        self._going_down = self._kept = True
        await cast(SnapshotGuest, self._guest).snapshot()

    async def suspend(self) -> None:
        """Suspend a running sandbox: its state is saved, and its clients' connections are closed.

        Raises SpecError, SandboxError or NoSpace, before anything is done, when it can't be suspended. Raises an error
        when the suspension fails: after AbnormalShutdown the sandbox is stopped, after any other error it runs on.
        """
        guest, name = self._guest, self._record.name
        if guest is None or self._going_down or self._stop.is_set() or self._suspending is not None:
            raise SandboxError(f"the sandbox '{name}' is {self._status.state}", id="sandbox.not-running")
        if why := self._why_not_suspendable():
            raise SpecError(
                f"--save: the state of '{name}' can't be saved: {why}",
                id="sandbox.not-suspendable",
                hint=f"kata-dind stop {name}",
            )
        if self._sharing.locked():
            raise SandboxError(f"a share of '{name}' is being changed", id="sandbox.busy")
        suspendable = cast(SnapshotGuest, guest)
        suspendable.require_suspendable()
        self._suspending = asyncio.ensure_future(self._suspend(suspendable))
        self._suspending.add_done_callback(_note_failure)
        await asyncio.shield(self._suspending)  # the client may be gone before the end

    async def share(self, share: Mapping[str, Any]) -> None:
        """Give a running sandbox a share, by the fields of the spec's, and keep it in the record.

        Raises what `SharingGuest.share` raises, and SandboxError for a sandbox that can't be given any now.
        """
        async with self._sharing:
            plan = await self._require_sharing().share(
                Path(share["host_path"]), str(share["guest_path"]), read_only=bool(share.get("read_only"))
            )
            self._keep_shares(plan, lambda shares: [*shares, dict(share)])

    async def unshare(self, guest_path: str) -> None:
        """Take the share at a path away from a running sandbox, and from its record. Raises as `share` does."""
        async with self._sharing:
            plan = await self._require_sharing().unshare(guest_path)
            self._keep_shares(plan, lambda shares: [share for share in shares if share["guest_path"] != guest_path])

    async def watch(self, *, on: bool) -> None:
        """Tell containers of changes in shares from now on, or no longer. Raises SandboxError as `share` does."""
        async with self._sharing:
            guest = self._require_running()
            keep_watch(self._record, on=on)
            await self._watch.unfollow()
            self._watch.follow(guest)
            await self._watch.wait_until_watched()

    def _require_sharing(self) -> SharingGuest:
        name, guest = self._record.name, self._require_running()
        if not self._backend.shares_later:
            raise SandboxError(
                f"the backend {self._plan.backend} can't give a running sandbox a share",
                id="share.not-supported",
                hint=f"kata-dind stop {name}, the same command again, and kata-dind start {name}",
            )
        return cast(SharingGuest, guest)

    def _require_running(self) -> Guest:
        name = self._record.name
        if self._suspending is not None:
            raise SandboxError(f"the sandbox '{name}' is being saved", id="sandbox.not-running",
                               hint=f"kata-dind start {name}, when it is saved")  # fmt: skip
        if self._guest is None or self._going_down or self._stop.is_set():
            raise SandboxError(f"the sandbox '{name}' is {self._status.state}", id="sandbox.not-running")
        return self._guest

    def _keep_shares(self, plan: AnyPlan, change: Callable[[list[Any]], list[Any]]) -> None:
        self._plan = plan
        write_plan(self._record.directory, plan)
        keep_shares(self._record, change)
        self._watch.update()

    def _why_not_suspendable(self) -> str:
        if self._backend.snapshots is None:
            return f"the backend {self._plan.backend} can't keep a guest's memory"
        if self._record.ephemeral.exists():
            return "it is removed when its owner ends"
        return self._backend.snapshots.why_not_suspendable(self._plan)

    async def _suspend(self, guest: SnapshotGuest) -> None:
        self._sockets.turns_away = True
        self._status.enter("stopping")
        try:
            await self._sockets.hang_up()
            await self._ports.unfollow()
            await self._watch.unfollow()
            facts = {name: self._status.get(name) for name in ("verdict", "data_root", "kernel")}
            await guest.suspend({**facts, "warnings": self._status.warnings})
        except AbnormalShutdown:
            self._stop.set()
            raise
        except BaseException:
            if not guest.ended.is_set() and not self._stop.is_set():
                # The guest runs on, and its streams are closed.
                self._container.follow(guest, check=False)
                self._ports.follow(guest)
                self._watch.follow(guest)
                self._status.enter("running")
            raise
        else:
            self._kept = True
        finally:
            self._suspending, self._sockets.turns_away = None, False

    # --- start, serve, stop

    async def _live(self) -> None:
        # The mark lies beside the data, so that the next sandbox on the same volume checks that.
        unclean = (self._volume or self._record).unclean
        check = unclean.exists()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._ports.close)
            self._ports.take_address()
            # The guest ends before its clients' connections do, so that they receive all that it sends.
            stack.push_async_callback(self._sockets.end_connections)
            stack.push_async_callback(self._ports.unfollow)
            stack.callback(self._container.let_go)
            if self._plan.outlives_owner:
                self._record.lasting.touch()
            begun = stack.enter_context(self._begin(self._record.directory))
            guest = await stack.enter_async_context(begun.meet(self._heard))
            await stack.enter_async_context(serving_host_ports(guest))
            unclean.touch()
            try:
                await self._serve(stack, guest, check=check)
            except StreamLost as error:
                raise await _guest_gone(guest) from error
            finally:
                self._going_down = True
        # A guest that was suspended or snapshot, or that outlives its owner, has its file systems mounted.
        if not self._kept and not self._plan.outlives_owner:
            unclean.unlink(missing_ok=True)

    async def _serve(self, stack: contextlib.AsyncExitStack, guest: Guest, *, check: bool) -> None:
        if self._proven is not None and self._proven.dockerd_log:
            self._container.said_before(self._proven.dockerd_log)
        answer = await stack.enter_async_context(asking_first(guest))
        self._container.follow(guest, check=check)
        stack.push_async_callback(self._container.unfollow)
        if self._proven is None:  # before dockerd answers: it starts containers first that are to be restarted
            self._ports.follow(guest)
        stack.push_async_callback(self._watch.unfollow)
        self._watch.follow(guest)
        await stack.enter_async_context(self._sockets.control(guest))

        async def let_in() -> None:
            await stack.enter_async_context(self._sockets.endpoint(guest))

        verdict = await self._readiness.wait(guest, answer, let_in)
        if self._proven is not None:
            await self._follow_ports(guest)
        await self._watch.wait_until_watched()
        self._become_ready(guest, verdict)
        await first_of(self._stop.wait(), guest.ended.wait(), self._container.ended.wait())
        if self._suspending is not None:
            await asyncio.wait([self._suspending])
        self._status.enter("stopping")
        if not self._stop.is_set() and not self._kept:
            raise gone(guest) if guest.ended.is_set() else self._container.sudden_end()

    async def _follow_ports(self, guest: Guest) -> None:
        """Answer what a guest that ran before asks about its ports; those that it has are reachable then."""
        self._ports.follow(guest)
        if self._publishes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PORTS_SECONDS):
                    await self._ports.told.wait()

    def _become_ready(self, guest: Guest, verdict: Verdict) -> None:
        self._guest = guest
        self._note_verdict(verdict)
        self._status.know(verdict=dataclasses.asdict(verdict))
        if not verdict.file_capabilities:
            self._status.warn(
                "the data root keeps no file capabilities: images that have any lose them, or cannot be loaded"
            )
        self._status.ready()

    def _note_verdict(self, verdict: Verdict) -> None:
        if self._volume is None:
            return
        try:
            self._volume.note_verdict(
                sandbox=self._record.name, docker_version=verdict.docker_version, storage=verdict.storage
            )
        except OSError as error:
            logger.warning("cannot write the verdict down for the volume: %s", error)  # as with the status

    # --- what the backend reports

    def _heard(self, event: GuestEvent) -> None:
        match event:
            case Phase(name, message, ago):
                self._status.phase(name, message, ended_seconds_ago=ago)
            case Kernel(version):
                self._status.know(kernel=version)
            case Problem(message, paused, solved, unsure):
                self._status.problem(message, solved=solved, unsure=unsure)
                if paused:
                    self._give_up_a_paused_start(message)
            case GivenUp(message):
                logger.warning("%s", message)
                self.request_stop()
            case Usable(changed, check_seconds, publishes) if self._guest is None:
                self._publishes = publishes
                self._status.know(data_root=dict(changed), check_seconds=check_seconds)
                self._readiness.usable.set()

    def _give_up_a_paused_start(self, problem: str) -> None:
        """Break off a start whose guest is paused, since space on the host may never come."""
        if self._guest is None and not self._going_down:
            self._no_space = _no_space(problem, "")
            self._break_off()

    def _break_off(self) -> None:
        if self._task is not None and not self._going_down:
            self._going_down = True
            self._task.cancel()

    def _explained(self, error: KataDindError) -> KataDindError:
        """Name the cause that a guest can't know: it sees a full disk of the host as an I/O error of any kind."""
        directory = self._record.directory
        problem = self._status.get("problem")
        if isinstance(error, NoSpace) or not (problem or is_full(directory)):
            return error
        return _no_space(
            problem or f"the file system of {directory} is full", f"{error.summary}\n{error.details}".strip()
        )


def _no_space(summary: str, details: str) -> NoSpace:
    hint = "free space there, or set KATA_DIND_STATE_DIR to a directory with more"
    return NoSpace(summary, id="host.no-space", details=details, hint=hint)


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the sandbox could not be suspended: %s", error)


async def _guest_gone(guest: Guest) -> SandboxError:
    """Wait for the end of a guest whose streams are lost, since its sockets close a moment earlier."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_SECONDS):
            await guest.ended.wait()
    return gone(guest)
