"""A running pod as the owner of a sandbox sees it: its streams, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kata_dind.backend.containerd.client import CALL_SECONDS, Containerd
from kata_dind.backend.containerd.connections import (
    Connection,
    Spares,
    Strays,
    connection_argv,
    end_input_argv,
    more_input_argv,
)
from kata_dind.backend.containerd.container_log import LogFollower
from kata_dind.backend.containerd.failures import is_gone
from kata_dind.backend.containerd.plan import CONTAINER_LOG, POD_DIRECTORY
from kata_dind.backend.containerd.ports import AskedPorts, PodPorts, port_command
from kata_dind.backend.containerd.silence import Silence
from kata_dind.backend.containerd.streaming import CommandStream, OpenUrl, SilentCommand, Streams
from kata_dind.backend.events import GivenUp, OnEvent, Problem, Usable
from kata_dind.errors import ContainerdError, KataDindError
from kata_dind.host.process import tail
from kata_dind.wire.requests import (
    Container,
    Docker,
    Exec,
    Output,
    PublishedPorts,
    Request,
    Result,
    Stream,
    StreamLost,
    Terminal,
    Where,
)

logger = logging.getLogger(__name__)

_QUICK_SECONDS, _SLOW_SECONDS = 0.3, 2.0
_QUICK_FOR_SECONDS = 120.0
"""While a start may still be under way, its end is noticed sooner."""

# The file has the process that a signal is for.
_RUN = """
mkdir -p /run/kata-dind && echo $$ >"$1"
case $3 in
/dev/null) exec <"$3" ;;
?*)
	mkfifo -m 0600 "$3" 2>/dev/null || :
	exec <"$3"
	rm -f "$3"
	;;
