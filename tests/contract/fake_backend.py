"""A backend without a machine: its guest is the other end of a socket, in this process, with a fake dockerd in it.

It keeps the promises of `kata_dind.backend` and passes the contract suite: `BACKEND`, which can keep a guest's memory,
and `PLAIN`, which can't. A sandbox's image names how its guest behaves; what the guest went through is in its
`guest.log`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kata_dind.backend import Backend, Begun, Guest, PackedSeed, Proven, Wish
from kata_dind.backend.events import OnEvent, Problem
from kata_dind.backend.host_volumes import HostVolumes
from kata_dind.backend.plan import AnyPlan, PlannedImage, StartKind
from kata_dind.backend.vm.events import guest_events
from kata_dind.backend.vm.streams import AgentStream
from kata_dind.dataroot.kinds import DATA_DISK, DATA_ROOT_SHARE, LOOP_FILE
from kata_dind.errors import AbnormalShutdown, BootFailed, KataDindError, NoSpace, SandboxError, SpecError
from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import ERROR, EVENTS
from kata_dind.host.json_files import read_json
from kata_dind.host.process import daemon
from kata_dind.life.relays import relay_connection
from kata_dind.progress import Report
from kata_dind.vocabulary import DataRootKind, Fallback
from kata_dind.wire.channel import Channel, ChannelClosed, ChannelStream, first_of, open_channel
from kata_dind.wire.requests import Container, Docker, Exec, Request, StreamLost, exec_to_json
from tests.contract.fake_dockerd import FakeDockerd, Faults, serve_dockerd
from tests.plans import plan_with

if TYPE_CHECKING:
    from kata_dind.store.seeds import Seed

DATA_ROOT: dict[str, object] = {
    "kind": "block",
    "path": "/var/lib/docker",
    "filesystem": "ext4",
    "device": "/dev/vdd",
    "size_bytes": 1 << 30,
    "direct_io": None,
    "storage_driver": "",
    "proof": {"mount": "passed", "whiteout": "passed"},
    "reasons": {},
}
_READY = {"kata_dind": "info", "step": "ready", **DATA_ROOT}


@dataclass(frozen=True)
class Behaviour:
    """How a guest behaves; the defaults are a healthy one."""

    boots: bool = True
    boot_seconds: float = 0.0
    says: tuple[Mapping[str, object], ...] = (_READY,)
    """What the guest entrypoint says on standard error."""
    exit_code: int | None = None
    """The code with which the container ends before dockerd answers; None: it runs on."""
    answers: bool = True
    """Whether dockerd ever listens."""
    dies_before_ready: bool = False
    faults: Faults = field(default_factory=Faults)
    problems: tuple[Problem, ...] = ()
    """What the backend reports once the guest has booted."""
    stop_seconds: float = 0.0
    """How long dockerd takes to stop."""
    goes_down: bool = True
    """Whether the guest powers off when it is told to."""
    writer_seconds: float | None = None
    """How long a process that writes the data root runs on when its owner is gone; None: there is no such process."""
    timeout_seconds: float = 20.0
    fallback: Fallback = Fallback.NONE
    restores: bool = False
    """Whether the guest is restored from a seed: it can be started early, and is renewed when it gets its container."""
    unsavable: str = ""
    """Why it can't be suspended."""
    suspend_refusal: KataDindError | None = None
    """Why it can't be suspended at the moment."""
    suspend_seconds: float = 0.0
    suspend_failure: KataDindError | None = None
    """What becomes of a suspension; None: the guest is saved."""
    resumes: bool | None = True
    """Whether it can resume; None: its owner is killed before that is known."""


_WRITER = """
import signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
time.sleep(float(sys.argv[1]))
"""

_SHORT = Problem("/host has 9 MiB left")


def _complaint(step: str, message: str) -> dict[str, str]:
    return {"kata_dind": "error", "step": step, "message": message, "hint": "set KATA_DIND_DATA_ROOT to block"}


