"""How reports are printed: each format turns the documents of a file into text, one document at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from kata_dind.fixing.reports import DocumentReport, Totals


class Format(Protocol):
    """A module of this package."""

    def head(self) -> str:
        """Return what stands before everything."""

    def of_file(self, reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
        """Yield what is to be printed of a file; `first` tells that nothing was printed before, but for the head."""

    def tail(self, totals: Totals) -> str:
        """Return what stands behind everything."""


def format_of(output: str) -> Format:
    """Return the format of a name: a word of FixOutput, or `changes`."""
    module: Format = importlib.import_module(f"{__name__}.as_{output}")
    return module