esac
[ -z "$2" ] || cd -- "$2" || exit 126
shift 3
exec env "$@"
"""
_INPUT_SECONDS = 0.1
"""A command is started when its input begins or has ended, and after this time in any case."""

# Whichever comes first makes the FIFO, and waits there for the other. The shell stays, since containerd takes the end
# of a command's output for the end of its input.
_INPUT = 'mkfifo -m 0600 "$1" 2>/dev/null || :; cat >"$1" || :'

_SIGNAL = 'pid=$(cat "$1") && kill -"$2" -- "-$pid" 2>/dev/null || kill -"$2" "$pid"'
_SETTLE = 'rm -f "$1"'

_TESTIMONY = "grep -E ' /var/lib/(docker|kata-dind) ' /proc/self/mountinfo; dmesg 2>/dev/null | tail -n 10"

CONTAINER_EXITED, CONTAINER_RUNNING = 2, 1
POD_READY = 0

StartContainer = Callable[[bool], Any]
"""Makes and starts the container, with a full check of its data root or without; awaited, it gives the id."""


class PodGuest:
    """A pod, which runs or is about to run its container."""

    def __init__(
        self,
        containerd: Containerd,
        pod_id: str,
        ports: PodPorts,
        *,
        directory: Path,
        container_id: str,
        is_fresh: bool,
        start_container: StartContainer,
        on_event: OnEvent,
    ) -> None:
        """`is_fresh` says that dockerd has no containers yet."""
        self.ports = ports
        self._is_fresh = is_fresh
        self._containerd = containerd
        self._pod_id = pod_id
        self._directory = directory
        self._start_container = start_container
        self._on_event = on_event
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The container's id, once it runs."""
        self._ran_before = bool(container_id)
        if container_id:
            self._started.set_result(container_id)
        self._starting: asyncio.Task[None] | None = None
        self._strays = Strays(self._run)
        self._spares = Spares(self._connection)
        self._closing: set[asyncio.Task[None]] = set()
        self._log = LogFollower(directory / POD_DIRECTORY / CONTAINER_LOG, reopen=self._reopen_log)
        self._streams: list[ContainerStream] = []
        self._container_over = False
        self._end = "the pod runs"
        self.ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the pod or its container is known to have ended."""
        return self.ended.is_set() or self._container_over

    def open(self, request: Request) -> Stream:
        """Serve a request. Raises StreamLost when the pod has ended."""
        if self.ended.is_set():
            raise StreamLost(self._end)
        match request:
            case Docker():
                return self._spares.take()
            case Container(check):
                return self._container(check=check)
            case Exec(where=Where.GUEST):
                why = "the backend containerd has no way into the guest but the container; leave out --guest"
                return RefusedStream(why)
            case Exec():
                return self._command(request)
            case PublishedPorts():
                return AskedPorts(self._port_command, ended=self.ended, on_event=self._on_event)

    def discard(self) -> None:
        """What lies in the sandbox's directory goes with it, and dockerd may always stop in order."""

    def evidence(self) -> str:
        """Return how the pod ended, and the end of what it has printed."""
        log = self._directory / POD_DIRECTORY / CONTAINER_LOG
        printed = tail(log) if log.exists() else ""
        return f"{self._end}\n--- {log.name}\n{printed}" if printed else self._end

    async def testimony(self) -> str:
        """Ask the container what its kernel saw."""
        with contextlib.suppress(KataDindError, TimeoutError, asyncio.InvalidStateError):
            return "--- guest kernel\n" + (await self._run("sh", "-c", _TESTIMONY)).strip()
        return ""

    async def watch(self) -> None:
        """Follow the pod and its container until the pod has ended."""
        clock, silence = asyncio.get_running_loop().time, Silence()
        began = clock()
        while not self.ended.is_set():
            try:
                await self._look()
                event: Problem | GivenUp | None = silence.is_over()
            except KataDindError as error:
                event = silence.goes_on(clock(), error.summary)
            if event is not None:
                self._on_event(event)
            if isinstance(event, GivenUp):
                return
            usual = _QUICK_SECONDS if clock() < began + _QUICK_FOR_SECONDS else _SLOW_SECONDS
            await asyncio.sleep(silence.pause_seconds(clock(), usual))

    async def close(self) -> None:
        """Let go of the pod, which runs on."""
        self._spares.close()
        await self._strays.end_all()
        tasks = [*self._closing, *([self._starting] if self._starting else [])]
        if self._starting:
            self._starting.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in self._streams:
            stream.close()
        if not self._started.done():
            self._started.cancel()

    def _connection(self, on_answer: Callable[[], None]) -> CommandStream:
        mark = self._strays.mark()
        return Connection(
            self._url(connection_argv(mark), errors=False),
            end_input=lambda: self._run(*end_input_argv(mark)),
            more_input=lambda: self._silent(more_input_argv(mark)),
            is_gone=self.ended.is_set,
            on_lost=lambda: self._strays.lose(mark),
            on_end=lambda: self._strays.forget(mark),
            on_answer=on_answer,
        )

    # --- the container

    def _container(self, *, check: bool) -> ContainerStream:
        stream = ContainerStream(self._log)
        self._streams.append(stream)
        if self._ran_before:
            asyncio.get_running_loop().call_soon(self._on_event, Usable({}, publishes=True))
            self._strays.end_those_of_others()
        else:
            self._starting = asyncio.ensure_future(self._start(stream, check=check))
        return stream

    async def _start(self, stream: ContainerStream, *, check: bool) -> None:
        try:
            container_id = await self._start_container(check)
        except KataDindError as error:
            self._container_over = True
            stream.fail(error)
            return
        except Exception as error:
            logger.exception("the container could not be started")
            self._container_over = True
            stream.fail(ContainerdError(f"internal error: {type(error).__name__}: {error}", id="containerd.failed"))
            return
        self._started.set_result(container_id)

    async def _look(self) -> None:
        """Ask for the states of pod and container."""
        if not await self._pod_is_ready():
            self.ended.set()
            return
        container_id = self._started.result() if self._started.done() and not self._started.cancelled() else ""
        if not container_id:
            return
        try:
            answer = await self._containerd.ask("RuntimeService/ContainerStatus", container_id=container_id,
                                                failing="the container's state could not be read")  # fmt: skip
        except KataDindError as error:
            if not is_gone(error):
                raise
            self._end = "the container was removed by somebody else"
            self.ended.set()
            return
        status = answer.status
        if status.state == CONTAINER_EXITED and not self._container_over:
            # Of a machine that is gone, the container ends first, and a moment later the pod.
            await asyncio.sleep(_QUICK_SECONDS)
            if not await self._pod_is_ready():
                self.ended.set()
                return
            self._container_over = True
            why = f", {status.reason}" if status.reason not in ("", "Completed", "Error") else ""
            self._end = f"the container ended with exit code {status.exit_code}{why}"
            for stream in self._streams:
                stream.ended(status.exit_code)

    async def _pod_is_ready(self) -> bool:
        try:
            answer = await self._containerd.ask("RuntimeService/PodSandboxStatus", pod_sandbox_id=self._pod_id,
                                                failing="the pod's state could not be read")  # fmt: skip
        except KataDindError as error:
            if not is_gone(error):
                raise
            self._end = "the pod was removed by somebody else"
            return False
        if answer.status.state != POD_READY:
            self._end = "its pod has ended"
            return False
        return True

    async def _reopen_log(self) -> None:
        container_id = await self._started
        await self._containerd.ask("RuntimeService/ReopenContainerLog", container_id=container_id,
                                   failing="the container's log could not be rotated")  # fmt: skip

    # --- commands

    def _command(self, request: Exec) -> Stream:
        pid_file = f"/run/kata-dind/command.{os.urandom(6).hex()}"
        fifo = f"/dev/kata-dind.input.{os.urandom(6).hex()}"
        variables = [f"{name}={value}" for name, value in request.environment]

        async def open_url() -> str:
            source = ""
            if request.terminal is None:
                is_empty = await stream.is_without_input(wait_seconds=_INPUT_SECONDS)
                source = "/dev/null" if is_empty else fifo
                if not is_empty:
                    stream.start_input()
            argv = ("sh", "-c", _RUN, "sh", pid_file, request.cwd, source, *variables, *request.argv)
            return await self._url(argv, terminal=request.terminal is not None)()

        stream = GuestCommand(
            open_url,
            Streams(terminal=request.terminal, errors=True),
            is_gone=self.ended.is_set,
            own_input=lambda: self._silent(("sh", "-c", _INPUT, "sh", fifo)),
            signal=lambda number: self._in_background(("sh", "-c", _SIGNAL, "sh", pid_file, str(number))),
            settle=lambda: self._in_background(("sh", "-c", _SETTLE, "sh", pid_file)),
        )
        return stream

    def _silent(self, argv: tuple[str, ...]) -> CommandStream:
        """Start a command that takes input and prints nothing."""
        return CommandStream(self._url(argv, errors=False), Streams(terminal=None, errors=False),
                             is_gone=self.ended.is_set)  # fmt: skip

    def _port_command(self) -> CommandStream:
        async def open_url() -> str:
            await asyncio.shield(self._started)
            if self._is_fresh:
                # A command more would slow the start down, and without containers there are no ports.
                await self._spares.answered.wait()
            return await self._url(port_command(await self.ports.addresses()))()

        return CommandStream(open_url, Streams(terminal=None, errors=True), is_gone=self.ended.is_set)

    def _url(self, argv: tuple[str, ...], *, terminal: bool = False, errors: bool = True) -> OpenUrl:
        async def open_url() -> str:
            container_id = await asyncio.shield(self._started)
            answer = await self._containerd.ask(
                "RuntimeService/Exec",
                failing="a command could not be started in the container",
                container_id=container_id,
                cmd=list(argv),
                tty=terminal,
                stdin=True,
                stdout=True,
                stderr=errors and not terminal,
            )
            return str(answer.url)

        return open_url

    def _in_background(self, argv: tuple[str, ...]) -> None:
        async def run() -> None:
            with contextlib.suppress(KataDindError):  # the container has ended
                await self._run(*argv)

        task = asyncio.ensure_future(run())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _run(self, *argv: str) -> str:
        """Run a short command in the container, and return what it prints."""
        if not self._started.done():
            return ""
        answer = await self._containerd.ask(
            "RuntimeService/ExecSync",
            failing="a command in the container failed",
            timeout_seconds=CALL_SECONDS,
            container_id=self._started.result(),
            cmd=list(argv),
            timeout=int(CALL_SECONDS),
        )
        return bytes(answer.stdout).decode(errors="replace")


