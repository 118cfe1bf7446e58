"""Connections to dockerd: the command that each is, one that waits for the next client, and the end of lost ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from kata_dind.backend.containerd.streaming import CommandStream
from kata_dind.backend.dockerd import DOCKER_SOCKET
from kata_dind.errors import KataDindError
from kata_dind.wire.requests import StreamLost

# A connection waits for dockerd's socket in the container, so that nobody has to ask again and again: a command in a
# container takes a tenth of a second of processor time. The program is Docker's own client, which all images have, and
# which ends its half of the connection when we do.
CONNECT = f"""
until [ -S {DOCKER_SOCKET} ]; do sleep 0.1; done
exec env -u DOCKER_TLS_VERIFY DOCKER_HOST=unix://{DOCKER_SOCKET} docker system dial-stdio
"""

_MARK = "KATA_DIND_CONNECTION"

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
