"""A guest that is started early: while the command line is still parsed, and before the plan of its sandbox is made.

The same command line mostly leads to the same machine. So a supervisor on standby restores the guest of the last plan
that this command line led to, in a directory without a name. When the new plan allows it, the guest is adopted for the
sandbox; else it is cut off, and only some processor time is lost.

The door is `start_early`. It is called before the event loop is imported, so that the machine's processes start
meanwhile; `EarlyStart.meet` and `EarlyStart.take` follow inside the loop. No other room knows that a start has two
halves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.backend import Begun, Guest, Snapshots, load_backend
from kata_dind.backend.events import GuestEvent, OnEvent, Usable
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
    """A guest whose start has begun before the plan of its sandbox was made."""

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
        """The directory without a name, which is needed until the guest is adopted."""
        self._stack.callback(self._workshop.close)
        with contextlib.ExitStack() as unless_begun:
            workshop = unless_begun.enter_context(new_workshop())
            self._begun = self._stack.enter_context(snapshots.begin_early(plan, workshop.directory))
            self._workshop.push(unless_begun.pop_all())

    def meet(self) -> None:
        """Begin to wait for the guest, while the loop does other things."""
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
        """Let the guest do once what its owner will ask of it, since an emulator translates code when it first runs.

        This uses the time in which there is no owner yet. An owner that waits already asks at once.
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
        """Return the `Begin` of a sandbox that adopts this guest; where its plan does not fit, end the guest."""
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
        """Cut off the guest, unless it was adopted."""
        import asyncio

        if self._start is not None:
            self._start.cancel()
            await asyncio.gather(self._start, return_exceptions=True)
        with contextlib.suppress(KataDindError):  # it says that the guest was cut off, as intended
            await self._stack.aclose()


class _Adopted:
    """A guest that was connected to already."""

    def __init__(self, hand_over: Callable[[OnEvent], AbstractAsyncContextManager[Guest]]) -> None:
        self._hand_over = hand_over

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[Guest]:
        return self._hand_over(on_event)


def probable_backend(words: Sequence[str]) -> str:
    """Return the backend that a command line will probably lead to; one that is wrong costs some time only."""
    for word, following in itertools.pairwise([*words, ""]):
        if word == "--backend" or word.startswith("--backend="):
            return word.partition("=")[2] or following
    if words[:1] == ["start"]:
        for word in words[1:]:
            if planned := read_json(state_directory() / "sandboxes" / word / "plan.json").get("backend"):
                return str(planned)
    return os.environ.get("KATA_DIND_BACKEND", "")


def start_early(words: Sequence[str]) -> EarlyStart | None:
    """Begin to start the guest that a command line led to the last time; None where there is none."""
    try:
        known = read_json(_memory())
        if words and known.get("words") in _without_a_name(words):
            plan = dataclasses.replace(plan_from_json(known["plan"]), name="kata-dind")
            snapshots = load_backend(plan.backend).snapshots
            if snapshots is not None and snapshots.stand_in_key(plan):
                return EarlyStart(plan, snapshots)
    # Its plan is of another version, its seed is gone, or there is no space.
    except (KataDindError, OSError, KeyError, TypeError, AttributeError) as error:
        logger.info("nothing is started early: %s", error)
    return None


def remember(words: Sequence[str], plan: AnyPlan) -> None:
    """Keep the plan that a command line led to, for the next one that differs in the sandbox's name at most."""
    snapshots = load_backend(plan.backend).snapshots
    key = snapshots.stand_in_key(plan) if snapshots and words else ""
    if not key:
        return
    known = {"words": [word for word in words if word != plan.name], "stand_in": key}
    try:
        before = read_json(_memory())
        if {key: before.get(key) for key in known} != known:
            write_passing_json(_memory(), {**known, "plan": plan_to_json(plan)})
    except (OSError, KataDindError) as error:  # such as a full disk; the sandbox runs all the same
        logger.warning("cannot remember this start: %s", error)


def _memory() -> Path:
    return state_directory() / "last-start.json"


def _without_a_name(words: Sequence[str]) -> list[list[str]]:
    """Return a command line as it is, and copies that lack one word each that may be the sandbox's name."""
    names = {word for word in words[1:] if not word.startswith("-")}
    return [list(words), *([word for word in words if word != name] for name in names)]
