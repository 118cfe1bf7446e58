"""Values that take a while to get: each is got once, however many ask for it, on a thread of its own, and remembered.

A thread of its own, since nothing else ends the wait for a name server, and it must not keep the process alive.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FOREVER = float("inf")
Clock = Callable[[], float]


class Busy(Exception):
    """Nothing more is begun now; its text says why, as a clause."""


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: Future[V]
    ends: float = FOREVER
    """When it no longer holds; one that is under way holds until it is there."""


class Once(Generic[K, V]):
    """Values by their keys. May be used by many threads; what is remembered ends with it."""

    def __init__(self, *, most_at_once: int, most_kept: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._most_kept = most_kept
        self._slots = threading.BoundedSemaphore(most_at_once)

    def find(self, key: K) -> Future[V] | None:
        """Return a value that holds, or what will have it; None if it has to be begun."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._clock() >= entry.ends:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def begin(self, key: K, get: Callable[[], tuple[V, float]]) -> Future[V]:
        """Return what will have a value. `get` returns it with the seconds for which it holds, and raises nothing.

        Raises Busy.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._clock() < entry.ends:  # another thread was faster
                return entry.value
            if not self._slots.acquire(blocking=False):
                raise Busy("too many others are being asked for")
            entry = _Entry(Future())
            self._entries[key] = entry
            self._entries.move_to_end(key)
            self._forget()
        try:
            threading.Thread(target=self._get, args=(entry, get), name="kata-dind-lookup", daemon=True).start()
        except RuntimeError as error:  # the machine has no thread left
            self._slots.release()
            with self._lock:
                self._entries.pop(key, None)
            entry.value.cancel()
            raise Busy(str(error)) from error
        return entry.value

    def _forget(self) -> None:
        if len(self._entries) > self._most_kept:
            # One that is under way has those who wait for it.
            oldest = next((key for key, kept in self._entries.items() if kept.value.done()), None)
            if oldest is not None:
                del self._entries[oldest]

    def _get(self, entry: _Entry[V], get: Callable[[], tuple[V, float]]) -> None:
        value, holds_seconds = get()
        self._slots.release()
        with self._lock:
            entry.ends = self._clock() + holds_seconds
        entry.value.set_result(value)
