"""A guest that is started before it is known whose it will be: while the command line is parsed and the plan is made.

Who types the same command again mostly wants the same machine. So a supervisor that waits restores what that command
led to the last time, in a directory without a name; when the plan turns out to be another, it is cut off, and nothing
was lost but some of a processor's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from kata_dind.backend import Guest, Launch, OnEvent, load_backend
from kata_dind.errors import KataDindError
from kata_dind.host.channel import ChannelClosed, first_of
from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.record import new_workshop

logger = logging.getLogger(__name__)


class Ahead:
    """What was started ahead of a plan, if anything was."""

    def __init__(self, launch: Launch | None, stack: contextlib.AsyncExitStack) -> None:
        self._launch = launch
        self._stack = stack
        self._workshop = contextlib.ExitStack()
        """The directory without a name, which is needed until the guest has moved."""
        stack.callback(self._workshop.close)
        self._events: list[dict[str, Any]] = []
        self._on_event: OnEvent = self._events.append
        self._practised: asyncio.Event | None = None
        self._wanted = False
        self._start = asyncio.ensure_future(self._started(launch)) if launch else None

    async def _started(self, launch: Launch) -> Guest:
        workshop = self._workshop.enter_context(new_workshop())
        guest = await self._stack.enter_async_context(launch.start(workshop.directory, self._heard))
        if not self._wanted:
            async with asyncio.timeout(launch.timeout_seconds):
                await self._warm_up(launch, guest)
        return guest

    async def _warm_up(self, launch: Launch, guest: Guest) -> None:
        """Let the guest do once what its owner will ask of it: an emulator translates code when it first runs.

        That is for the time in which there is no owner yet; an owner who waits asks at once.
        """
        from kata_dind.owner import asking_first

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
        return dataclasses.replace(launch, start=functools.partial(self._adopted, launch, guest))

    @contextlib.asynccontextmanager
    async def _adopted(self, launch: Launch, guest: Guest, directory: Path, on_event: OnEvent) -> AsyncIterator[Guest]:
        launch.adopt(guest, directory)
        self._workshop.close()
        for message in self._events:
            on_event(message)
        self._on_event = on_event
        async with self._stack:
            yield guest

    async def end(self) -> None:
        """Cut off what was started, unless it was taken."""
        if self._start is not None:
            self._start.cancel()
            await asyncio.gather(self._start, return_exceptions=True)
        with contextlib.suppress(KataDindError):  # it was cut off, which is no news
            await self._stack.aclose()


def start_ahead(words: Sequence[str]) -> Ahead:
    """Begin to start what a command line led to the last time; it goes on while the loop runs.

    Without words there is no command, and nothing is started.
    """
    launch = None
    try:
        known = read_json(_memory())
        if words and known.get("words") in _without_a_name(words):
            plan = {**known["plan"], "name": "kata-dind"}
            launch = load_backend(known["backend"]).launch(plan, ephemeral=True, ahead=True)
    except (KataDindError, KeyError, TypeError) as error:  # of another version, or its seed is gone
        logger.info("nothing is started ahead: %s", error)
    return Ahead(launch if launch and launch.stand_in else None, contextlib.AsyncExitStack())


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