class GuestCommand(CommandStream):
    """A command of a user's, which can be signalled, and ends when its client does.

    Without a terminal its input comes by a command of its own, since under Kata's Go runtime the end of a command's
    input costs its output (kata-containers#13640).
    """

    def __init__(
        self,
        open_url: OpenUrl,
        streams: Streams,
        *,
        is_gone: Callable[[], bool],
        own_input: Callable[[], CommandStream],
        signal: Callable[[int], None],
        settle: Callable[[], None],
    ) -> None:
        super().__init__(open_url, streams, is_gone=is_gone, on_lost=lambda: signal(1))
        self._has_terminal = streams.terminal is not None
        self._own_input = own_input
        self._input: SilentCommand | None = None
        self._signal = signal
        self._settle = settle

    def start_input(self) -> None:
        """Start what takes the command's input, for which it waits."""
        if self._input is None:
            self._input = SilentCommand(self._own_input(), on_failure=self.close)
            if self._wants_end:
                self._input.stream.end()

    async def receive(self) -> Output | None:
        """Return the next output; None when the command has ended. Raises StreamLost."""
        part = await super().receive()
        if part is None:
            self._settle()
            if self._input is not None:
                self._input.stream.close()
        return part

    async def send(self, data: bytes) -> None:
        """Send bytes to the command's input. Raises StreamLost."""
        if self._has_terminal:
            await super().send(data)
            return
        self._has_input = True
        self._input_came.set()
        self.start_input()
        assert self._input is not None
        await self._input.stream.send(data)

    def end(self) -> None:
        """End the command's input."""
        if self._has_terminal:
            super().end()
            return
        self._wants_end = True
        self._input_came.set()
        if self._input is not None:
            self._input.stream.end()

    def _end_input(self) -> None:
        if self._has_terminal:
            super()._end_input()

    def close(self) -> None:
        """Hang up; harmless when it has ended."""
        super().close()
        if self._input is not None:
            self._input.stream.close()

    def signal(self, number: int) -> None:
        """Send the command a signal."""
        self._signal(number)


