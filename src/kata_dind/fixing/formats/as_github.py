"""Annotations of GitHub Actions, as workflow commands.

Source: "Workflow commands for GitHub Actions" of GitHub's documentation, and toolkit's packages/core/src/command.ts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.fixing.reports import DocumentReport, Totals
from kata_dind.pod.model import Severity
from kata_dind.pod.sentences import sentence

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield a command for each finding."""
    for report in reports:
        for pod in report.pods:
            for index, finding in enumerate(pod.findings):
                line = (pod.lines[index] if pod.lines else 0) or report.line
                properties = {"file": report.source if report.source != "-" else "", "line": line}
                properties["title"] = f"kata-dind {finding.id}"
                told = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value)
                message = " ".join(filter(None, (f"{pod.title}: {sentence(finding.message)}", sentence(finding.hint))))
                yield f"::{_COMMANDS[finding.severity]} {told}::{_data(message)}\n"


def tail(totals: Totals) -> str:
    """Return nothing."""
    return ""


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
