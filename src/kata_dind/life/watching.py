"""Changes of files of the host that are shared, for inotify in the guest (`--watch`).

A thread waits for them, since it may have to read directories; the owner's loop passes them on, a batch at a time: the
next batch waits until the guest has taken the last one, and has in it what was changed meanwhile.

The guest touches what has changed, which this host sees: a file is opened and closed, or given the owner that it has.
So a file that was only closed, or whose mode or time may have changed, counts if it is not the file that the guest was
told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kata_dind.backend import Guest, SharingGuest
from kata_dind.errors import SandboxError
from kata_dind.life.status import Status
from kata_dind.store.sandboxes import Record
from kata_dind.wire.requests import StreamLost

if TYPE_CHECKING:
    from kata_dind.host.tree_watch import Signature, TreeWatch

logger = logging.getLogger(__name__)

MOST_PENDING = 20_000
"""Beyond so many paths only their directories are told: nobody who sees those change reads each event."""

_BATCH = 500
_GATHER_SECONDS = 0.02
"""An editor makes several changes within it."""

_REST = 2.0
"""A pause after each batch, in times that the batch took: a file that is written all the time takes a third of them."""

_SHORTEST_REST_SECONDS, _LONGEST_REST_SECONDS = 0.05, 1.0

_ECHO_SECONDS = 5.0
"""How long after the guest has taken a change this host may see its touch, at most."""

_END_SECONDS = 5.0

_READY_SECONDS = 20.0
"""How long a start waits for directories to be watched; the others are watched later."""

OnChanges = Callable[[str, list[str]], None]
"""Told a share's path in the guest, and paths below it."""

OnTrouble = Callable[[str], None]


