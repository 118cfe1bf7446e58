"""Own a sandbox in this process: the owner's loop runs in a thread that lasts as long as the sandbox.

The thread must last, since its end would send the death signal to the processes that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Iterator

from kata_dind.backend import Backend
from kata_dind.backend.plan import AnyPlan
from kata_dind.errors import GuestNotReady, SandboxError
from kata_dind.life.owner import Begin, Owner
from kata_dind.progress import Event, Report
from kata_dind.store.sandboxes import Record

_SNAPSHOT_SECONDS = 1800.0
"""For a snapshot. Its steps have deadlines of their own; this one is for an event loop that hangs."""


class OwnerThread:
    """An owner at work in another thread."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop

    def snapshot(self) -> None:
        """End the guest with its state on file; see `backend.SnapshotGuest.snapshot`."""
        done = asyncio.run_coroutine_threadsafe(self._owner.snapshot(), self._loop)
        try:
            done.result(_SNAPSHOT_SECONDS)
        except TimeoutError as error:
            raise SandboxError(
                f"the snapshot was not made within {_SNAPSHOT_SECONDS:g} s", id="sandbox.snapshot-timed-out"
            ) from error


@contextlib.contextmanager
def own_in_thread(
    record: Record, plan: AnyPlan, backend: Backend, *, begin: Begin | None = None, report: Report
) -> Iterator[OwnerThread]:
    """Start a sandbox, own it for the length of the block, and stop it. Raises the error that made it fail."""
    failure: list[BaseException] = []

    def heard(event: Event) -> None:
        report(event)
        if event.name == "ready":
            os.write(ready_write, b"r")

    owner = Owner(record, plan, backend, begin=begin, report=heard)
    loop = asyncio.new_event_loop()
    ready_read, ready_write = os.pipe()
    ended = threading.Event()

    # Whoever takes it first decides whether there is an owner at all: the thread as it begins, or we, interrupted in
    # Thread.start, which may be before the thread exists or after.
    decision = threading.Lock()

    def own() -> None:
        if not decision.acquire(blocking=False):
            return
        try:
            loop.run_until_complete(owner.run())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failure.append(error)
        finally:
            loop.close()
            os.write(ready_write, b"e")
            ended.set()

    try:
        try:
            threading.Thread(target=own, name=f"owner of {record.name}").start()
        except BaseException:
            if decision.acquire(blocking=False):
                loop.close()
                ended.set()
            raise
        select.select([ready_read], [], [])
        if not failure:
            yield OwnerThread(owner, loop)
    except GuestNotReady as error:
        # The block failed since the sandbox has ended, and the owner knows why.
        _end(loop, owner, ended)
        raise failure[0] if failure else error from None
    finally:
        try:
            _end(loop, owner, ended)
        finally:
            os.close(ready_read)
            os.close(ready_write)
    if failure:
        raise failure[0]


def _end(loop: asyncio.AbstractEventLoop, owner: Owner, ended: threading.Event) -> None:
    """Let the owner end, and wait for that, even if we are interrupted meanwhile: every step of it ends by itself.

    Thread.join would not do: up to Python 3.12 it takes a thread for ended once the join was interrupted.
    """
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(owner.request_stop)
    try:
        ended.wait()
    except KeyboardInterrupt:
        ended.wait()
        raise
