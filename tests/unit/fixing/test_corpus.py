"""The corpus through what `fix` does: what `--check` fails for, and that a file which it has mended stays as it is."""

from __future__ import annotations

import io
import re

import pytest

from kata_dind.fixing.around import look_around
from kata_dind.fixing.mend import Mender
from kata_dind.fixing.reports import DocumentReport
from kata_dind.pod.model import Severity
from tests.unit.pod.cases import Case, read_corpus
from tests.unit.pod.test_corpus import policy_of

_CASES = read_corpus()
_WRONG = frozenset({"loop", "memory", "block", "emptydir", "tidy", "cannot"})


def _reports(case: Case, text: str) -> list[DocumentReport]:
    policy = policy_of(case.policy)
    around = look_around(io.StringIO(text), source=case.file, policy=policy)
    return list(Mender(policy).documents(io.StringIO(text), source=case.file, around=around))


def _needs_repair(reports: list[DocumentReport]) -> bool:
    return any(pod.needs_repair for report in reports for pod in report.pods)


@pytest.mark.parametrize("file", sorted({case.file for case in _CASES}))
def test_check_fails_where_something_is_wrong_and_nowhere_else(file: str) -> None:
    wrong = []
    for case in _CASES:
        if case.file == file and (case.repairs <= _WRONG or case.repairs == {"none"}):
            needs = _needs_repair(_reports(case, case.text))
            if needs != (case.repairs <= _WRONG):
                wrong.append(f"{case.name}: {needs}")
    assert not wrong


def test_it_says_who_makes_a_pod_that_the_document_can_not_hold() -> None:
    for case in _CASES:
        if case.repairs == {"not-here"}:
            findings = [
                finding for report in _reports(case, case.text) for pod in report.pods for finding in pod.findings
            ]
            said = [finding for finding in findings if finding.id in {"pod.incomplete", "pod.made-elsewhere"}]
            assert said, case.name
            if any(pod.detection.engines for report in _reports(case, case.text) for pod in report.pods):
                assert all(finding.severity is not Severity.NOTE for finding in said), case.name
            assert any("webhook" in finding.message + finding.hint for finding in said), case.name


@pytest.mark.parametrize("file", sorted({case.file for case in _CASES}))
def test_a_mended_file_is_mended_once(file: str) -> None:
    wrong = []
    for case in _CASES:
        if case.file == file:
            first = "".join(report.mended() for report in _reports(case, case.text))
            again = _reports(case, first)
            if "".join(report.mended() for report in again) != first or any(report.patch for report in again):
                wrong.append(case.name)
    assert not wrong


@pytest.mark.parametrize("file", sorted({case.file for case in _CASES}))
def test_all_that_is_said_is_a_sentence(file: str) -> None:
    """Formats put findings, hints and reasons one behind the other, and what lies under a root into sentences."""
    cases = [case for case in _CASES if case.file == file]
    pods = [pod for case in cases for report in _reports(case, case.text) for pod in report.pods]
    findings = [finding for pod in pods for finding in pod.findings]
    hints = [finding.hint for finding in findings if finding.hint]
    reasons = [reason for pod in pods for reason in pod.repair.reasons]
    said = [*(finding.message for finding in findings), *hints, *reasons]
    assert [text for text in said if not re.fullmatch(r"[A-Z`](?:.|\n)*[^.]\.", text)] == []
    roots = [root for pod in pods for engine in pod.detection.engines for root in engine.roots]
    clauses = [text for root in roots for text in (root.backing_because, root.outcome_because)]
    assert [text for text in clauses if text.endswith(".")] == []
