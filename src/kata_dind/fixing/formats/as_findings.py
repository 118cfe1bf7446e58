"""A line for each finding, as compilers write them, so that editors find the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.reports import DocumentReport, PodReport, Totals
from kata_dind.pod.model import Finding, Severity

_UNANSWERED = frozenset(("pod.image-unread",))
"""Notes about answers that were asked for and did not come: a pod that looks sound without them may not be."""


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield a line for each finding that is more than a note, or that tells what could not be found out."""
    for report in reports:
        for pod in report.pods:
            yield from lines_of(report, pod)


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def lines_of(report: DocumentReport, pod: PodReport) -> Iterator[str]:
    """Yield the findings of a pod."""
    yield from _lines(report, pod, [each for each in pod.located if each[0].severity is not Severity.NOTE])
    yield from unanswered_lines(report, pod)


def unanswered_lines(report: DocumentReport, pod: PodReport) -> Iterator[str]:
    """Yield what could not be found out about a pod."""
    yield from _lines(report, pod, [each for each in pod.located if each[0].id in _UNANSWERED])


def _lines(report: DocumentReport, pod: PodReport, located: Iterable[tuple[Finding, int]]) -> Iterator[str]:
    for finding, line in located:
        is_named = not finding.container or f"`{finding.container}`" in finding.message
        container = "" if is_named else f", container {finding.container}"
        said = f"{pod.title}{container}: {finding.message.rstrip('.')} [{finding.id}]"
        yield f"{place(report, line or report.line)}{finding.severity}: {said}\n"
        if finding.hint:
            yield f"    {finding.hint}\n"


def place(report: DocumentReport, line: int) -> str:
    """Return the head of a line, `pod.yaml:12: `; empty for an object of a cluster."""
    name = "stdin" if report.source == "-" else report.source
    return f"{name}:{line}: " if name and line else f"{name}: " if name else ""
