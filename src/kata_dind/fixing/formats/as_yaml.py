"""The whole input with the repairs in it, for `kubectl apply -f -`; what is not changed is printed as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.reports import DocumentReport, Totals


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the documents; files are joined as the documents of one stream."""
    last = ""
    for report in reports:
        text = report.mended()
        if not last and not first and text and not text.startswith("---"):
            yield "---\n"
        if text:
            yield text
            last = text
    if last and not last.endswith("\n"):
        yield "\n"


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""