BEHAVIOURS = {
    "healthy": Behaviour(),
    "warns": Behaviour(says=({"kata_dind": "warning", "step": "prepare", "message": "writes are slow"}, _READY)),
    "babbles": Behaviour(says=({"kata_dind": "info"}, {"kata_dind": "error"}, {"kata_dind": "warning"}, _READY)),
    "refuses-overlay": Behaviour(says=(_complaint("verify", "overlay does not work on fuse"),), exit_code=78),
    "finds-no-data-root": Behaviour(says=(_complaint("prepare", "/dev/vdb is not blank"),), exit_code=78),
    "gets-bad-input": Behaviour(says=(_complaint("parse", "KATA_DIND_SIZE is 'x'"),), exit_code=64),
    "crashes": Behaviour(exit_code=1),
    "runs-short": Behaviour(problems=(_SHORT,)),
    "heals": Behaviour(problems=(_SHORT, Problem("", solved="/host has space again"))),
    "fails-for-want-of-space": Behaviour(problems=(_SHORT,), exit_code=1),
    "is-paused": Behaviour(problems=(Problem("/host is full", paused=True),), answers=False),
    "answers-late": Behaviour(faults=Faults(pings_before_ready=2)),
    "never-answers": Behaviour(answers=False, timeout_seconds=1.2),
    "is-silent": Behaviour(faults=Faults(silent_on=frozenset({"GET /_ping"})), timeout_seconds=1.2),
    "falls-silent": Behaviour(faults=Faults(silent_on=frozenset({"POST /images/load"})), timeout_seconds=1.2),
    "is-full": Behaviour(faults=Faults(load_error="write /d/kept: no space left on device")),
    "falls-to-vfs": Behaviour(faults=Faults(driver="vfs", driver_status=[])),
    "is-proven-with-vfs": Behaviour(
        faults=Faults(driver="vfs", driver_status=[], refuses_capabilities=True), fallback=Fallback.VFS
    ),
    "never-boots": Behaviour(boots=False, timeout_seconds=0.3),
    "boots-slowly": Behaviour(boot_seconds=60.0),
    "dies-early": Behaviour(answers=False, dies_before_ready=True),
    "stops-slowly": Behaviour(stop_seconds=0.5),
    "stops-slowly-and-never-answers": Behaviour(stop_seconds=0.5, answers=False),
    "fails-and-stops-slowly": Behaviour(stop_seconds=0.5, faults=Faults(driver="vfs", driver_status=[])),
    "writes-for-a-moment": Behaviour(writer_seconds=1.0),
    "does-not-go-down": Behaviour(goes_down=False),
    "is-restored": Behaviour(restores=True),
    "is-restored-slowly": Behaviour(restores=True, boot_seconds=60.0),
    "is-restored-in-vain": Behaviour(restores=True, boots=False, timeout_seconds=0.1),
    "has-shares": Behaviour(unsavable="it has shares"),
    "suspends-slowly": Behaviour(suspend_seconds=0.5),
    "finds-no-space-to-suspend": Behaviour(suspend_refusal=NoSpace("there is no space", id="host.no-space")),
    "runs-out-of-space-when-suspended": Behaviour(suspend_failure=NoSpace("there was no space", id="host.no-space")),
    "cannot-be-suspended": Behaviour(
        suspend_seconds=0.3, suspend_failure=SandboxError("QEMU could not", id="vm.state-not-written")
    ),
    "is-lost-when-suspended": Behaviour(
        suspend_failure=AbnormalShutdown("it was not suspended and can't run on", id="vm.cannot-run-on")
    ),
    "is-killed-before-it-resumes": Behaviour(resumes=None),
    "does-not-resume": Behaviour(resumes=False),
}


def fake_plan(behaviour: str, directory: Path, *, start: StartKind = StartKind.BOOT, **changes: Any) -> AnyPlan:
    """Return the plan of a guest that behaves so, with its data root in a directory."""
    behaves = BEHAVIOURS[behaviour]
    fields: dict[str, Any] = {
        "image": PlannedImage(behaviour, behaviour),
        "accelerator": "fake",
        "data_root": DataRootKind.MEMORY,
        "fallback": behaves.fallback,
        "timeout_seconds": behaves.timeout_seconds,
        "own": {"data_directory": str(directory)},
        "start": start,
    }
    return plan_with(**{**fields, **changes})


