"""What is known of a document after it was examined: its pods, what is wrong with them, and its repaired text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kata_dind.pod.model import Detection, Finding, Operation, Place, Repair, Severity


@dataclass(frozen=True, slots=True)
class PodReport:
    """A pod that was examined."""

    place: Place
    detection: Detection
    repair: Repair
    findings: tuple[Finding, ...]
    """All that is to be said of the pod: by detection, repair and guards, and of what this document can't hold."""
    patch: tuple[Operation, ...] = ()
    """The repair in the document's own pointers; empty if there is none, or the document can't hold it."""
    lines: tuple[int, ...] = ()
    """For each finding, the line that it is about; empty for an object of a cluster."""

    @property
    def located(self) -> list[tuple[Finding, int]]:
        """Each finding with the line that it is about; 0 without a file."""
        return list(zip(self.findings, self.lines or [0] * len(self.findings), strict=True))

    def said_of(self, finding: Finding) -> str:
        """Return a finding for those who don't see the pod beside it: its title, what is wrong, the next step."""
        return " ".join(filter(None, (f"{self.title}: {finding.message}", finding.hint)))

    @property
    def is_worth_a_word(self) -> bool:
        """Whether anything in the pod concerns us."""
        return bool(self.detection.engines or self.findings or self.repair.patch)

    @property
    def needs_repair(self) -> bool:
        """Whether somebody has to change the pod; one whose annotation refuses the repair is as it is meant to be."""
        refused = any(
            finding.severity is Severity.ERROR and finding.id.startswith("guard.") for finding in self.findings
        )
        return bool(refused or self.repair.patch or self.repair.unrepaired)

    @property
    def title(self) -> str:
        """The pod's name for people, as in `Deployment ci/runner`."""
        kind = self.place.kind or "values"
        name = "/".join(filter(None, (self.place.namespace, self.place.name)))
        return f"{kind} {name}" if name else kind


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """A document that was examined."""

    source: str
    """The file's name as given, `-` for standard input; empty for an object of a cluster."""
    index: int
    """Which of the file's documents it is, from 0."""
    line: int
    """The line in the file at which it begins, from 1; 0 without a file."""
    text: str
    mended: Callable[[], str]
    """Returns the text with the repairs in it; only some formats need it, and it is what takes long."""
    pods: tuple[PodReport, ...] = ()

    @property
    def patch(self) -> tuple[Operation, ...]:
        """The repairs of all pods, in the document's own pointers."""
        return tuple(operation for pod in self.pods for operation in pod.patch)


@dataclass(slots=True)
class Totals:
    """What was seen in all."""

    documents: int = 0
    pods: int = 0
    with_engines: int = 0
    """Pods in which a program with a data root runs."""
    repaired: int = 0
    """Pods with a repair that their document can hold."""
    unrepaired: int = 0
    """Pods that need a repair which is not made."""
    errors: int = 0
    """Files that could not be read."""
    changed_files: list[str] = field(default_factory=list)

    @property
    def need_repair(self) -> int:
        """The pods that are not right as they are written."""
        return self.repaired + self.unrepaired

    def count(self, report: DocumentReport) -> None:
        """Add a document."""
        self.documents += 1
        for pod in report.pods:
            self.pods += 1
            self.with_engines += bool(pod.detection.engines)
            self.repaired += bool(pod.patch)
            self.unrepaired += pod.needs_repair and (not pod.patch or pod.repair.unrepaired)

    def add(self, other: Totals) -> None:
        """Add what was seen in a file."""
        for name in ("documents", "pods", "with_engines", "repaired", "unrepaired", "errors"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.changed_files += other.changed_files
