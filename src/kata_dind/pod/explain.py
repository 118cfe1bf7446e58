"""What was found in a pod, told as a colleague would: what runs here, where its data lands, what follows, what changes.

Paragraphs of plain text, each one line without a line break; whoever prints them wraps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kata_dind.pod.model import (
    Backing,
    Detection,
    Engine,
    Finding,
    Outcome,
    Program,
    Repair,
    Root,
    Severity,
    version_text,
)
from kata_dind.pod.sentences import lowered, sentence

_PROGRAMS = {
    Program.DOCKERD: "a Docker daemon (dockerd{})",
    Program.BUILDKITD: "a BuildKit daemon (buildkitd{})",
    Program.CONTAINERD: "a containerd{} of its own",
    Program.DAGGER: "a Dagger engine{}",
    Program.EARTHLY: "Earthly's BuildKit daemon{}",
}

_KINDS = {
    "block-plain": "block-plain: a plain emptyDir, of which Kata makes a disk: nothing else is needed",
    "memory": "memory: the fastest there is, and gone with the pod; it counts as the container's memory",
    "loop": "loop: a file with an ext4 in it, which the guest mounts, since overlay works on ext4 and not on the share "
    "that the file lies on",
    "block": "block: a block device of its own, with a file system that the guest makes and mounts itself",
    "virtiofs": "virtiofs: the share itself, which works only where virtiofsd passes on what overlay needs",
}


def explain(
    detection: Detection,
    repair: Repair,
    *,
    findings: Sequence[Finding] = (),
    can_be_written: bool = True,
    class_elsewhere: bool = False,
) -> list[str]:
    """Return paragraphs about a pod; an empty list if there is nothing to tell.

    `findings` are all that there are, `can_be_written` tells whether the document has a place for the repair, and
    `class_elsewhere` that it has none for the RuntimeClass.
    """
    if not detection.engines and not findings:
        return []
    paragraphs = [_about(engine, detection, class_elsewhere=class_elsewhere) for engine in detection.engines]
    if detection.is_kata:
        paragraphs += [_about_root(root) for engine in detection.engines for root in engine.roots]
    reasons = [root.backing_because.rstrip(".") for engine in detection.engines for root in engine.roots]
    reasons += [reason.rstrip(".") for reason in repair.reasons]
    paragraphs += [_about_finding(each) for each in findings if not any(why and why in each.message for why in reasons)]
    paragraphs += _about_repair(detection, repair, can_be_written=can_be_written)
    return paragraphs


def _about(engine: Engine, detection: Detection, *, class_elsewhere: bool) -> str:
    version = f" {version_text(engine.program, engine.version)}" if engine.version else ""
    where = f"The container `{engine.container}`" if engine.container else "A container without a name"
    kind = {"initContainers": " (an init container)", "ephemeralContainers": " (an ephemeral container)"}
    parts = [f"{where}{kind.get(engine.list, '')} runs {_PROGRAMS[engine.program].format(version)}"]
    if engine.rootless:
        parts[0] += ", without root"
    said = sentence(f"{parts[0]}: {_and(engine.evidence)}" if engine.evidence else parts[0])
    about_class = "Its RuntimeClass is named elsewhere." if class_elsewhere else _about_class(detection)
    return f"{said} {about_class}"


def _about_class(detection: Detection) -> str:
    if detection.is_kata:
        return f"The RuntimeClass `{detection.runtime_class}` is Kata's, so it runs in a virtual machine."
    if detection.runtime_class:
        return f"The RuntimeClass `{detection.runtime_class}` is not Kata's, so the pod is left alone."
    return "The pod names no RuntimeClass, so it shares the node's kernel and is left alone."


def _about_root(root: Root) -> str:
    whose = "The containerd beside it keeps its data" if root.is_standalone_containerds else "Its data lands"
    said = f" ({root.said_by})" if root.said_by else ""
    volume = f", on the volume `{root.mount.volume}`" if root.mount else ""
    return " ".join(
        filter(
            None,
            (
                f"{whose} in {root.path}{said}{volume}.",
                sentence(root.backing_because),
                sentence(root.outcome_because),
            ),
        )
    )


def _about_finding(finding: Finding) -> str:
    begins = {Severity.ERROR: "Wrong: ", Severity.WARNING: "Mind: ", Severity.NOTE: "Note: "}[finding.severity]
    name = finding.container
    where = f"in the container `{name}`, " if name and f"`{name}`" not in finding.message else ""
    message = lowered(finding.message) if where else finding.message
    return " ".join(filter(None, (f"{begins}{where}{message}", finding.hint)))


def _about_repair(detection: Detection, repair: Repair, *, can_be_written: bool) -> Iterator[str]:
    if not repair.patch:
        if repair.unrepaired:
            yield "kata-dind can't mend this: what is said above has to be changed by hand."
        elif detection.engines and all(map(_is_good, _roots(detection.engines))):
            yield "Nothing needs to be changed."
        return
    if not can_be_written:
        yield "The repair, which this document can't hold:"
    elif repair.kind:
        kinds = "; and ".join(_KINDS.get(kind, kind) for kind in repair.kind.split(", "))
        yield sentence(f"The repair makes its data root of the kind {kinds}")
    else:
        yield "What the repair changes:"
    for reason in repair.reasons:
        yield f"- {sentence(reason)}"
    if repair.unrepaired:
        yield "Not all is mended by that: what is said above of the rest has to be changed by hand."


def _roots(engines: Iterable[Engine]) -> Iterator[Root]:
    return (root for engine in engines for root in engine.roots)


def _is_good(root: Root) -> bool:
    return root.outcome is Outcome.WORKS or root.backing is Backing.UNKNOWN


def _and(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, and {phrases[-1]}"
