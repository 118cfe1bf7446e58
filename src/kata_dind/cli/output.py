"""How answers and progress look: JSON, tables and trees on stdout; progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from rich.status import Status

    from kata_dind.progress import Event


def print_json(value: Any) -> None:
    """Print a value as JSON; paths and the like as text."""
    print(json.dumps(value, indent=2, default=str))


def printable(text: str) -> str:
    """Return text without characters that would move a terminal's cursor: some of it may come from a guest."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, two spaces apart. No library: `ls` has 0.3 s, and rich takes half of that to import."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_tree(value: Mapping[str, Any], *, indent: str = "") -> None:
    """Print nested mappings as indented lines; lists of mappings become one line each."""
    width = max((len(str(key)) for key in value), default=0) + 1
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            print(f"{indent}{key}:")
            print_tree(entry, indent=indent + "  ")
        elif isinstance(entry, list) and entry and all(isinstance(item, Mapping) for item in entry):
            print(f"{indent}{key}:")
            for item in entry:
                print(f"{indent}  {', '.join(f'{name} {_plain(part)}' for name, part in item.items())}")
        else:
            print(f"{indent}{(str(key) + ':').ljust(width)} {_plain(entry)}".rstrip())


def _plain(value: Any) -> str:
    match value:
        case None | [] | {} | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case list() | tuple():
            return ", ".join(_plain(item) for item in value)
        case _:
            return printable(str(value))


def human_size(size_bytes: float | None) -> str:
    """Say bytes in the units that `--size` takes: `312M`."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "K", "M", "G"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f}{unit}" if unit == "B" or size_bytes >= 10 else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}T"


def human_duration(duration_seconds: float | None) -> str:
    """Say a duration in its largest unit: `42s`, `7m`, `3h`, `2d`."""
    if duration_seconds is None:
        return "-"
    for unit, length_seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if duration_seconds >= length_seconds:
            return f"{duration_seconds / length_seconds:.0f}{unit}"
    return f"{duration_seconds:.0f}s"


_LASTING = frozenset(("warning", "notice", "accelerator"))
"""Events that stay visible on a terminal; the others are replaced by the next."""


class Progress:
    """Shows events on stderr: one changing line on a terminal, plain lines elsewhere. `report` is a `Report`."""

    def __init__(self, session: Session, *, stream: TextIO) -> None:
        self._silent = (session.quiet or session.json) and not session.verbose
        self._json = session.json
        self._verbose = session.verbose
        self._stream = stream
        self._status: Status | None = None

    def report(self, event: Event) -> None:
        """Show one event."""
        if self._silent and (event.name != "warning" or self._json):
            return
        if self._stream.isatty() and not self._verbose:
            self._show(event)
        else:
            print(f"kata-dind: {_sentence(event)}", file=self._stream, flush=True)

    def pause(self) -> None:
        """Give the terminal back, until the next event."""
        if self._status:
            self._status.stop()
            self._status = None

    def _show(self, event: Event) -> None:
        if event.name in _LASTING:
            self.pause()
            print(f"kata-dind: {_sentence(event)}", file=self._stream, flush=True)
            return
        if self._status is None:
            self._status = _start_status(self._stream)
        self._status.update(_escaped(_sentence(event)))


@contextmanager
def progress(session: Session) -> Iterator[Progress]:
    """Report progress for the length of the block; the terminal is tidy afterwards."""
    shown = Progress(session, stream=sys.stderr)
    try:
        yield shown
    finally:
        shown.pause()


def _sentence(event: Event) -> str:
    if event.seconds is None or (duration := f"{event.seconds:.1f} s") in event.message:
        return event.message
    return f"{event.message} ({duration})"


def _start_status(stream: TextIO) -> Status:
    from rich.console import Console

    status = Console(file=stream).status("")
    status.start()
    return status


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
