"""`kata-dind logs`: the logs of dockerd, of the guest and of the machine."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from kata_dind.cli import completion
from kata_dind.cli.options import DEFAULT_NAME, NameOrDefault, flag, option, takes_session, whole_number
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

# inotify is not in the standard library; four looks a second at a file's size cost next to nothing, and only with -f.
_POLL_SECONDS = 0.25

# Escape sequences from a guest must not reach the user's terminal; tabs and line ends may stay.
_PRINTABLE = bytes(byte if byte in b"\t\n" or (byte >= 32 and byte != 127) else ord("?") for byte in range(256))


DEFAULT_SOURCE = "dockerd"

Follow = Annotated[
    bool,
    flag("--follow", "-f", variable="LOGS_FOLLOW", help_text="Show new lines as they come, until the sandbox ends."),
]
Source = Annotated[
    str,
    option(
        "--source",
        variable="LOGS_SOURCE",
        metavar="SOURCE",
        autocompletion=completion.log_sources,
        help_text="The log to show: dockerd, or another log that the sandbox's backend writes, such as guest or vmm.",
    ),
]
Lines = Annotated[
    int | None,
    option(
        "--lines",
        "-n",
        variable="LOGS_LINES",
        metavar="N",
        parser=whole_number,
        show_default="all",
        help_text="Show only the last N lines.",
    ),
]


@takes_session
def logs(
    session: Session,
    name: NameOrDefault = DEFAULT_NAME,
    *,
    follow: Follow = False,
    source: Source = DEFAULT_SOURCE,
    lines: Lines = None,
) -> None:
    """Show the log of dockerd, of the guest or of its machine."""
    sandbox = session.sandboxes.require_sandbox(name)
    path = sandbox.log_path(source)
    write = _writer(sys.stdout.buffer, for_terminal=sys.stdout.isatty())
    position = show(path, lines=lines, write=write)
    if follow:
        follow_log(path, position, write=write, lives=lambda: sandbox.state not in {"stopped", "crashed"})


def show(path: Path, *, lines: int | None, write: Callable[[bytes], object]) -> int:
    """Write a log, or its last lines; return the position after what was written. A missing log is an empty one."""
    try:
        with path.open("rb") as log:
            if lines is None:
                for line in log:
                    write(line)
            else:
                write(b"".join(deque(log, maxlen=lines)))
            return log.tell()
    except FileNotFoundError:
        return 0


def follow_log(path: Path, position: int, *, write: Callable[[bytes], object], lives: Callable[[], bool]) -> None:
    """Write what is added to a log until `lives` returns False; begin anew when the log does."""
    alive = True
    while alive:
        alive = lives()  # asked before the last look, so that the last lines of a sandbox are shown
        if path.exists():
            position = _write_new(path, position, write=write)
        if alive:
            time.sleep(_POLL_SECONDS)


def _write_new(path: Path, position: int, *, write: Callable[[bytes], object]) -> int:
    if path.stat().st_size < position:
        position = 0
    with path.open("rb") as log:
        log.seek(position)
        while piece := log.read(65536):
            write(piece)
        return log.tell()


def _writer(sink: BinaryIO, *, for_terminal: bool) -> Callable[[bytes], object]:
    def write(piece: bytes) -> None:
        sink.write(piece.replace(b"\r\n", b"\n").translate(_PRINTABLE) if for_terminal else piece)
        sink.flush()

    return write
