"""What was found, for programs. The fields are public; one is only ever added."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

from kata_dind.fixing.reports import DocumentReport, PodReport, Totals
from kata_dind.manifest.patch import join_pointer
from kata_dind.pod.model import Engine, Finding, Root, version_text
from kata_dind.pod.places import in_document

FORMAT = 1
"""Grows when a field goes or changes its meaning."""


def head() -> str:
    """Open the object and its list of pods."""
    return f'{{"format": {FORMAT}, "pods": ['


def of_file(reports: Iterable[DocumentReport], *, first: bool) -> Iterator[str]:
    """Yield the pods of a file, a line each."""
    for report in reports:
        for pod in report.pods:
            yield ("\n" if first else ",\n") + json.dumps(pod_as_fields(report, pod), ensure_ascii=False)
            first = False


def tail(totals: Totals) -> str:
    """Close the list, add the summary."""
    summary = {
        "documents": totals.documents,
        "pods": totals.pods,
        "with_engines": totals.with_engines,
        "need_repair": totals.need_repair,
        "repaired": totals.repaired,
        "unrepaired": totals.unrepaired,
        "unreadable_files": totals.errors,
        "changed_files": totals.changed_files,
    }
    return f'\n], "summary": {json.dumps(summary, ensure_ascii=False)}}}\n'


def pod_as_fields(report: DocumentReport, pod: PodReport) -> dict[str, Any]:
    """Return a pod with all that was found."""
    return {
        "file": report.source,
        "document": report.index,
        "line": report.line,
        "kind": pod.place.kind,
        "namespace": pod.place.namespace,
        "name": pod.place.name,
        "runtime_class": pod.detection.runtime_class,
        "is_kata": pod.detection.is_kata,
        "needs_repair": pod.needs_repair,
        "engines": [_engine(engine) for engine in pod.detection.engines],
        "findings": [_finding(pod, finding, line) for finding, line in pod.located],
        "repair": {
            "kind": pod.repair.kind,
            "reasons": list(pod.repair.reasons),
            "patch": list(pod.patch),
            "is_whole": bool(pod.patch) and not pod.repair.unrepaired,
        },
    }


def _engine(engine: Engine) -> dict[str, Any]:
    return {
        "container": engine.container,
        "list": engine.list,
        "program": engine.program.value,
        "version": version_text(engine.program, engine.version),
        "started_by": engine.launch.value,
        "rootless": engine.rootless,
        "privileged": engine.privileged,
        "by_hand": engine.by_hand,
        "evidence": list(engine.evidence),
        "data_roots": [_root(root) for root in engine.roots],
    }


def _root(root: Root) -> dict[str, Any]:
    return {
        "path": root.path,
        "said_by": root.said_by,
        "volume": root.mount.volume if root.mount else "",
        "backing": root.backing.value,
        "backing_because": root.backing_because,
        "outcome": root.outcome.value,
        "outcome_because": root.outcome_because,
    }


def _finding(pod: PodReport, finding: Finding, line: int) -> dict[str, Any]:
    fields = dataclasses.asdict(finding)
    return {
        **{name: fields[name] for name in ("id", "severity", "message", "container", "hint")},
        "pointer": join_pointer(in_document(pod.place, finding.pointer)),
        "line": line,
    }
