"""Owning a sandbox: from a plan to a proven daemon, then its endpoint and control socket until it is told to stop.

Used by the supervisor of `up` and, in a thread, by `run` and the Python API. Knows a backend by its protocol only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from kata_dind.backend import Guest, Launch
from kata_dind.dataroot.status import EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT, parse_status
from kata_dind.errors import (
    AbnormalShutdown,
    DataRootError,
    DockerdFailed,
    GuestNotReady,
    KataDindError,
    NoSpace,
    OverlayRefused,
    SandboxError,
    SpecError,
    VerdictFailed,
)
from kata_dind.guest.agent import protocol
from kata_dind.host.disks import is_full
from kata_dind.host.process import tail
from kata_dind.progress import Event, Report
from kata_dind.proof.verdict import Verdict
from kata_dind.store.sandboxes import Record
from kata_dind.store.volumes import find_volume_of
from kata_dind.wire.channel import (
    READ_BYTES,
    Channel,
    ChannelClosed,
    ChannelStream,
    first_of,
    relay_connection,
    relay_streams,
)

logger = logging.getLogger(__name__)

LOG_LIMIT_BYTES = 16 << 20
"""dockerd.log is set aside as dockerd.log.1 beyond this."""

_PING = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_MOST_WARNINGS = 20
_DAY_SECONDS = 86400.0
_PING_PAUSE_SECONDS = 0.1
_LAST_WORDS_SECONDS = 1.0
_GONE_SECONDS = 5.0
_REWRITE_SECONDS = 1.0


class Owner:
    """One start of one sandbox; `run` is its whole life."""

    def __init__(self, record: Record, launch: Launch, *, report: Report, started: float | None = None) -> None:
        self._record = record
        self._volume = find_volume_of(record)
        self._launch = launch
        self._report = report
        self._started = time.monotonic() if started is None else started
        self._dockerd_log = RotatingLog(record.log_path("dockerd"), limit_bytes=LOG_LIMIT_BYTES)
        self._phases: list[dict[str, Any]] = []
        self._earlier_verdict: dict[str, Any] = record.read("status.json").get("verdict") or {}
        self._status: dict[str, Any] = {"state": "starting", "pid": os.getpid(), "started_at": time.time()}
        if self._earlier_verdict:  # kept, so that a start which fails does not forget that there was one
            self._status["verdict"] = self._earlier_verdict
        self._ready = False
        self._guest: Guest | None = None
        self._saved = False
        self._suspending: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._renewed = asyncio.Event()
        self._stop = asyncio.Event()
        self._going_down = False
        self._connections: set[asyncio.Task[None]] = set()
        self._relays: set[asyncio.Task[None]] = set()
        """What carries a client's connection to the guest."""
        self._container_ended = asyncio.Event()
        self._container_code: int | None = None
        self._complaint: dict[str, str] | None = None
        self._warnings: list[str] = []
        self._no_space: NoSpace | None = None
        self._rewrite: asyncio.TimerHandle | None = None
        """Of a status that could not be written."""
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start the sandbox, serve it, stop it. Raises what made it fail; its record then says so, too."""
        self._write_status()
        self._task = asyncio.ensure_future(self._run())
        if self._stop.is_set():  # asked for before there was a start to break off
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if self._no_space is not None:
                self._end("crashed", self._no_space)
                raise self._no_space from None
            self._end("stopped", None)
            raise
        except AbnormalShutdown as error:
            self._end("stopped", error)
            raise
        except KataDindError as error:
            failure = self._explained(error)
            self._end("crashed", failure)
            if failure is error:
                raise
            raise failure from error
        except BaseException as error:
            self._end("crashed", error)
            raise
        self._end("stopped", None)

    def request_stop(self) -> None:
        """Ask `run` to end, from the loop's thread: a start is broken off, a running sandbox goes down in order.

        Whatever goes down already is left alone: every step of that ends by itself.
        """
        self._stop.set()
        if self._task is not None and not self._ready and not self._going_down:
            self._going_down = True
            self._task.cancel()

    async def save(self) -> None:
        """Let the guest of a running sandbox end with its state on file, and the sandbox with it."""
        assert self._guest is not None
        self._going_down = self._saved = True
        await self._guest.save()

    async def suspend(self) -> None:
        """Stop a running sandbox with its state saved; clients are hung up on.

        Raises, with nothing done, SpecError for one that can't be saved, SandboxError for one that does not run, and
        NoSpace; else what made it fail: then the sandbox goes on, or, as AbnormalShutdown, is stopped.
        """
        guest, name = self._guest, self._record.name
        if guest is None or self._going_down or self._stop.is_set() or self._suspending is not None:
            raise SandboxError(f"the sandbox '{name}' is {self._state}")
        why = "it is removed when its owner ends" if self._record.ephemeral.exists() else self._launch.unsavable
        if why:
            raise SpecError(f"--save: the state of '{name}' can't be saved: {why}", hint=f"kata-dind stop {name}")
        guest.require_suspendable()
        self._suspending = asyncio.ensure_future(self._suspend(guest))
        self._suspending.add_done_callback(_note_failure)
        await asyncio.shield(self._suspending)  # whoever asked may be gone before the end

    async def _suspend(self, guest: Guest) -> None:
        self._set_state("stopping")
        try:
            await self._hang_up()
            await guest.suspend({name: self._status.get(name) for name in ("verdict", "data_root", "kernel")}
                                | {"warnings": self._warnings})  # fmt: skip
        except AbnormalShutdown:
            self._stop.set()
            raise
        except BaseException:
            if not guest.ended.is_set() and not self._stop.is_set():
                self._go_on(guest)
            raise
        else:
            self._saved = True
        finally:
            self._suspending = None

    def _go_on(self, guest: Guest) -> None:
        """Serve a guest that could not be saved, and that knows nobody any more."""
        self._follow(guest, check=False)
        self._set_state("running")

    # --- start, serve, stop

    async def _run(self) -> None:
        # With the data, so that the next sandbox on the same volume checks it.
        unclean = (self._volume or self._record).unclean
        check = unclean.exists()
        async with contextlib.AsyncExitStack() as stack:
            # The guest goes down before its clients' connections do, so that they hear all it has to say.
            stack.push_async_callback(self._end_connections)
            guest = await stack.enter_async_context(self._launch.start(self._record.directory, self._guest_event))
            unclean.touch()
            try:
                await self._serve(stack, guest, check=check)
            except ChannelClosed as error:
                raise await _guest_gone(guest) from error
            finally:
                self._going_down = True
        if not self._saved:  # a saved guest's file systems are mounted, should it have to boot after all
            unclean.unlink(missing_ok=True)

    async def _serve(self, stack: contextlib.AsyncExitStack, guest: Guest, *, check: bool) -> None:
        if self._launch.proven is not None and "dockerd_log" in self._launch.proven:
            # What it said before it was saved.
            self._dockerd_log.write(f"{self._launch.proven['dockerd_log']}\n".encode())
        answer = await stack.enter_async_context(asking_first(guest))
        self._follow(guest, check=check)
        stack.push_async_callback(self._unfollow)
        await stack.enter_async_context(self._control_server(guest))
        async with _deadline(self._remaining_seconds(), self._not_ready(guest)):
            if self._launch.proven is None:
                await self._wait_for(guest, answer)
                self._phase("dockerd", "dockerd answers")
                await stack.enter_async_context(self._endpoint_server(guest))
                verdict = await self._prove(guest)
            else:
                await self._wait_for(guest, asyncio.ensure_future(self._renewed.wait()))
                # Its dockerd was proven and has been asked already: who asks now is answered next.
                await stack.enter_async_context(self._endpoint_server(guest))
                await self._wait_for(guest, answer)
                self._phase("dockerd", "dockerd answers")
                verdict = self._proven(self._launch.proven)
        self._phase(
            "proof", "the data root is proven" if verdict.seconds else "the data root has no room for the proof"
        )
        self._guest = guest
        self._become_ready(verdict)
        await first_of(self._stop.wait(), guest.ended.wait(), self._container_ended.wait())
        if self._suspending is not None:
            await asyncio.wait([self._suspending])
        self._set_state("stopping")
        if not self._stop.is_set() and not self._saved:
            raise self._sudden_end(guest)

    def _become_ready(self, verdict: Verdict) -> None:
        self._ready = True
        self._note_verdict(verdict)
        self._status["verdict"] = dataclasses.asdict(verdict)
        if not verdict.file_capabilities:
            self._warn("the data root keeps no file capabilities: images that have any lose them, or cannot be loaded")
        self._set_state("running")
        seconds = self._elapsed()
        self._report(Event("ready", f"ready after {seconds:.1f} s", seconds=seconds))

    def _note_verdict(self, verdict: Verdict) -> None:
        if self._volume is None:
            return
        try:
            self._volume.note_verdict(
                sandbox=self._record.name, docker_version=verdict.docker_version, storage=verdict.storage
            )
        except OSError as error:
            logger.warning("cannot write what the volume remembers: %s", error)  # as with the status

    def _sudden_end(self, guest: Guest) -> KataDindError:
        if guest.ended.is_set():
            return _gone(guest)
        return DockerdFailed(f"dockerd ended (exit {self._container_code})", details=self._dockerd_tail())

    def _explained(self, error: KataDindError) -> KataDindError:
        """Name the cause that a guest does not know: to it a full disk of the host is an I/O error of any kind."""
        directory = self._record.directory
        problem = self._status.get("problem")
        if isinstance(error, NoSpace) or not (problem or is_full(directory)):
            return error
        return _no_space(
            problem or f"the file system of {directory} is full", f"{error.summary}\n{error.details}".strip()
        )

    # --- readiness

    async def _wait_for(self, guest: Guest, awaited: asyncio.Future[Any]) -> None:
        """Wait for what a guest that starts will do. Raises the reason why it will not."""
        try:
            await first_of(asyncio.wait([awaited]), guest.ended.wait(), self._container_ended.wait())
            if guest.ended.is_set():
                raise _gone(guest)
            if not awaited.done():
                raise self._container_failure(await _guest_evidence(guest))
            awaited.result()
        finally:
            awaited.cancel()

    def _container_failure(self, evidence: str) -> KataDindError:
        details = f"{self._dockerd_tail()}\n{evidence}".strip()
        complaint = self._complaint
        if complaint is not None and self._container_code in (EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT):
            kind = OverlayRefused if complaint["step"] == "verify" else DataRootError
            return kind(complaint["message"], details=details, hint=complaint["hint"])
        if complaint is not None and self._container_code is None:
            return SandboxError(f"the guest refused: {complaint['message']}", details=details)
        return DockerdFailed(f"dockerd ended before it answered (exit {self._container_code})", details=details)

    async def _prove(self, guest: Guest) -> Verdict:
        from kata_dind.proof.round_trip import prove  # which a clone, whose seed was proven, need not load

        try:
            return await _in_thread(
                functools.partial(
                    prove,
                    self._record.endpoint,
                    timeout_seconds=self._remaining_seconds(),
                    fallback=self._launch.fallback,
                )
            )
        except VerdictFailed as error:
            if guest.ended.is_set():
                raise _gone(guest) from error
            if self._is_full_again(error):
                return Verdict(**{**self._earlier_verdict, "seconds": 0.0})
            evidence = [error.details, self._dockerd_tail(), await _guest_evidence(guest)]
            error.details = "\n".join(filter(None, evidence))
            raise

    def _proven(self, seed: dict[str, Any]) -> Verdict:
        """Return the verdict that was made with the seed; the guest has repeated what a restore could have undone."""
        self._status["data_root"] = {**seed["data_root"], **self._status["data_root"]}
        self._status["kernel"] = seed["kernel"]
        self._warnings.extend(seed["warnings"])
        return Verdict(**seed["verdict"])

    def _is_full_again(self, error: VerdictFailed) -> bool:
        """Tell whether a proven data root only has no room for the proof: its owner must be let in to tidy up."""
        if not self._earlier_verdict or "no space left on device" not in f"{error.summary}\n{error.details}":
            return False
        self._warn("the data root is full, so it was not proven again: docker system prune")
        return True

    def _remaining_seconds(self) -> float:
        return max(1.0, self._launch.timeout_seconds - self._elapsed())

    def _not_ready(self, guest: Guest) -> Callable[[], KataDindError]:
        return lambda: GuestNotReady(
            f"dockerd was not ready within {self._launch.timeout_seconds:g} s",
            details=f"{guest.evidence()}\n{self._dockerd_tail()}",
            hint="give it more time with --timeout",
        )

    # --- what the guest says

    def _guest_event(self, message: dict[str, Any]) -> None:
        if message.get("event") == "agent" and self._launch.proven is not None:
            self._phase("machine", f"the machine goes on from {self._launch.goes_on_from}")
        elif message.get("event") == "shared":
            self._phase("shares", "the shares are mounted")
        elif message.get("event") == "memory":
            self._phase("memory", "the further memory is in use")
        elif message.get("event") == "processors":
            self._phase("processors", "the further processors have started")
        elif message.get("event") == "grown":
            self._phase("growth", "the data root has grown")
        elif message.get("event") == "renewed" and not self._ready:
            self._status["check_seconds"] = _seconds_of(message, "check_seconds")
            grown_bytes = message.get("size_bytes")  # else it is as large as it was
            self._status["data_root"] = {} if grown_bytes is None else {"size_bytes": grown_bytes}
            self._phase("renewal", "the machine has become its own")
            self._renewed.set()
        elif message.get("event") == "agent":
            self._status["kernel"] = str(message.get("kernel"))
            # What the guest has not been up for went into disks, namespaces and QEMU's own start.
            self._phase("machine", "the machine has started", until=self._elapsed() - _seconds_of(message))
            self._phase("boot", "the guest has booted")
        elif message.get("event") == "container":
            self._phase("container", "the dind container has started")
        elif message.get("event") == "problem":
            self._problem(message)

    def _problem(self, message: dict[str, Any]) -> None:
        """Tell of a problem that the sandbox lives with, or that it is over; a start does not wait for that."""
        problem = str(message.get("message") or "")
        self._status["problem"] = problem or None
        self._report(Event("warning", problem) if problem else Event("notice", str(message.get("healed"))))
        self._write_status()
        if message.get("paused") and not self._ready and not self._going_down and self._task is not None:
            self._no_space = _no_space(problem, "")
            self._going_down = True
            self._task.cancel()

    def _follow(self, guest: Guest, *, check: bool) -> None:
        """Ask the guest for its container, and follow that from here on."""
        # The HELLO of a cold start has waited for the whole boot, so its clock is late.
        container = guest.open({**self._launch.container_request(check), "time": time.time()})
        self._follower = asyncio.ensure_future(self._follow_container(container))

    async def _unfollow(self) -> None:
        assert self._follower is not None
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow_container(self, container: ChannelStream) -> None:
        """Write what the container says to dockerd.log, and listen to the guest entrypoint."""
        log, lines = self._dockerd_log, LineSplitter()
        try:
            while (frame := await container.receive()) is not None:
                if frame.kind == protocol.DATA:
                    log.write(frame.payload)
                    for line in lines.feed(frame.payload) if frame.substream == protocol.ERROR else ():
                        self._hear(line)
        except ChannelClosed:
            return  # the guest's end is reported by itself, or it could not be saved and has another follower
        result = container.result or {}
        self._container_code = result.get("exit_code")
        if "error" in result:
            self._complaint = {"step": "container", "message": str(result["error"]), "hint": ""}
        self._container_ended.set()

    def _hear(self, line: bytes) -> None:
        if not line.startswith(b'{"kata_dind":'):
            return
        # Anybody in the guest may have written the line.
        try:
            spoken = json.loads(line)
        except (ValueError, RecursionError):
            return
        if spoken["kata_dind"] == "error":
            self._complaint = {key: str(spoken.get(key, "")) for key in ("step", "message", "hint")}
        elif spoken["kata_dind"] == "warning" and len(self._warnings) < _MOST_WARNINGS:
            self._warn(str(spoken.get("message", "")))
        elif spoken.get("step") == "ready":
            self._status["data_root"] = parse_status(spoken)
            self._phase("data-root", "the data root is prepared")

    def _warn(self, message: str) -> None:
        if message not in self._warnings:  # it may be known from before the guest was saved
            self._warnings.append(message)
        self._report(Event("warning", message))

    # --- sockets

    @contextlib.asynccontextmanager
    async def _endpoint_server(self, guest: Guest) -> AsyncIterator[None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._keep(asyncio.current_task())
            try:
                if self._suspending is None:
                    await self._relay(relay_connection(reader, writer, guest.open({"kind": "docker"})))
            except ChannelClosed:
                pass  # the guest went a moment ago
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, self._record.endpoint, limit=READ_BYTES, start_serving=False)
        async with _published(server, self._record.endpoint):
            yield

    @contextlib.asynccontextmanager
    async def _control_server(self, guest: Guest) -> AsyncIterator[None]:
        async def serve(stream: ChannelStream, request: dict[str, Any]) -> None:
            if request.get("kind") == "stop" and request.get("save"):
                stream.close(await self._answer_suspend())
            elif request.get("kind") == "stop":
                stream.close({})
                if request.get("discard") and self._volume is None:
                    guest.discard()
                self.request_stop()
            elif request.get("kind") == "exec" and self._suspending is not None:
                stream.close({"error": "the sandbox is being saved"})
            elif request.get("kind") == "exec":
                await self._relay(relay_streams(stream, guest.open(request)))
            else:
                stream.close({"error": f"unknown request {request.get('kind')!r}"})

        def connect() -> Channel:
            channel = Channel(is_host=False, on_open=serve)
            self._keep(asyncio.ensure_future(_until_lost(channel)))
            return channel

        server = await asyncio.get_running_loop().create_unix_server(
            connect, str(self._record.control), start_serving=False
        )
        async with _published(server, self._record.control):
            yield

    async def _answer_suspend(self) -> dict[str, Any]:
        try:
            await self.suspend()
        except KataDindError as error:
            return error.as_fields()
        return {}

    async def _relay(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry a client's connection to the guest, until either ends it or the client is hung up on."""
        task = asyncio.ensure_future(work)
        self._relays.add(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._relays.discard(task)
        if not task.cancelled():
            task.result()

    async def _hang_up(self) -> None:
        """End what clients have going on in the guest."""
        relays = [*self._relays]
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    def _keep(self, connection: asyncio.Task[None] | None) -> None:
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _end_connections(self) -> None:
        """Let clients take what the guest has said, then hang up."""
        connections = [*self._connections]
        if connections:
            await asyncio.wait(connections, timeout=_LAST_WORDS_SECONDS)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    # --- the record

    def _phase(self, name: str, message: str, *, until: float | None = None) -> None:
        """Note, once, that a phase has ended: now, or `until` seconds after the start."""
        if any(phase["name"] == name for phase in self._phases):
            return
        elapsed = self._elapsed() if until is None else max(until, 0.0)
        before = sum(phase["seconds"] for phase in self._phases)
        self._phases.append({"name": name, "seconds": round(elapsed - before, 3)})
        self._report(Event(name, message, seconds=elapsed))
        self._write_status()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def _state(self) -> str:
        return str(self._status["state"])

    def _set_state(self, state: str) -> None:
        self._status["state"] = state
        self._write_status()

    def _end(self, state: str, error: BaseException | None) -> None:
        self._status |= {"state": state, "ended_at": time.time()}
        if isinstance(error, KataDindError):
            self._status["error"] = error.as_fields()
        elif error is not None:
            self._status["error"] = {"summary": f"{type(error).__name__}: {error}"}
        self._write_status()
        self._forget_rewrite()  # nobody may own the sandbox any more by then, or somebody else

    def _write_status(self) -> None:
        again = self._forget_rewrite()
        try:
            self._record.write_status(
                {**self._status, "warnings": self._warnings, "phases": self._phases, "timings": self._timings()}
            )
        except OSError as error:
            # A full disk must not end a sandbox that runs; `ls` asks the lock, not this file. What the status has to
            # tell may be just that the disk is full, and nothing may happen before somebody has read that.
            if not again:
                logger.warning("cannot write the status: %s", error)
            self._rewrite = asyncio.get_running_loop().call_later(_REWRITE_SECONDS, self._write_status)

    def _forget_rewrite(self) -> bool:
        """Give up another attempt at the status; tell whether there was to be one."""
        rewrite, self._rewrite = self._rewrite, None
        if rewrite is not None:
            rewrite.cancel()
        return rewrite is not None

    def _timings(self) -> dict[str, float]:
        """Seconds from the owner's start to each milestone, and the proof's own."""
        until, timings = 0.0, {}
        for phase in self._phases:
            until += phase["seconds"]
            timings[phase["name"]] = round(until, 3)
        # A guest that goes on is up when its machine is.
        up = "boot" if self._launch.proven is None else "machine"
        names = {up: "boot_seconds", "dockerd": "docker_seconds", "proof": "ready_seconds"}
        named = {names[name]: seconds for name, seconds in timings.items() if name in names}
        proof = next((phase["seconds"] for phase in self._phases if phase["name"] == "proof"), None)
        return named if proof is None else {**named, "proof_seconds": proof}

    def _dockerd_tail(self) -> str:
        text = tail(self._record.log_path("dockerd"), lines=15)
        return f"--- dockerd.log\n{text}" if text else ""


def _seconds_of(message: dict[str, Any], field: str = "uptime_seconds") -> float:
    """Return the time that an event of the guest tells, 0 for one that makes no sense."""
    try:
        seconds = float(message[field])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < _DAY_SECONDS else 0.0


def _gone(guest: Guest) -> SandboxError:
    evidence = guest.evidence()
    return SandboxError(f"the guest is gone: {evidence.partition(chr(10))[0]}", details=evidence)


def _no_space(summary: str, details: str) -> NoSpace:
    hint = "free space there, or set KATA_DIND_STATE_DIR to a directory with more"
    return NoSpace(summary, details=details, hint=hint)


class LineSplitter:
    """Cuts a byte stream into lines; keeps an incomplete one, up to 64 KiB of it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in, give whole lines out, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-65536:]
        return lines


class RotatingLog:
    """An append-only log; beyond its limit it is set aside as `NAME.1` and begun anew."""

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        """Append; a full disk loses the data and is logged."""
        try:
            with self._path.open("ab") as file:
                file.write(data)
                size = file.tell()
            if size > self._limit_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:
            logger.warning("cannot write %s: %s", self._path.name, error)


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the sandbox could not be saved: %s", error)


async def _guest_gone(guest: Guest) -> SandboxError:
    """Wait for the end of a guest whose channel is lost: its sockets close a moment before it has ended."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_SECONDS):
            await guest.ended.wait()
    return _gone(guest)


async def _until_lost(channel: Channel) -> None:
    try:
        await channel.lost.wait()
    finally:
        channel.close()
        await channel.lost.wait()


@contextlib.asynccontextmanager
async def asking_first(guest: Guest) -> AsyncIterator[asyncio.Future[None]]:
    """Wait for dockerd's first answer beside the block; it has been asked before anything that the block asks.

    So it thinks about its answer while the agent of a guest that goes on renews that.
    """
    answer = asyncio.ensure_future(_first_answer(guest))
    try:
        await asyncio.sleep(0)
        yield answer
    finally:
        answer.cancel()


async def _first_answer(guest: Guest) -> None:
    """Ask /_ping until dockerd answers; it listens long before it does, so one question mostly suffices."""
    while True:
        stream = guest.open({"kind": "docker"})
        try:
            await stream.send(_PING)
            answer = b""
            while (frame := await stream.receive()) is not None and frame.kind != protocol.END:
                answer += frame.payload
                if b"200 OK" in answer:
                    return
        finally:
            stream.close()
        await asyncio.sleep(_PING_PAUSE_SECONDS)


async def _guest_evidence(guest: Guest) -> str:
    """Ask the guest's kernel what it saw; empty when the guest does not tell within a few seconds."""
    command = "grep -E ' /var/lib/(docker|kata-dind) ' /proc/self/mountinfo; dmesg | tail -n 10"
    with contextlib.suppress(ChannelClosed, TimeoutError):
        async with asyncio.timeout(5):
            stream = guest.open({"kind": "exec", "where": "guest", "argv": ["sh", "-c", command]})
            stream.end()
            output = b""
            while (frame := await stream.receive()) is not None:
                output += frame.payload if frame.kind == protocol.DATA else b""
            return "--- guest kernel\n" + output.decode(errors="replace").strip()
    return ""


@contextlib.asynccontextmanager
async def _published(server: asyncio.Server, path: Path) -> AsyncIterator[None]:
    os.chmod(path, 0o600)  # noqa: PTH101 - at once; ASYNC240 would have it in a thread
    try:
        await server.start_serving()  # here, since a cancelled call that makes a server and starts it would leak it
        yield
    finally:
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above


async def _in_thread(call: Callable[[], Verdict]) -> Verdict:
    """Call what blocks. Not by `asyncio.to_thread`, for whose threads Python waits when it ends, cancelled or not."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    outcome: concurrent.futures.Future[Verdict] = concurrent.futures.Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="proof", daemon=True).start()
    await done.wait()
    return outcome.result()


@contextlib.asynccontextmanager
async def _deadline(seconds: float, failure: Callable[[], KataDindError]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise failure() from error
