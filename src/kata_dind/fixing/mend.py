"""Documents in, reports out: each pod of a document is examined, and its repair brought into the document's terms."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from kata_dind.fixing.around import Around
from kata_dind.fixing.inputs import STDIN
from kata_dind.fixing.reports import DocumentReport, PodReport
from kata_dind.fixing.told import Images, Told
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.manifest import Document, edited, line_of, read_documents
from kata_dind.pod.detect import detect
from kata_dind.pod.guard import guard
from kata_dind.pod.handlers import example_class
from kata_dind.pod.model import ConfigMaps, Detection, Finding, Operation, Place, PodDict, Repair, Severity
from kata_dind.pod.places import find_pods, in_document, translate
from kata_dind.pod.policy import Answer, Policy
from kata_dind.pod.repair import repair
from kata_dind.pod.sentences import lowered, sentence


@dataclass(frozen=True, slots=True)
class Mender:
    """What is the same for all documents of a run."""

    policy: Policy
    improve: bool = False
    """Whether a data root that works is replaced by one that works better."""
    images: Images | None = None
    """Looks up what images run; None if their registries aren't asked."""

    def documents(self, text: TextIO, *, source: str, around: Around) -> Iterator[DocumentReport]:
        """Examine the documents of a file. Raises SpecError with the line for what is not YAML, JSON or TOML."""
        for document in read_documents(text, "stdin" if source == STDIN else source):
            pods = self.pods(document.data, around=around)
            located = tuple(_located(pod, document) for pod in pods)
            patch = [operation for pod in located for operation in pod.patch]
            yield DocumentReport(
                source=source,
                index=document.index,
                line=document.line,
                text=document.source,
                mended=functools.partial(_mended, document, patch),
                pods=located,
            )

    def pods(self, data: Any, *, around: Around) -> tuple[PodReport, ...]:
        """Examine the pods in an object; `around` is what else lies in its file or cluster."""
        if not isinstance(data, Mapping | list):
            return ()
        return tuple(self._examine(around.completed(place), around) for place in find_pods(data))

    def _examine(self, place: Place, around: Around) -> PodReport:
        policy = around.policy or self.policy
        config_maps = around.config_maps_of(place.namespace)
        claims = (*place.claim_templates, *around.claims_of(place.namespace))
        told = self._told_by_registries(place, policy, around)
        found = detect(place.pod, policy, config_maps=config_maps, claim_templates=claims, images=told.configs)
        mended = repair(
            place.pod,
            policy,
            script=entrypoint_for_pods,
            config_maps=config_maps,
            claim_templates=claims,
            detection=found,
            improve=self.improve,
        )
        own, elsewhere = translate(place, mended.patch)
        # The annotation only tells what was done: a document without a place for it may hold the repair all the same.
        missing = [operation for operation in elsewhere if not operation["path"].startswith("/metadata")]
        findings = _distinct(
            found.findings, mended.findings, map(_guarded, guard(place.pod, policy, found)), told.findings
        )
        assumed = _under_kata(place, found, policy, config_maps, claims, told) if place.class_elsewhere else None
        if assumed is not None:
            return PodReport(place, found, assumed, _distinct(findings, assumed.findings))
        if mended.patch and all(finding.severity is Severity.NOTE for finding in findings):
            findings = (*findings, _improvable(mended))
        if missing:
            findings = (*findings, _made_elsewhere(place))
        elif place.incomplete and (found.engines or found.is_kata):
            findings = (*findings, _incomplete(place, is_open=bool(found.engines) and not mended.patch))
        return PodReport(place, found, mended, findings, patch=() if missing else tuple(own))

    def _told_by_registries(self, place: Place, policy: Policy, around: Around) -> Told:
        if self.images is None:
            return Told()
        pod = _with_class(place, example_class(policy)) if place.class_elsewhere else place.pod
        return self.images.told(pod, policy, around.pull_secrets_of(pod, place.namespace))


def _mended(document: Document, patch: Sequence[Operation]) -> str:
    return edited(document, patch) if patch else document.source


def _made_elsewhere(place: Place) -> Finding:
    maker = place.made_by or "Another object makes the pod"
    message = place.incomplete or sentence(f"{maker}, and this document has no place for the repair")
    return Finding("pod.made-elsewhere", Severity.ERROR, message, hint=_by_webhook(message))


def _incomplete(place: Place, *, is_open: bool) -> Finding:
    if place.class_elsewhere:  # and nothing is to be repaired, whatever the class
        return Finding("pod.incomplete", Severity.NOTE, place.incomplete)
    severity = Severity.WARNING if is_open else Severity.NOTE
    return Finding("pod.incomplete", severity, place.incomplete, hint=_by_webhook(place.incomplete))


def _under_kata(
    place: Place,
    found: Detection,
    policy: Policy,
    config_maps: ConfigMaps,
    claims: Sequence[Mapping[str, Any]],
    told: Told,
) -> Repair | None:
    """Return the repair that a pod needs if the class that others give it is Kata's; None if it needs none then."""
    name = example_class(policy) if found.engines else ""
    if not name:
        return None
    needed = repair(
        _with_class(place, name),
        policy,
        script=entrypoint_for_pods,
        config_maps=config_maps,
        claim_templates=claims,
        images=told.configs,
    )
    if not (needed.patch or needed.unrepaired):
        return None
    wrong = [
        replace(finding, message=f"Under a RuntimeClass of Kata's, such as `{name}`, {lowered(finding.message)}")
        for finding in needed.findings
        if finding.severity is not Severity.NOTE and finding not in found.findings
    ]
    hint = _by_webhook(place.incomplete) if needed.patch else ""
    whose = Finding("pod.incomplete", Severity.ERROR, place.incomplete, hint=hint)
    return replace(needed, findings=(*wrong, whose))


def _with_class(place: Place, name: str) -> PodDict:
    return {**place.pod, "spec": {**place.pod["spec"], "runtimeClassName": name}}


def _improvable(mended: Repair) -> Finding:
    reason = mended.reasons[0] if mended.reasons else ""
    return Finding("pod.improvable", Severity.WARNING, f"It works, and can be made better: {reason}")


def _by_webhook(message: str) -> str:
    return "" if "webhook" in message else "The webhook of kata-dind repairs such a pod when it is created."


def _guarded(found: tuple[Answer, Finding]) -> Finding:
    answer, finding = found
    return replace(finding, severity=Severity.ERROR if answer is Answer.DENY else Severity.WARNING)


def _distinct(*groups: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(finding for group in groups for finding in group))


def _located(pod: PodReport, document: Document) -> PodReport:
    lines = [line_of(document, in_document(pod.place, finding.pointer)) for finding in pod.findings]
    return replace(pod, lines=tuple(lines))
