"""What was changed, for people: a line for each reason, and the findings about what was not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.formats.as_findings import lines_of, place, unanswered_lines
from kata_dind.fixing.reports import DocumentReport, Totals


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the changes of a file."""
    for report in reports:
        yield from changes(report)


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def changes(report: DocumentReport) -> Iterator[str]:
    """Yield the changes of a document."""
    for pod in report.pods:
        if pod.patch:
            yield from (f"{place(report, report.line)}{pod.title}: {reason}\n" for reason in pod.repair.reasons)
        if pod.needs_repair and (not pod.patch or pod.repair.unrepaired):
            yield from lines_of(report, pod)
        else:
            yield from unanswered_lines(report, pod)
