"""A guest that is started before it is known whose it will be: while the command line is parsed and the plan is made.

Whoever types the same command again mostly wants the same machine. So a supervisor that waits restores what that
command led to the last time, in a directory without a name; when the plan turns out to be another, the guest is cut
off, and nothing was lost but some of a processor's time.

The door is `start_early`, called before the event loop is imported, for the machine's processes start meanwhile;
`EarlyStart.meet` and `EarlyStart.take` follow inside the loop. Nobody else knows that a start has two halves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.backend import Begun, Guest, GuestEvent, OnEvent, Snapshots, Usable, load_backend
from kata_dind.backend.plan import AnyPlan, plan_from_json, plan_to_json
from kata_dind.errors import KataDindError
from kata_dind.host.directories import state_directory
from kata_dind.host.json_files import read_json, write_passing_json
from kata_dind.store.sandboxes import new_workshop

if TYPE_CHECKING:
    # Only where a method needs it: QEMU is to run before the event loop is imported.
    import asyncio

    from kata_dind.life.owner import Begin

logger = logging.getLogger(__name__)


class EarlyStart:
    """A guest whose start has begun ahead of a plan."""

    def __init__(self, plan: AnyPlan, snapshots: Snapshots) -> None:
        self._plan = plan
        self._snapshots = snapshots
        self._events: list[GuestEvent] = []
        self._on_event: OnEvent = self._events.append
        self._practised: asyncio.Event | None = None
        self._wanted = False
        self._start: asyncio.Future[Guest] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._workshop = contextlib.ExitStack()
        """The directory without a name, which is needed until the guest has moved."""
        self._stack.callback(self._workshop.close)
        with contextlib.ExitStack() as unless_begun:
            workshop = unless_begun.enter_context(new_workshop())
            self._begun = self._stack.enter_context(snapshots.begin_early(plan, workshop.directory))
            self._workshop.push(unless_begun.pop_all())

    def meet(self) -> None:
        """Wait for the guest, beside whatever else the loop does."""
        import asyncio

        self._start = asyncio.ensure_future(self._started())

    async def _started(self) -> Guest:
        import asyncio

        guest = await self._stack.enter_async_context(self._begun.meet(self._heard))
        if not self._wanted:
            async with asyncio.timeout(self._plan.timeout_seconds):
                await self._warm_up(guest)
        return guest

    async def _warm_up(self, guest: Guest) -> None:
        """Let the guest do once what its owner will ask of it: an emulator translates code when it first runs.

        That is for the time in which there is no owner yet; an owner who waits asks at once.
        """
        import asyncio

        from kata_dind.life.readiness import asking_first
        from kata_dind.wire.channel import first_of
        from kata_dind.wire.requests import Container, Stream

        async def ended(stream: Stream) -> None:
            while await stream.receive() is not None:
                pass

        self._practised = asyncio.Event()
        async with asking_first(guest) as answer:
            container = guest.open(Container())
            await answer
            await first_of(self._practised.wait(), ended(container), guest.ended.wait())
        container.close()

    def _heard(self, event: GuestEvent) -> None:
        if isinstance(event, Usable) and self._practised is not None and not self._practised.is_set():
            self._practised.set()
        else:
            self._on_event(event)

    async def take(self, plan: AnyPlan) -> Begin | None:
        """Return how the sandbox of a plan begins with this guest; None, and nothing is left, where it can't."""
        from kata_dind.wire.requests import StreamLost

        if self._start is None or self._snapshots.stand_in_key(plan) != self._snapshots.stand_in_key(self._plan):
            await self.end()
            return None
        self._wanted = True
        try:
            guest = await self._start
        except (KataDindError, StreamLost, OSError) as error:  # a TimeoutError is an OSError
            logger.warning("the early start has failed: %s", error)
            await self.end()
            return None
        logger.info("the guest that was started early is adopted")

        @contextlib.contextmanager
        def begin(directory: Path) -> Iterator[Begun]:
            self._snapshots.adopt(guest, plan, directory)
            self._workshop.close()
            yield _Adopted(functools.partial(self._handed_over, guest))

        return begin

    @contextlib.asynccontextmanager
    async def _handed_over(self, guest: Guest, on_event: OnEvent) -> AsyncIterator[Guest]:
        for event in self._events:
            on_event(event)
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


class _Adopted:
    """A guest that was met already."""

    def __init__(self, hand_over: Callable[[OnEvent], AbstractAsyncContextManager[Guest]]) -> None:
        self._hand_over = hand_over

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[Guest]:
        return self._hand_over(on_event)


def start_early(words: Sequence[str]) -> EarlyStart | None:
    """Begin to start what a command line led to the last time, as far as that needs no event loop; None for nothing."""
    try:
        known = read_json(_memory())
        if words and known.get("words") in _without_a_name(words):
            plan = dataclasses.replace(plan_from_json(known["plan"]), name="kata-dind")
            snapshots = load_backend(plan.backend).snapshots
            if snapshots is not None and snapshots.stand_in_key(plan):
                return EarlyStart(plan, snapshots)
    # It is of another version, its seed is gone, there is no room.
    except (KataDindError, OSError, KeyError, TypeError, AttributeError) as error:
        logger.info("nothing is started early: %s", error)
    return None


def remember(words: Sequence[str], plan: AnyPlan) -> None:
    """Remember what a command line led to, for the next one that is the same but for the sandbox's name."""
    snapshots = load_backend(plan.backend).snapshots
    key = snapshots.stand_in_key(plan) if snapshots and words else ""
    if not key:
        return
    known = {"words": [word for word in words if word != plan.name], "stand_in": key}
    try:
        before = read_json(_memory())
        if {key: before.get(key) for key in known} != known:
            write_passing_json(_memory(), {**known, "plan": plan_to_json(plan)})
    except (OSError, KataDindError) as error:  # a full disk, which a sandbox that runs can do without
        logger.warning("cannot remember this start: %s", error)


def _memory() -> Path:
    return state_directory() / "last-start.json"


def _without_a_name(words: Sequence[str]) -> list[list[str]]:
    """Return a command line as it is, and without each word of it that may be a sandbox's name."""
    names = {word for word in words[1:] if not word.startswith("-")}
    return [list(words), *([word for word in words if word != name] for name in names)]
