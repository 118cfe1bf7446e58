"""Connections to dockerd: the command that each is, one that waits for the next client, and the end of lost ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

from kata_dind.backend.containerd.streaming import CommandStream, OpenUrl, SilentCommand, Streams
from kata_dind.backend.dockerd import DOCKER_SOCKET
from kata_dind.errors import KataDindError
from kata_dind.wire.requests import Output, StreamLost

logger = logging.getLogger(__name__)

_MARK = "KATA_DIND_CONNECTION"
_INPUT = "/dev/kata-dind.connection."

# A connection waits for dockerd's socket in the container, so that nobody has to ask again and again: a command in a
# container takes a tenth of a second of processor time. The program is Docker's own client, which all images have, and
# which ends its half of the connection when its input ends: a FIFO, to which others than its cat may write. What the
# connections before it have left there is removed.
CONNECT = f"""
until [ -S {DOCKER_SOCKET} ]; do sleep 0.1; done
input={_INPUT}${_MARK}
mkfifo -m 0600 "$input"
exec 3<&0
cat <&3 >"$input" &
echo "$!" >"$input.cat"
exec <"$input" 3<&-
set --
for file in {_INPUT}*.cat; do
	read -r pid 2>/dev/null <"$file" || continue
	kill -0 "$pid" 2>/dev/null || set -- "$@" "$file" "${{file%.cat}}"