class ContainerStream:
    """The dind container, as its log tells it."""

    def __init__(self, log: LogFollower) -> None:
        self._log = log
        self._result: Result | None = None
        self._failure: KataDindError | None = None

    @property
    def result(self) -> Result | None:
        """How the container ended; None while it runs."""
        return self._result if self._log.is_read else None

    def ended(self, exit_code: int) -> None:
        """Take note of the container's end; what it has printed is read first."""
        self._result = self._result or Result(exit_code)
        self._log.end()

    def fail(self, why: KataDindError) -> None:
        """Take note that the container could not be started."""
        self._failure, self._result = why, Result(error=why.summary)
        self._log.end()

    async def receive(self) -> Output | None:
        """Return the next output; None when the container has ended and all was read.

        Raises the error of a container that could not be started.
        """
        part = await self._log.read()
        if part is None and self._failure is not None:
            raise self._failure
        return part

    async def send(self, data: bytes) -> None:
        """It has no input."""

    def end(self) -> None:
        """It has no input."""

    def resize(self, terminal: Terminal) -> None:
        """It has no terminal."""

    def signal(self, number: int) -> None:
        """It is stopped by `Lasting.stop`."""

    def close(self) -> None:
        """Stop following it; it runs on."""
        self._result = self._result or Result()
        self._log.end(at_once=True)


class RefusedStream:
    """A request that this backend doesn't serve."""

    def __init__(self, why: str) -> None:
        self.result: Result | None = Result(error=why)

    async def receive(self) -> Output | None:
        """Return None: it has ended."""
        return None

    async def send(self, data: bytes) -> None:
        """Drop the bytes: it has ended."""

    def end(self) -> None:
        """Do nothing: it has ended."""

    def resize(self, terminal: Terminal) -> None:
        """Do nothing: it has ended."""

    def signal(self, number: int) -> None:
        """Do nothing: it has ended."""

    def close(self) -> None:
        """Do nothing: it has ended."""
