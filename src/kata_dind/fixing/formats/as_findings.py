"""A line for each finding, as compilers write them, so that editors find the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.reports import DocumentReport, PodReport, Totals
from kata_dind.pod.model import Severity


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield a line for each finding that is more than a note, and for each repair that there is."""
    for report in reports:
        for pod in report.pods:
            yield from lines_of(report, pod)


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def lines_of(report: DocumentReport, pod: PodReport) -> Iterator[str]:
    """Yield the findings of a pod."""
    for finding, line in pod.located:
        if finding.severity is Severity.NOTE:
            continue
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
