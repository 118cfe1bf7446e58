"""A supervisor on standby: it is started before the command line is parsed, and is ready when the plan is.

Both take Python a quarter of a second, on a processor each. `kata_dind.life.early` has what the supervisor does
meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys

from kata_dind.host.detached import Detached

TYPE_CHECKING = False
if TYPE_CHECKING:  # this module imports only what it needs before the command line is parsed
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

_END_SECONDS = 5.0


class Standby:
    """A supervisor without a sandbox, at the other end of a socket."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -P: `-m` would look for modules in the user's directory first.
            argv = [sys.executable, "-P", "-m", "kata_dind.life.supervisor", str(theirs.fileno())]
            self._process = Detached(argv, pass_fds=[theirs.fileno()])
        # Not as arguments, which every user of this host could read for as long as the sandbox runs.
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `hand_over` reports
            self._socket.sendall(json.dumps({"words": list(words)}).encode() + b"\n")

    def hand_over(self, directory: Path, locks: Sequence[int], *, verbose: bool) -> IO[bytes]:
        """Give it a sandbox's directory and locks; return the file from which its reports are read, line by line.

        With `verbose` it also reports what it logs. Raises SandboxError when it has ended already.
        """
        message = {"directory": str(directory), "verbose": verbose}
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], list(locks))
        except OSError as error:
            from kata_dind.errors import SandboxError

            raise SandboxError(
                f"the supervisor ended before it had a sandbox: {error}", id="sandbox.supervisor-ended"
            ) from error
        return self._socket.makefile("rb")

    def close(self) -> None:
        """Hang up: it runs on with its sandbox, and ends where it has none."""
        self._socket.close()

    def end(self, *, rung_seconds: float) -> None:
        """End it and its sandbox in order; harmless when it has ended."""
        self._socket.close()
        self._process.end(rung_seconds=rung_seconds)


_waiting: list[Standby] = []


@contextlib.contextmanager
def standby_for(words: Sequence[str]) -> Iterator[None]:
    """Have a supervisor on standby during a command with these words; unless taken, it ends with the block."""
    _waiting.append(Standby(words))
    try:
        yield
    finally:
        while _waiting:
            _waiting.pop().end(rung_seconds=_END_SECONDS)


def take_standby() -> Standby:
    """Return the supervisor on standby, or a new one."""
    return _waiting.pop() if _waiting else Standby()