class FakeBackend:
    """The backend."""

    logs: Mapping[str, str] = {"dockerd": "dockerd.log", "guest": "guest.log"}
    lasting = None
    shares_later = False

    def __init__(self, snapshots: FakeSnapshots | None) -> None:
        self.snapshots = snapshots
        self.volumes = HostVolumes()

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        """Plan a guest that behaves as the image says."""
        spec, directory = wish.spec, wish.directory
        name = spec.image or "healthy"
        if name not in BEHAVIOURS:
            raise SpecError(f"--image: there is no image {name!r}", id="image.missing")
        resumes = self.snapshots is not None and _saved(directory).exists()
        where = wish.stored.directory if wish.stored else directory
        return fake_plan(
            name,
            where,
            start=StartKind.RESUME if resumes else StartKind.BOOT,
            name=spec.name,
            data_root=DataRootKind.BLOCK if spec.data_root is DataRootKind.AUTO else spec.data_root,
            data_root_mib=spec.size_bytes >> 20,
            volume=wish.stored.volume if wish.stored else "",
            own={"data_directory": str(where), "filesystem": str(spec.filesystem)},
        )

    def proven(self, plan: AnyPlan, directory: Path) -> Proven | None:
        """Return what `suspend` has left."""
        if plan.start is not StartKind.RESUME:
            return None
        facts = read_json(_saved(directory))
        return Proven(facts["verdict"], facts["data_root"], facts["kernel"], facts["warnings"])

    @contextlib.contextmanager
    def begin(
        self, plan: AnyPlan, directory: Path, *, ephemeral: bool = False, locks: Sequence[int] = ()
    ) -> Iterator[Begun]:
        """Make what the guest needs."""
        behaviour = BEHAVIOURS[plan.image.image_id]
        resumes = plan.start is StartKind.RESUME
        if not behaviour.restores:  # whose disks come with the seed
            _make_data_root(plan)
        if resumes and behaviour.resumes is None:
            os.kill(os.getpid(), signal.SIGKILL)
        _saved(directory).unlink(missing_ok=True)
        if resumes and not behaviour.resumes:
            raise BootFailed("the saved state cannot be read", id="vm.state-unreadable")
        yield _Begun(behaviour, directory, locks, is_early=False, ran_before=resumes)


class FakeSnapshots:
    """What a backend with snapshots can do, but for seeds: no guest of ours becomes one."""

    def pack_seed(self, plan: AnyPlan, directory: Path, target: Path) -> PackedSeed:
        raise AssertionError("no guest of ours becomes a seed")

    def adopt_seed(self, facts: Mapping[str, Any], directory: Path) -> list[str]:
        raise AssertionError("no seed is ever ours")

    def require_fit(self, seed: Seed) -> None:
        raise AssertionError("no seed is ever ours")

    def copy_disks(self, plan: AnyPlan, directory: Path, target: Path) -> None:
        raise AssertionError("nothing of ours becomes a seed")

    def suspended(self, directory: Path) -> dict[str, Any] | None:
        """Return what `suspend` has left."""
        return {"size_bytes": _saved(directory).stat().st_size} if _saved(directory).exists() else None

    def why_not_suspendable(self, plan: AnyPlan) -> str:
        return BEHAVIOURS[plan.image.image_id].unsavable

    def stand_in_key(self, plan: AnyPlan) -> str:
        return plan.image.image_id if BEHAVIOURS[plan.image.image_id].restores else ""

    @contextlib.contextmanager
    def begin_early(self, plan: AnyPlan, directory: Path) -> Iterator[Begun]:
        yield _Begun(BEHAVIOURS[plan.image.image_id], directory, (), is_early=True, ran_before=True)

    def adopt(self, guest: Guest, plan: AnyPlan, directory: Path) -> None:
        cast("FakeGuest", guest).move(directory)


class _Begun:
    def __init__(
        self, behaviour: Behaviour, directory: Path, locks: Sequence[int], *, is_early: bool, ran_before: bool
    ) -> None:
        self._behaviour = behaviour
        self._directory = directory
        self._locks = locks
        self._is_early = is_early
        self._ran_before = ran_before or behaviour.restores

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[FakeGuest]:
        return open_guest(
            self._behaviour, self._directory, on_event, self._locks, early=self._is_early, ran_before=self._ran_before
        )


def _saved(directory: Path) -> Path:
    return directory / "suspended.json"


def _make_data_root(plan: AnyPlan) -> None:
    places = {DataRootKind.BLOCK: Path(DATA_DISK), DataRootKind.LOOP: Path(DATA_ROOT_SHARE, LOOP_FILE)}
    if plan.data_root in places:
        disk = Path(plan.own["data_directory"]) / places[plan.data_root]
        disk.parent.mkdir(exist_ok=True)
        with disk.open("ab") as file:
            os.truncate(file.fileno(), plan.data_root_mib << 20)


BACKEND: Backend = FakeBackend(FakeSnapshots())
PLAIN: Backend = FakeBackend(None)


