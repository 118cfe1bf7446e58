"""The JSON patches (RFC 6902), one entry for each document that is changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kata_dind.fixing.reports import DocumentReport, Totals


def head() -> str:
    """Open the list."""
    return "["


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the entries of a file."""
    for report in reports:
        if report.patch:
            yield ("\n" if first else ",\n") + json.dumps(_entry(report), ensure_ascii=False)
            first = False


def tail(totals: Totals) -> str:
    """Close the list."""
    return "\n]\n"


def _entry(report: DocumentReport) -> dict[str, Any]:
    place = next(pod.place for pod in report.pods if pod.patch)
    return {
        "file": report.source,
        "document": report.index,
        "line": report.line,
        "kind": place.kind,
        "namespace": place.namespace,
        "name": place.name,
        "patch": list(report.patch),
    }