class SharesWatch:
    """The watch of one start, for a sandbox that was asked to have it; without effect for all others."""

    def __init__(self, record: Record, status: Status) -> None:
        self._record = record
        self._status = status
        self._watcher: Watcher | None = None
        self._teller: asyncio.Task[None] | None = None
        self._pending: dict[str, None] = {}
        self._arrived = asyncio.Event()
        self._forgetting: asyncio.TimerHandle | None = None
        self._warnings: set[str] = set()
        """What holds for as long as this watch does."""
        self._not_told: list[str] = []
        """Those of them that are about shares."""

    def follow(self, guest: Guest) -> None:
        """Begin to watch the shares, and to tell a guest."""
        spec = self._record.read("spec.json")
        if not spec.get("watch"):
            return
        loop = asyncio.get_running_loop()

        def in_loop(call: Callable[..., None]) -> Callable[..., None]:
            def later(*words: Any) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(call, *words)

            return later

        self._watcher = Watcher(on_changes=in_loop(self._changed), on_trouble=in_loop(self._warn))
        self._teller = asyncio.ensure_future(self._tell(cast(SharingGuest, guest)))
        self.update()

    def update(self) -> None:
        """Watch the shares that the sandbox has now."""
        if self._watcher is None:
            return
        shares = self._record.read("spec.json").get("shares") or []
        not_told = [_read_only(share) for share in shares if share["read_only"]]
        self._withdraw({*self._not_told} - {*not_told})
        for warning in not_told:
            if warning not in self._not_told:
                self._warn(warning)
        self._not_told = not_told
        self._watcher.watch({share["guest_path"]: Path(share["host_path"]) for share in shares
                             if not share["read_only"]})  # fmt: skip

    async def wait_until_watched(self) -> None:
        """Wait until all is watched that was shared so far, or for some seconds."""
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.watched.wait, _READY_SECONDS)

    async def unfollow(self) -> None:
        """Watch no more."""
        watcher, teller, self._watcher, self._teller = self._watcher, self._teller, None, None
        if teller is not None:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._pending.clear()
        self._withdraw({*self._warnings})
        self._not_told = []

    def _changed(self, guest_path: str, below: list[str]) -> None:
        for path in below:
            whole = f"{guest_path}/{path}" if path else guest_path
            if len(self._pending) >= MOST_PENDING:
                whole = whole.rpartition("/")[0] if path else guest_path
            self._pending[whole] = None
        self._arrived.set()

    async def _tell(self, guest: SharingGuest) -> None:
        try:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(_GATHER_SECONDS)
                batch = [*self._pending][:_BATCH]
                for path in batch:
                    del self._pending[path]
                if not self._pending:
                    self._arrived.clear()
                began = time.monotonic()
                await guest.touch(batch)
                took = time.monotonic() - began
                if self._pending:
                    continue
                self._forget_later()
                await asyncio.sleep(min(max(_REST * took, _SHORTEST_REST_SECONDS), _LONGEST_REST_SECONDS))
        except StreamLost:
            pass  # the guest has ended, or was suspended
        except SandboxError as error:
            self._warn(f"--watch: changes are not passed on any more: {error.summary}")
        except Exception:
            logger.exception("changes are not passed on any more")
            raise

    def _forget_later(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        if self._watcher is not None:
            call_later = asyncio.get_running_loop().call_later
            self._forgetting = call_later(_ECHO_SECONDS, self._watcher.forget, time.monotonic())

    def _warn(self, message: str) -> None:
        self._warnings.add(message)
        self._status.warn(message)
        self._status.write()

    def _withdraw(self, warnings: set[str]) -> None:
        if warnings:
            self._warnings -= warnings
            self._status.withdraw(warnings)
            self._status.write()


class Watcher:
    """The thread that watches; what goes wrong in it is told, and ends nothing else."""

    def __init__(self, *, on_changes: OnChanges, on_trouble: OnTrouble) -> None:
        self._on_changes = on_changes
        self._on_trouble = on_trouble
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._shares: Mapping[str, Path] = {}
        self._watches: dict[str, TreeWatch] = {}
        self._told: dict[tuple[str, str], tuple[Signature, float]] = {}
        self.watched = threading.Event()
        """Set when the shares are watched that were named last, or can't be."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def watch(self, shares: Mapping[str, Path]) -> None:
        """Watch these directories and files by their paths in the guest, and no others."""
        self._shares, self.watched = shares, threading.Event()
        self._order(functools.partial(self._update, shares, self.watched))

    def forget(self, before: float) -> None:
        """Forget which state of files the guest was told of before a moment."""

        def drop() -> None:
            self._told = {path: told for path, told in self._told.items() if told[1] > before}

        self._order(drop)

    def close(self) -> None:
        """End the thread, and wait for that."""
        self._order(None)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():  # as on a network file system that does not answer; it ends with this process
            logger.warning("the watch does not end")
            return
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _order(self, order: Callable[[], None] | None) -> None:
        self._orders.put(order)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_read, selectors.EVENT_READ)
                self._selector = selector
                self._serve_all(selector)
        except Exception as error:
            logger.exception("the watch has ended")
            self._on_trouble(f"--watch: changes are not seen any more, by an internal error: {error}")
        finally:
            self.watched.set()
            for watch in self._watches.values():
                watch.close()

    def _serve_all(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in selector.select():
                if not self._serve(key.fd):
                    return

    def _serve(self, fd: int) -> bool:
        """Obey orders, or look at a watch; tell whether to go on."""
        if fd != self._wake_read:
            found = [(guest_path, watch) for guest_path, watch in self._watches.items() if watch.fileno() == fd]
            for guest_path, watch in found:  # none where an order has just ended it
                self._look(guest_path, watch)
            return True
        os.read(self._wake_read, 4096)
        while not self._orders.empty():
            if (order := self._orders.get()) is None:
                return False
            order()
        return True

    def _update(self, shares: Mapping[str, Path], watched: threading.Event) -> None:
        for guest_path in [path for path in self._watches if path not in shares]:
            self._end(guest_path)
        for guest_path, host_path in shares.items():
            if guest_path not in self._watches:
                self._begin(guest_path, host_path)
        watched.set()

    def _begin(self, guest_path: str, host_path: Path) -> None:
        from kata_dind.host.tree_watch import Full, TreeWatch  # a sandbox that watches nothing need not load

        began = time.monotonic()
        try:
            watch = self._watches[guest_path] = TreeWatch(host_path)
            watch.fill()
        except Full as error:
            self._on_trouble(f"--watch: changes in '{host_path}' are not seen: {error}")
            return
        except OSError as error:
            self._on_trouble(f"--watch: changes in '{host_path}' are not seen: {error.strerror}")
            return
        self._selector.register(watch.fileno(), selectors.EVENT_READ)
        self._complain(guest_path, watch)
        logger.info("%d directories of %s are watched after %.2f s", len(watch), host_path, time.monotonic() - began)

    def _end(self, guest_path: str) -> None:
        watch = self._watches.pop(guest_path)
        self._selector.unregister(watch.fileno())
        watch.close()
        self._told = {path: told for path, told in self._told.items() if path[0] != guest_path}

    def _look(self, guest_path: str, watch: TreeWatch) -> None:
        was_full = watch.full
        changed = [*self._changed(guest_path, watch)]
        if changed:
            self._on_changes(guest_path, changed)
        if watch.full != was_full:
            self._complain(guest_path, watch)

    def _changed(self, guest_path: str, watch: TreeWatch) -> Iterator[str]:
        for path, is_sure in watch.read():
            signature, place = watch.signature(path), (guest_path, path)
            if not is_sure and self._told.get(place, ("",))[0] == signature:
                continue
            self._told[place] = signature, time.monotonic()
            yield path

    def _complain(self, guest_path: str, watch: TreeWatch) -> None:
        if watch.full:
            host_path = self._shares.get(guest_path, guest_path)
            self._on_trouble(f"--watch: only {len(watch)} directories of '{host_path}' are watched: {watch.full}")


def _read_only(share: Mapping[str, Any]) -> str:
    return (
        f"--watch: containers are not told of changes in '{share['host_path']}', since its share is read-only; share "
        f"it without :ro, and mount it read-only in containers: docker run -v {share['guest_path']}:/PLACE:ro"
    )