class FakeGuest:
    """The guest as its owner sees it."""

    ports = None

    def __init__(self, channel: Channel, system: _GuestSystem, *, ran_before: bool) -> None:
        self._channel = channel
        self._system = system
        self._ran_before = ran_before
        self.ended = system.ended

    def open(self, request: Request) -> AgentStream:
        match request:
            case Docker():
                asked: dict[str, Any] = {"kind": "docker"}
            case Exec():
                asked = exec_to_json(request)
            case Container(check):
                asked = {"kind": "renew" if self._ran_before else "container", "check": check}
        try:
            return AgentStream(self._channel.open(asked))
        except ChannelClosed as error:
            raise StreamLost(str(error)) from error

    async def snapshot(self) -> None:
        raise AssertionError("no guest of ours becomes a seed")

    def require_suspendable(self) -> None:
        self._system.require_suspendable()

    async def suspend(self, facts: Mapping[str, Any]) -> None:
        await self._system.suspended(self._channel, facts)

    def discard(self) -> None:
        with self._system.log.open("a") as log:
            log.write("discarded\n")

    def move(self, directory: Path) -> None:
        self._system.move(directory)

    def evidence(self) -> str:
        first = "the fake ended" if self.ended.is_set() else "the fake still runs"
        return f"{first}\n--- guest.log\n{self._system.log.read_text()}"

    async def testimony(self) -> str:
        return "" if self.ended.is_set() else "the fake says that it is well"


@contextlib.asynccontextmanager
async def open_guest(
    behaviour: Behaviour,
    directory: Path,
    on_event: OnEvent,
    locks: Sequence[int],
    *,
    early: bool,
    ran_before: bool,
) -> AsyncIterator[FakeGuest]:
    """Start a guest for the length of the block; it is told to go down at the end, unless it was never adopted."""
    async with contextlib.AsyncExitStack() as stack:
        if behaviour.writer_seconds is not None:
            argv = [sys.executable, "-c", _WRITER, str(behaviour.writer_seconds)]
            stack.enter_context(daemon(argv, name="writer", log=directory / "writer.log", pass_fds=locks))
        system = _GuestSystem(behaviour, directory, stack)
        system.early = early
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: system.channel, sock=theirs)
        stack.push_async_callback(system.power_cut)
        transport.pause_reading()  # until the guest has booted it can't answer

        def heard(message: dict[str, Any]) -> None:
            for event in guest_events(message, StartKind.RESUME if ran_before else StartKind.BOOT):
                on_event(event)

        channel = await stack.enter_async_context(open_channel(ours, on_event=heard))
        stack.push_async_exit(_stopping(system, channel))
        await system.boot()
        transport.resume_reading()
        await channel.agreed.wait()
        system.say_hello()
        for problem in behaviour.problems:
            on_event(problem)
        yield FakeGuest(channel, system, ran_before=ran_before)


