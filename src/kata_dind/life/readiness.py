"""From a guest that answers to a sandbox that is ready: dockerd's first answer, and the proof of the data root."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from kata_dind.backend import Guest, Proven
from kata_dind.backend.plan import AnyPlan
from kata_dind.errors import GuestNotReady, KataDindError, SandboxError, VerdictFailed
from kata_dind.life.container import FollowedContainer
from kata_dind.life.status import Status
from kata_dind.proof.verdict import Verdict
from kata_dind.store.sandboxes import Record
from kata_dind.wire.channel import first_of
from kata_dind.wire.requests import Docker, End, Output

_PING = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_PING_PAUSE_SECONDS = 0.1

LetIn = Callable[[], Awaitable[None]]
"""Opens the endpoint."""


class Readiness:
    """The wait of one start until its sandbox is ready, within the plan's time."""

    def __init__(
        self, record: Record, plan: AnyPlan, proven: Proven | None, *, status: Status, container: FollowedContainer
    ) -> None:
        self._record = record
        self._plan = plan
        self._proven = proven
        self._status = status
        self._container = container
        self.usable = asyncio.Event()
        """Set when a guest that was proven before has been renewed."""

    async def wait(self, guest: Guest, answer: asyncio.Future[None], let_in: LetIn) -> Verdict:
        """Wait for dockerd's first answer and the proof, and open the endpoint on the way.

        Raises GuestNotReady when the time is over, or the error that keeps the sandbox from being ready.
        """
        async with _deadline(self._remaining_seconds(), lambda: self._not_ready(guest)):
            if self._proven is None:
                await self._wait_for(guest, answer)
                self._status.phase("dockerd", "dockerd answers")
                await let_in()
                verdict = await self._prove(guest)
            else:
                await self._wait_for(guest, asyncio.ensure_future(self.usable.wait()))
                # Its dockerd was proven, and is answering our question already: a client's comes next.
                await let_in()
                await self._wait_for(guest, answer)
                self._status.phase("dockerd", "dockerd answers")
                verdict = self._known(self._proven)
        proven = "the data root is proven" if verdict.seconds else "the data root has no space for the proof"
        self._status.phase("proof", proven)
        return verdict

    async def _wait_for(self, guest: Guest, awaited: asyncio.Future[Any]) -> None:
        """Wait for something that a starting guest will do. Raises the error that keeps it from that."""
        try:
            await first_of(asyncio.wait([awaited]), guest.ended.wait(), self._container.ended.wait())
            if guest.ended.is_set():
                raise gone(guest)
            if not awaited.done():
                raise self._container.failure(await guest.testimony())
            awaited.result()
        finally:
            awaited.cancel()

    async def _prove(self, guest: Guest) -> Verdict:
        from kata_dind.proof.round_trip import prove  # which a clone, whose seed was proven, need not load

        proof = functools.partial(
            prove, self._record.endpoint, timeout_seconds=self._remaining_seconds(), fallback=self._plan.fallback
        )
        try:
            return await _in_thread(proof)
        except VerdictFailed as error:
            if guest.ended.is_set():
                raise gone(guest) from error
            if self._is_full_again(error):
                return Verdict(**{**self._status.earlier_verdict, "seconds": 0.0})
            evidence = [error.details, self._container.tail(), await guest.testimony()]
            error.details = "\n".join(filter(None, evidence))
            raise

    def _known(self, proven: Proven) -> Verdict:
        """Return the earlier verdict; the guest has repeated the part of the proof that could fail now."""
        self._status.know(data_root={**proven.data_root, **(self._status.get("data_root") or {})}, kernel=proven.kernel)
        self._status.warnings.extend(proven.warnings)
        return Verdict(**proven.verdict)

    def _is_full_again(self, error: VerdictFailed) -> bool:
        """Tell whether a proven data root only lacks space for the proof; then its user must be let in to tidy up."""
        said = f"{error.summary}\n{error.details}"
        if not self._status.earlier_verdict or "no space left on device" not in said:
            return False
        self._status.warn("the data root is full, so it was not proven again: docker system prune")
        return True

    def _remaining_seconds(self) -> float:
        return max(1.0, self._plan.timeout_seconds - self._status.elapsed_seconds)

    def _not_ready(self, guest: Guest) -> KataDindError:
        return GuestNotReady(
            f"dockerd was not ready within {self._plan.timeout_seconds:g} s",
            id="dockerd.not-ready",
            details=f"{guest.evidence()}\n{self._container.tail()}",
            hint="give it more time with --timeout",
        )


def gone(guest: Guest) -> SandboxError:
    """Return the error of a guest that has ended by itself."""
    first, _, rest = guest.evidence().partition("\n")
    return SandboxError(f"the guest is gone: {first}", id="guest.gone", details=rest)


@contextlib.asynccontextmanager
async def asking_first(guest: Guest) -> AsyncIterator[asyncio.Future[None]]:
    """Ask dockerd before the block asks the guest for anything, and wait for the answer while the block runs.

    So dockerd works on its answer while a guest that ran before is renewed.
    """
    answer = asyncio.ensure_future(_first_answer(guest))
    try:
        await asyncio.sleep(0)
        yield answer
    finally:
        answer.cancel()


async def _first_answer(guest: Guest) -> None:
    """Ask /_ping until dockerd answers; it listens long before it answers, so one question mostly suffices."""
    while True:
        stream = guest.open(Docker())
        try:
            await stream.send(_PING)
            answer = b""
            while (part := await stream.receive()) is not None and not isinstance(part, End):
                answer += part.data if isinstance(part, Output) else b""
                if b"200 OK" in answer:
                    return
        finally:
            stream.close()
        await asyncio.sleep(_PING_PAUSE_SECONDS)


async def _in_thread(call: Callable[[], Verdict]) -> Verdict:
    """Call a function that blocks. Not by `asyncio.to_thread`, since Python waits at its end for such threads."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    outcome: concurrent.futures.Future[Verdict] = concurrent.futures.Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the caller has ended
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
