"""Annotations of GitHub Actions, as workflow commands.

Source: "Workflow commands for GitHub Actions" of GitHub's documentation, and toolkit's packages/core/src/command.ts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.reports import DocumentReport, Totals
from kata_dind.pod.model import Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield a command for each finding."""
    for report in reports:
        for pod in report.pods:
            for finding, line in pod.located:
                properties = {"file": report.source if report.source != "-" else "", "line": line or report.line}
                properties["title"] = f"kata-dind {finding.id}"
                told = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value)
                yield f"::{_COMMANDS[finding.severity]} {told}::{_data(pod.said_of(finding))}\n"


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
