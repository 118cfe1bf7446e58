"""SARIF 2.1.0, the format of code scanning: the results first, one by one, then the tool."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kata_dind.fixing.reports import DocumentReport, PodReport, Totals
from kata_dind.pod.model import Finding, Severity
from kata_dind.version import __version__

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def head() -> str:
    """Open the log and its one run."""
    return f'{{"$schema": "{_SCHEMA}", "version": "2.1.0", "runs": [{{"results": ['


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the findings of a file."""
    for report in reports:
        for pod in report.pods:
            for finding, line in pod.located:
                result = _result(report, pod, finding, line or report.line)
                yield ("\n" if first else ",\n") + json.dumps(result, ensure_ascii=False)
                first = False


def tail(totals: Totals) -> str:
    """Close the results, name the tool."""
    driver = {
        "name": "kata-dind",
        "version": __version__,
        "informationUri": "https://kata-dind.io/docs/pods",
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints"}
    return f"\n], {json.dumps(run)[1:-1]}}}]}}\n"


def _result(report: DocumentReport, pod: PodReport, finding: Finding, line: int) -> dict[str, Any]:
    logical = [{"name": pod.place.name, "fullyQualifiedName": pod.title, "kind": "object"}]
    location: dict[str, Any] = {"logicalLocations": logical}
    if report.source and report.source != "-":
        location["physicalLocation"] = {"artifactLocation": {"uri": _uri(report.source)}}
        if line:
            location["physicalLocation"]["region"] = {"startLine": line}
    return {
        "ruleId": finding.id,
        "level": _LEVELS[finding.severity],
        "message": {"text": pod.said_of(finding)},
        "locations": [location],
    }


def _uri(source: str) -> str:
    path = Path(source)
    here = Path.cwd()
    if path.is_absolute():
        return quote(str(path.relative_to(here))) if path.is_relative_to(here) else path.as_uri()
    return quote(source.removeprefix("./"))
