"""A guest that is started before it is known whose it will be: while the command line is parsed and the plan is made.

Who types the same command again mostly wants the same machine. So a supervisor that waits restores what that command
led to the last time, in a directory without a name; when the plan turns out to be another, it is cut off, and nothing
was lost but some of a processor's time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend import GoOn, Guest, Launch, OnEvent, load_backend
from kata_dind.errors import KataDindError
from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.store.sandboxes import new_workshop

if TYPE_CHECKING:
    # Only where a method needs it: QEMU is to run before the event loop is imported.
    import asyncio

logger = logging.getLogger(__name__)


class Ahead:
    """What was begun ahead of a plan, if anything was."""

    def __init__(self, launch: Launch | None = None) -> None:
        self._launch = launch
        self._stack = contextlib.AsyncExitStack()
        self._workshop = contextlib.ExitStack()
        """The directory without a name, which is needed until the guest has moved."""
        self._stack.callback(self._workshop.close)
        self._events: list[dict[str, Any]] = []
        self._on_event: OnEvent = self._events.append
        self._practised: asyncio.Event | None = None
        self._wanted = False
        self._start: asyncio.Future[Guest] | None = None
        self._go_on: GoOn | None = None
        if launch:
            with contextlib.ExitStack() as unless_begun:
                workshop = unless_begun.enter_context(new_workshop())
                self._go_on = self._stack.enter_context(launch.begin(workshop.directory))
                self._workshop.push(unless_begun.pop_all())

    def go_on(self) -> None:
        """Meet what was begun, while the loop runs."""
        import asyncio

        if self._launch and self._go_on:
            self._start = asyncio.ensure_future(self._started(self._launch, self._go_on))

    async def _started(self, launch: Launch, go_on: GoOn) -> Guest:
        import asyncio

        guest = await self._stack.enter_async_context(go_on(self._heard))
        if not self._wanted:
            async with asyncio.timeout(launch.timeout_seconds):
                await self._warm_up(launch, guest)
        return guest

    async def _warm_up(self, launch: Launch, guest: Guest) -> None:
        """Let the guest do once what its owner will ask of it: an emulator translates code when it first runs.

        That is for the time in which there is no owner yet; an owner who waits asks at once.
        """
        import asyncio

        from kata_dind.life.owner import asking_first
        from kata_dind.wire.channel import first_of

        self._practised = asyncio.Event()
        async with asking_first(guest) as answer:
            stream = guest.open({**launch.container_request(False), "time": time.time()})
            await answer
            await first_of(self._practised.wait(), stream.wait_closed(), guest.ended.wait())
        stream.close()

    def _heard(self, message: dict[str, Any]) -> None:
        if message.get("event") == "renewed" and self._practised is not None and not self._practised.is_set():
            self._practised.set()
        else:
            self._on_event(message)

    async def take(self, launch: Launch) -> Launch:
        """Return a launch that goes on with the guest, where that is what it would start; else as it was."""
        from kata_dind.wire.channel import ChannelClosed

        if self._launch is None or self._start is None or self._launch.stand_in != launch.stand_in:
            await self.end()
            return launch
        self._wanted = True
        try:
            guest = await self._start
        except (KataDindError, ChannelClosed, OSError) as error:  # a TimeoutError is an OSError
            logger.warning("what was started ahead has failed: %s", error)
            await self.end()
            return launch
        logger.info("going on with the guest that was started ahead")

        @contextlib.contextmanager
        def adopted(directory: Path) -> Iterator[GoOn]:
            launch.adopt(guest, directory)
            self._workshop.close()
            yield functools.partial(self._handed_over, guest)

        return dataclasses.replace(launch, begin=adopted)

    @contextlib.asynccontextmanager
    async def _handed_over(self, guest: Guest, on_event: OnEvent) -> AsyncIterator[Guest]:
        for message in self._events:
            on_event(message)
        self._on_event = on_event
        async with self._stack:
            yield guest

    async def end(self) -> None:
        """Cut off what was started, unless it was taken."""
        import asyncio

        if self._start is not None:
            self._start.cancel()
            await asyncio.gather(self._start, return_exceptions=True)
        with contextlib.suppress(KataDindError):  # it was cut off, which is no news
            await self._stack.aclose()


def begin_ahead(words: Sequence[str]) -> Ahead:
    """Begin to start what a command line led to the last time, as far as that needs no event loop.

    Without words there is no command, and nothing is started.
    """
    try:
        known = read_json(_memory())
        if words and known.get("words") in _without_a_name(words):
            plan = {**known["plan"], "name": "kata-dind"}
            launch = load_backend(known["backend"]).launch(plan, ephemeral=True, ahead=True)
            if launch.stand_in:
                return Ahead(launch)
    except (KataDindError, OSError, KeyError, TypeError) as error:  # of another version, its seed is gone, no room
        logger.info("nothing is started ahead: %s", error)
    return Ahead()


def remember(words: Sequence[str], name: str, plan: dict[str, Any], launch: Launch) -> None:
    """Remember what a command line led to, for the next one that is the same but for the sandbox's name."""
    if not words or not launch.stand_in:
        return
    known = {"words": [word for word in words if word != name], "stand_in": launch.stand_in}
    try:
        before = read_json(_memory())
        if {key: before.get(key) for key in known} != known:
            write_passing_json(_memory(), {**known, "backend": plan["backend"], "plan": plan["plan"]})
    except (OSError, KataDindError) as error:  # a full disk, which a sandbox that runs can do without
        logger.warning("cannot remember this start: %s", error)


def _memory() -> Path:
    return state_directory() / "last-start.json"


def _without_a_name(words: Sequence[str]) -> list[list[str]]:
    """Return a command line as it is, and without each word of it that may be a sandbox's name."""
    names = {word for word in words[1:] if not word.startswith("-")}
    return [list(words), *([word for word in words if word != name] for name in names)]
