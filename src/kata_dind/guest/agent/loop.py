"""The agent's one loop: watched descriptors, timers, children that end. No threads, no asyncio: both start too slowly
in an emulated guest.
"""

from __future__ import annotations

import os
import selectors
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Loop:
    """Calls back when a descriptor is ready, a time has come or a child process has ended."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._children: dict[int, Callable[[int], None]] = {}
        self._early_exits: dict[int, int] = {}
        self._stopped = False
        self.before_waiting: Callable[[], None] = _nothing
        """Called before each wait: the place to flush what callbacks have queued."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self._wake_read, READ, self._reap)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back with the ready events of a descriptor, replacing an earlier watch; 0 events end it."""
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; call this before closing it."""
        self.watch(fd, 0, _ignore)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, so many seconds from now."""
        self._timers.append((time.monotonic() + seconds, callback))
        self._timers.sort(key=_due)

    def when_child_ends(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call back with the exit code of a child: 128 + N when signal N ended it."""
        if pid in self._early_exits:
            callback(self._early_exits.pop(pid))
        else:
            self._children[pid] = callback

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            self.before_waiting()
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for key, events in self._selector.select(timeout):
                key.data(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._timers.pop(0)[1]()

    def stop(self) -> None:
        """Leave `run` after the current callback."""
        self._stopped = True

    def _reap(self, _events: int) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            callback = self._children.pop(pid, None)
            if callback:
                callback(code)
            else:
                self._early_exits[pid] = (
                    code  # an orphan that process 1 has inherited, or a child without a callback yet
                )
                if len(self._early_exits) > 64:
                    del self._early_exits[next(iter(self._early_exits))]


def _due(timer: tuple[float, Callable[[], None]]) -> float:
    return timer[0]


def _nothing() -> None:
    pass


def _ignore(_events: int) -> None:
    pass
