"""A unified diff, as `git apply` and `patch -p1` read it. Only the lines around a change are kept in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from kata_dind.fixing.reports import DocumentReport, Totals

_CONTEXT = 3


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the hunks of a file, after its two names."""
    hunks = _Hunks()
    named = False
    for report in reports:
        if not named and report.patch:
            name = _name(report.source)
            yield f"--- a/{name}\n+++ b/{name}\n"
            named = True
        for old, new in _pieces(report):
            yield from hunks.add(old, new)
    yield from hunks.end()


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def _name(source: str) -> str:
    """Return a file's name as patch and git take it: relative, and with a tab behind it if it has spaces."""
    if source == "-":
        return "stdin"
    absolute = Path(os.path.abspath(source))  # noqa: PTH100 - resolve() would follow symbolic links
    here = Path.cwd()
    name = str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).lstrip("/")
    if not name.isprintable() or '"' in name or "\\" in name:
        return name.encode("unicode_escape").decode()
    return f"{name}\t" if " " in name else name


def _pieces(report: DocumentReport) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the document in pieces: old and new lines, which are the same list where nothing changes."""
    old = _lines(report.text)
    if not report.patch:
        yield old, old
        return
    new = _lines(report.mended())
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            same = old[i1:i2]
            yield same, same
        else:
            yield old[i1:i2], new[j1:j2]


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    whole = [f"{line}\n" for line in lines[:-1]]
    return [*whole, lines[-1]] if lines[-1] else whole


class _Hunks:
    """Collects changes that lie close together."""

    def __init__(self) -> None:
        self._old_line = self._new_line = 1
        self._before: list[str] = []
        self._hunk: list[str] = []
        self._counts = [0, 0]
        self._start = (0, 0)
        self._pending: list[str] = []
        """Unchanged lines behind the last change; they belong to the hunk if another change follows soon."""

    def add(self, old: list[str], new: list[str]) -> Iterator[str]:
        if old is new:
            yield from self._add_same(old)
        elif old or new:
            self._add_change(old, new)

    def end(self) -> Iterator[str]:
        if self._hunk:
            yield self._close()

    def _add_same(self, lines: list[str]) -> Iterator[str]:
        if self._hunk:
            self._pending += lines
            if len(self._pending) > 2 * _CONTEXT:
                yield self._close()
        else:
            self._before = [*self._before, *lines[-_CONTEXT:]][-_CONTEXT:]
        self._old_line += len(lines)
        self._new_line += len(lines)

    def _add_change(self, old: list[str], new: list[str]) -> None:
        if not self._hunk:
            self._start = (self._old_line - len(self._before), self._new_line - len(self._before))
            self._add_to_hunk(" ", self._before)
        self._add_to_hunk(" ", self._pending)
        self._before, self._pending = [], []
        self._add_to_hunk("-", old)
        self._add_to_hunk("+", new)
        self._old_line += len(old)
        self._new_line += len(new)

    def _add_to_hunk(self, sign: str, lines: list[str]) -> None:
        for line in lines:
            self._hunk.append(sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n")
        self._counts[0] += len(lines) if sign != "+" else 0
        self._counts[1] += len(lines) if sign != "-" else 0

    def _close(self) -> str:
        self._add_to_hunk(" ", self._pending[:_CONTEXT])
        old, new = (_range(start, count) for start, count in zip(self._start, self._counts, strict=True))
        text = "".join([f"@@ -{old} +{new} @@\n", *self._hunk])
        self._before = self._pending[_CONTEXT:][-_CONTEXT:]
        self._hunk, self._pending, self._counts = [], [], [0, 0]
        return text


def _range(start: int, count: int) -> str:
    # An empty range is named by the line before it. Source: POSIX diff, "Diff Unified Output Format".
    return f"{start if count else start - 1},{count}"
