"""Prose for people: each pod that concerns us, under a title."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

from kata_dind.fixing.formats.as_findings import place
from kata_dind.fixing.reports import DocumentReport, PodReport, Totals
from kata_dind.pod.explain import explain

_LEAST_WIDTH, _MOST_WIDTH = 40, 100


def head() -> str:
    """Return nothing."""
    return ""


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the pods of a file, with a blank line between two."""
    for report in reports:
        for pod in report.pods:
            if pod.is_worth_a_word:
                yield ("" if first else "\n") + _about(report, pod)
                first = False


def tail(totals: Totals) -> str:
    """Say how many pods there are of which there was nothing to say."""
    if not totals.with_engines:
        return f"No Docker is in {_pods(totals.pods)}.\n"
    return f"\n{_pods(totals.pods)} in all; {totals.with_engines} with Docker, {totals.need_repair} to be repaired.\n"


def _about(report: DocumentReport, pod: PodReport) -> str:
    paragraphs = explain(
        pod.detection,
        pod.repair,
        findings=pod.findings,
        can_be_written=bool(pod.patch) or not pod.repair.patch,
        class_elsewhere=pod.place.class_elsewhere,
    )
    return "".join([f"{place(report, report.line)}{pod.title}\n", *map(_wrapped, paragraphs)])


def _wrapped(paragraph: str) -> str:
    columns = min(_MOST_WIDTH, max(_LEAST_WIDTH, shutil.get_terminal_size().columns))
    return (
        textwrap.fill(
            paragraph,
            width=columns,
            initial_indent="  ",
            subsequent_indent="    " if paragraph.startswith("- ") else "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"