done
[ "$#" = 0 ] || rm -f "$@"
exec env -u DOCKER_TLS_VERIFY DOCKER_HOST=unix://{DOCKER_SOCKET} docker system dial-stdio
"""

_END_INPUT = """
until [ -s "$1.cat" ]; do sleep 0.1; done
read -r pid <"$1.cat" && kill "$pid" 2>/dev/null || :
"""
_GO_ON_WITH_INPUT = f'cat >"$1" || :; {_END_INPUT.strip()}'

# Its words are the mark of those that it spares, or nothing, and the marks of those that it ends. KILL, since later
# versions of Docker's client wait for their streams after a TERM.
_END = f"""
spared=$1
shift
for file in $(for mark; do grep -lsF "{_MARK}=$mark" /proc/[0-9]*/environ; done); do
	pid=${{file#/proc/}}
	[ -n "$spared" ] && grep -qsF "{_MARK}=$spared" "$file" || kill -KILL "${{pid%/environ}}" 2>/dev/null
done
"""

_UPGRADED = b"HTTP/1.1 101 "
"""What begins dockerd's answer to a client that speaks another protocol from there on, in both directions."""

_ANSWER_SECONDS = 10.0
"""How long a client that has ended its half waits for an answer before dockerd is told of that."""
_SPARE_SECONDS = 20.0
_LEAVE_SECONDS = 2.0
"""How long a spare one may take to end in order."""
_TOGETHER_SECONDS = 1.0
"""Lost ones are ended together after this time, in which most end by themselves."""

Run = Callable[..., Coroutine[Any, Any, str]]
"""Runs a short command in the container. Raises KataDindError."""


def connection_argv(mark: str) -> tuple[str, ...]:
    """Return the command of a connection, by whose mark it can be found."""
    return ("env", f"{_MARK}={mark}", "sh", "-c", CONNECT)


def end_input_argv(mark: str) -> tuple[str, ...]:
    """Return the command that ends a connection's input, of which all must have arrived."""
    return ("sh", "-c", _END_INPUT, "sh", _INPUT + mark)


def more_input_argv(mark: str) -> tuple[str, ...]:
    """Return the command whose input goes on with that of a connection, and ends it."""
    return ("env", f"{_MARK}={mark}", "sh", "-c", _GO_ON_WITH_INPUT, "sh", _INPUT + mark)


class Connection(CommandStream):
    """A connection to dockerd, whose halves end one by one.

    Once the input of a command was ended, Kata's Go runtime gives no more of its output than comes next
    (kata-containers#13640, up to 4.1), and the command waits for ever. Docker's client ends its half for each container
    that gets no input, while all that this prints is to come. So that input is ended from inside of the container; and
    what a client sends to a container goes to a command of its own, which prints nothing.
    """

    def __init__(
        self,
        open_url: OpenUrl,
        *,
        end_input: Callable[[], Coroutine[Any, Any, object]],
        more_input: Callable[[], CommandStream],
        **options: Any,
    ) -> None:
        """`end_input` ends the input. Raises KataDindError. `more_input` starts a command that takes the rest of it."""
        super().__init__(open_url, Streams(terminal=None, errors=False), **options)
        self._end_from_inside = end_input
        self._start_more_input = more_input
        self._more: SilentCommand | None = None
        self._answered = asyncio.Event()
        """Set while nothing was sent since the last answer."""
        self._answered.set()
        self._is_upgraded = False
        self._ending: asyncio.Task[None] | None = None

    async def receive(self) -> Output | None:
        """Return the next output; None when the connection has ended. Raises StreamLost."""
        part = await super().receive()
        if part is not None:
            self._answered.set()
            self._is_upgraded = self._is_upgraded or part.data.startswith(_UPGRADED)
        elif self._more is not None:
            self._more.stream.close()
        return part

    async def send(self, data: bytes) -> None:
        """Send bytes to dockerd. Raises StreamLost."""
        if self._is_upgraded:
            if self._more is None:
                self._more = SilentCommand(self._start_more_input(), on_failure=self.close)
            await self._more.stream.send(data)
        else:
            self._answered.clear()
            await super().send(data)

    def end(self) -> None:
        """End the client's half."""
        if self._more is not None:
            self._more.stream.end()
        elif self._answered.is_set() and not self._is_upgraded:
            super().end()
        elif self._ending is None and self.result is None:
            self._ending = asyncio.ensure_future(self._end_in_order())

    def close(self) -> None:
        """Hang up; harmless when it has ended."""
        super().close()
        if self._more is not None:
            self._more.stream.close()

    async def _end_in_order(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._answered.wait()  # then all has arrived
        if self.result is not None:
            return
        try:
            await self._end_from_inside()
        except KataDindError as error:
            logger.warning("the input of a connection could not be ended in order: %s", error)
            super().end()


class Strays:
    """Connections that are lost, and their end.

    When we hang up, a command in a container learns no more than that its input has ended, which Docker's client passes
    on as the end of one half. So `docker attach` to a container would last until that ends; and as nobody reads what it
    prints, it would stop once a mebibyte has gathered (measured, as is that it doesn't with a client on the same host).
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ours = os.urandom(4).hex()
        self._made = 0
        self._open: set[str] = set()
        self._lost: set[str] = set()
        self._ending: asyncio.Task[None] | None = None

    def mark(self) -> str:
        """Return the mark of a new connection."""
        self._made += 1
        mark = f"{self._ours}.{self._made}."
        self._open.add(mark)
        return mark

    def forget(self, mark: str) -> None:
        """Take note that a connection has ended, and its command with it."""
        self._open.discard(mark)

    def lose(self, mark: str) -> None:
        """Take note that nobody hears a connection any more; its command is ended soon."""
        self._lost.add(mark)
        self._begin(self._end_lost())

    def end_those_of_others(self) -> None:
        """End the connections of those who served the container before us."""
        self._begin(self._end("", spared=self._ours))

    async def end_all(self) -> None:
        """End all that are open or lost, as the last one who serves the container for now."""
        if self._ending is not None:
            self._ending.cancel()
        if self._open or self._lost:
            with contextlib.suppress(KataDindError):
                await self._end(self._ours)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        if self._ending is None or self._ending.done():
            self._ending = asyncio.ensure_future(work)
        else:
            work.close()

    async def _end_lost(self) -> None:
        while self._lost:
            await asyncio.sleep(_TOGETHER_SECONDS)
            lost = {*self._lost}
            with contextlib.suppress(KataDindError):  # it is tried again when containerd answers
                await self._end(*sorted(lost))
                self._lost -= lost
                self._open -= lost

    async def _end(self, *marks: str, spared: str = "") -> None:
        await self._run("sh", "-c", _END, "sh", spared, *marks)


class Spares:
    """Connections to dockerd that are made before a client asks: Docker's clients connect in bursts.

    Each use makes another one, and one that nobody wants for a while is closed: an idle sandbox has none.
    """

    def __init__(self, connect: Callable[[Callable[[], None]], CommandStream]) -> None:
        self._connect = connect
        self.answered = asyncio.Event()
        """Set when dockerd has answered for the first time."""
        self._spare: CommandStream | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._leaving: dict[asyncio.Task[None], CommandStream] = {}

    def take(self) -> CommandStream:
        """Return a connection, made before if there is one."""
        spare, self._spare = self._spare, None
        if self._expiry is not None:
            self._expiry.cancel()
        if spare is not None and not spare.is_open:
            spare.close()
            spare = None
        return spare or self._connect(self._prepare)

    def close(self) -> None:
        """Close what nobody has taken."""
        self._drop()
        for task, spare in self._leaving.items():
            task.cancel()
            spare.close()  # which a task that has not begun yet never does

    def _prepare(self) -> None:
        """Make a spare connection, now that another one has got its answer."""
        self.answered.set()
        self._drop()
        self._spare = self._connect(self._prepare)
        self._expiry = asyncio.get_running_loop().call_later(_SPARE_SECONDS, self._drop)

    def _drop(self) -> None:
        """Let a connection that nobody has taken end in order: dockerd closes one whose client ends its half."""
        if self._expiry is not None:
            self._expiry.cancel()
        spare, self._spare = self._spare, None
        if spare is not None:
            task = asyncio.ensure_future(_left(spare))
            self._leaving[task] = spare
            task.add_done_callback(self._leaving.pop)


async def _left(spare: CommandStream) -> None:
    spare.end()
    try:
        async with asyncio.timeout(_LEAVE_SECONDS):
            while await spare.receive() is not None:
                pass
    except (TimeoutError, StreamLost):
        pass
    finally:
        spare.close()