def _stopping(system: _GuestSystem, channel: Channel) -> Callable[..., Any]:
    """As the vm backend does: in order, else by force; never hiding the error that ended the block."""

    async def stop(_kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            await system.stopped_by(channel)
        except AbnormalShutdown as abnormal:
            if error is None:
                raise
            error.add_note(abnormal.summary)

    return stop


class _GuestSystem:
    """What is behind the channel: the guest's side of the protocol, with processes of this host as its programs."""

    def __init__(self, behaviour: Behaviour, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        self.channel = Channel(is_host=False, on_open=self.serve)
        self.ended = asyncio.Event()
        self.log = directory / "guest.log"
        self.early = False
        """Whether it was started early, and was not adopted yet."""
        self._behaviour = behaviour
        self._socket = directory / "fake-dockerd.sock"
        self._container: ChannelStream | None = None
        self._saved = False
        self._death: asyncio.Task[None] | None = None
        self._running = contextlib.ExitStack()
        stack.callback(self._running.close)

    def note(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{line}\n")

    def move(self, directory: Path) -> None:
        """Go on in another directory, with all files."""
        self.log = self.log.rename(directory / self.log.name)
        socket = directory / self._socket.name
        if self._socket.exists():
            self._socket.rename(socket)
        self._socket = socket
        self.early = False

    async def boot(self) -> None:
        self.note("booting")
        if not self._behaviour.boots:
            await asyncio.sleep(self._behaviour.timeout_seconds)
            raise BootFailed("the guest did not answer", id="vm.boot-timed-out", details=self.log.read_text())
        await asyncio.sleep(self._behaviour.boot_seconds)
        self.note("booted")

    def say_hello(self) -> None:
        self.channel.mux.control(EVENTS, {"event": "agent", "kernel": "9.9-fake", "uptime_seconds": 0.0})
        self.channel.flush()

    def require_suspendable(self) -> None:
        if self._behaviour.suspend_refusal is not None:
            raise self._behaviour.suspend_refusal

    async def suspended(self, channel: Channel, facts: Mapping[str, Any]) -> None:
        channel.hush()
        await asyncio.sleep(self._behaviour.suspend_seconds)
        failure = self._behaviour.suspend_failure
        if failure is None:
            _saved(self.log.parent).write_text(json.dumps(dict(facts)))
            self.note("suspended")
            self._saved = True
            self.end()
            return
        if not isinstance(failure, AbnormalShutdown):
            channel.begin()
            await channel.agreed.wait()
        raise failure

    async def stopped_by(self, channel: Channel) -> None:
        if self._saved:
            return
        if self.ended.is_set():
            raise AbnormalShutdown("the guest ended by itself", id="vm.ended-by-itself")
        if self.early:
            return
        if channel.agreed.is_set():
            channel.open({"kind": "poweroff"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._behaviour.stop_seconds + 0.5):
                    await self.ended.wait()
        if not self.ended.is_set():
            raise AbnormalShutdown("the guest did not go down in time and was cut off", id="guest.cut-off")

    async def power_cut(self) -> None:
        if not self.ended.is_set():
            self.note("cut off")
        self.end()
        await self.channel.lost.wait()

    def _die_soon(self) -> None:
        # Not a task of the channel's, for those end with it.
        self._death = asyncio.ensure_future(self.die())

    async def die(self) -> None:
        """As a process does: its sockets are closed a moment before it has ended."""
        self.note("died")
        self.channel.close()
        await asyncio.sleep(0.05)
        self.end()

    def end(self) -> None:
        """The machine is gone."""
        self.ended.set()
        self._running.close()
        self.channel.close()

    async def serve(self, stream: ChannelStream, request: dict[str, Any]) -> None:
        match request["kind"]:
            case "container" | "renew":
                if self._container is None:
                    await self._start_container(stream, request)
                else:
                    self.note("container followed")
                    self._container = stream
                if request["kind"] == "renew":
                    self.channel.mux.control(EVENTS, {"event": "renewed", "check_seconds": 0.1})
                    self.channel.flush()
            case "docker":
                await self._connect(stream)
            case "exec":
                await self._exec(stream, request)
            case "poweroff":
                await self._power_off()

    async def _start_container(self, stream: ChannelStream, request: dict[str, Any]) -> None:
        self._container = stream
        self.note(f"container started, check {request['check']}")
        for line in self._behaviour.says:
            await stream.send(json.dumps(line, separators=(",", ":")).encode() + b"\n", ERROR)
        await stream.send(b'level=info msg="Starting up"\n', ERROR)
        if self._behaviour.dies_before_ready:
            self._die_soon()
        elif self._behaviour.exit_code is not None:
            stream.close({"exit_code": self._behaviour.exit_code})
        elif self._behaviour.answers:
            self._running.enter_context(serve_dockerd(FakeDockerd(self._behaviour.faults), self._socket))

    async def _connect(self, stream: ChannelStream) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            stream.close({"error": f"{type(error).__name__}: {error}"})
            return
        await relay_connection(reader, writer, AgentStream(stream))

    async def _exec(self, stream: ChannelStream, request: dict[str, Any]) -> None:
        if request["argv"] == ["die"]:
            self._die_soon()
            return
        if request["argv"] == ["kill-dockerd"]:
            assert self._container is not None
            self._container.close({"exit_code": 137})
            return
        try:
            process = await asyncio.create_subprocess_exec(
                *request["argv"],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            stream.close({"error": f"{type(error).__name__}: {error}"})
            return
        try:
            await self._carry(stream, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _carry(self, stream: ChannelStream, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        outputs = asyncio.gather(_copy(process.stdout, stream, 0), _copy(process.stderr, stream, ERROR))

        async def answer() -> None:
            await outputs
            stream.close({"exit_code": await process.wait()})

        async def feed(stdin: asyncio.StreamWriter) -> None:
            while (frame := await stream.receive()) is not None:
                if frame.kind == protocol.DATA:
                    stdin.write(frame.payload)
                elif frame.kind == protocol.END:
                    stdin.close()
                elif frame.kind == protocol.CONTROL and "signal" in (message := protocol.load_message(frame.payload)):
                    process.send_signal(message["signal"])

        await first_of(answer(), feed(process.stdin))

    async def _power_off(self) -> None:
        if not self._behaviour.goes_down:
            return
        self.note("powering off")
        await asyncio.sleep(self._behaviour.stop_seconds)
        if self._container is not None:
            self._container.close({"exit_code": 0})
        self.note("powered off")
        self.end()


async def _copy(reader: asyncio.StreamReader, stream: ChannelStream, substream: int) -> None:
    while data := await reader.read(32768):
        await stream.send(data, substream)
