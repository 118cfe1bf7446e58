"""A program that is made to outlive us, in a session of its own.

It is apart from `process`, because the program is started before a command has imported anything: this module costs
1 ms, `subprocess` with its own imports 10 ms.
"""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


_unreaped: set[int] = set()
"""The ids of those that this process has not waited for yet."""


class Detached:
    """The program; it reads nothing, and speaks on our standard error until it has a log of its own."""

    def __init__(self, argv: Sequence[str], *, pass_fds: Sequence[int] = ()) -> None:
        """Start `argv`, whose first word is a path; `pass_fds` become inheritable. Raises OSError."""
        _reap()
        for fd in pass_fds:
            os.set_inheritable(fd, True)
        null = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        self.pid = os.posix_spawn(argv[0], [*argv], os.environ, file_actions=null, setsid=True)  # noqa: TID251 - see above
        _unreaped.add(self.pid)

    def end(self, *, rung_seconds: float) -> None:
        """End it, with TERM, then with KILL; harmless when it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:  # another part of this process has reaped it
            return
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        for rung in (signal.SIGTERM, signal.SIGKILL):
            os.kill(self.pid, rung)  # a process that has ended keeps its number until it is waited for
            if ended.poll(rung_seconds * 1000):
                break
        os.close(pidfd)
        _reap()


def _reap() -> None:
    for pid in list(_unreaped):
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # a process that ignores SIGCHLD has nothing to wait for
            done = pid
        if done:
            _unreaped.discard(pid)
