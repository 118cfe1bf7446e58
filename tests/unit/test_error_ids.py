"""The ids of errors are public: programs and the documentation know them, so that a new or lost one must be seen."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import kata_dind
from kata_dind import errors
from kata_dind.errors import KataDindError

SUBJECTS = frozenset(
    (
        "spec",
        "host",
        "kvm",
        "vm",
        "guest",
        "dockerd",
        "dataroot",
        "proof",
        "sandbox",
        "volume",
        "seed",
        "image",
        "kernel",
        "network",
        "share",
        "port",
        "process",
        "config",
        "setup",
        "plan",
        "backend",
        "containerd",
        "manifest",
        "kubernetes",
        "cluster",
        "webhook",
        "review",
    )
)
"""What an error is about, in the user's world."""

FINDINGS = frozenset(("pod", "root", "class", "annotation", "guard"))
"""What a finding about a pod is about; a finding is no error, and tests/unit/cli/test_pages.py knows their ids."""

IDS = [
    "backend.no-seeds",
    "backend.not-installed",
    "cluster.files-not-written",
    "config.no-file",
    "config.not-toml",
    "config.unknown-key",
    "config.unreadable",
    "config.wrong-type",
    "containerd.agent-silent",
    "containerd.annotation-refused",
    "containerd.cut-off",
    "containerd.data-root-unfit",
    "containerd.device-refused",
    "containerd.failed",
    "containerd.handler-unfit",
    "containerd.hung-up",
    "containerd.image-not-seen",
    "containerd.image-without-shell",
    "containerd.kernel-unfit",
    "containerd.known-hole",
    "containerd.name-reserved",
    "containerd.network-failed",
    "containerd.no-address",
    "containerd.no-cni",
    "containerd.no-cni-plugin",
    "containerd.no-cri",
    "containerd.no-device",
    "containerd.no-host-ports",
    "containerd.no-kata",
    "containerd.no-kvm",
    "containerd.no-loop-device",
    "containerd.no-network",
    "containerd.no-pause-image",
    "containerd.no-runtime-program",
    "containerd.no-shim",
    "containerd.no-socket",
    "containerd.no-space",
    "containerd.no-stream",
    "containerd.no-syslog",
    "containerd.no-vsock",
    "containerd.not-containerd",
    "containerd.not-found",
    "containerd.not-permitted",
    "containerd.not-ready",
    "containerd.pod-does-not-end",
    "containerd.pull-failed",
    "containerd.shared-kernel",
    "containerd.timed-out",
    "containerd.tls-streaming",
    "containerd.unknown-handler",
    "dataroot.bad-input",
    "dataroot.being-checked",
    "dataroot.damaged",
    "dataroot.growth-failed",
    "dataroot.in-use",
    "dataroot.in-use-without-pod",
    "dataroot.not-a-file",
    "dataroot.overlay-refused",
    "dataroot.unusable",
    "dataroot.virtiofs-needs-root",
    "dockerd.answer-unreadable",
    "dockerd.ended",
    "dockerd.ended-early",
    "dockerd.hello-not-loaded",
    "dockerd.images-not-listed",
    "dockerd.load-failed",
    "dockerd.no-answer",
    "dockerd.not-ready",
    "dockerd.pull-failed",
    "dockerd.refused",
    "dockerd.stop-timed-out",
    "guest.command-not-run",
    "guest.command-timed-out",
    "guest.cut-off",
    "guest.flush-failed",
    "guest.flush-timed-out",
    "guest.gone",
    "guest.no-answer",
    "guest.paused",
    "guest.refused",
    "host.directory-not-made",
    "host.directory-not-removed",
    "host.file-system-full",
    "host.file-too-large",
    "host.lock-busy",
    "host.lock-unusable",
    "host.no-space",
    "host.processor-unsupported",
    "host.release-unknown",
    "host.state-path-too-long",
    "host.tool-missing",
    "host.user-namespaces-forbidden",
    "image.command-failed",
    "image.disk-differs",
    "image.docker-missing",
    "image.file-failed",
    "image.file-missing",
    "image.in-use",
    "image.name-taken",
    "image.needed",
    "image.reference-invalid",
    "image.registry-untrusted",
    "image.removed",
    "image.unknown",
    "image.without-dockerd",
    "kernel.not-a-kernel",
    "kernel.package-unexpected",
    "kernel.unreadable",
    "kubernetes.answer-unreadable",
    "kubernetes.conflict",
    "kubernetes.credentials-failed",
    "kubernetes.forbidden",
    "kubernetes.kubeconfig-unreadable",
    "kubernetes.kubeconfig-unusable",
    "kubernetes.no-context",
    "kubernetes.no-kubeconfig",
    "kubernetes.no-namespace",
    "kubernetes.not-found",
    "kubernetes.not-readable",
    "kubernetes.not-trusted",
    "kubernetes.refused",
    "kubernetes.unauthorized",
    "kubernetes.unreachable",
    "kvm.absent",
    "kvm.no-guest-boots",
    "kvm.not-permitted",
    "manifest.not-editable",
    "manifest.read-only",
    "manifest.template",
    "manifest.unreadable",
    "network.namespace-failed",
    "network.namespaces-forbidden",
    "network.no-tun-device",
    "network.no-way-out",
    "plan.missing",
    "plan.other-version",
    "port.not-published",
    "process.bug",
    "process.command-too-long",
    "process.exited",
    "process.failed",
    "process.timed-out",
    "proof.capabilities-differ",
    "proof.docker-failed",
    "proof.files-differ",
    "proof.unfit-driver",
    "review.no-object",
    "review.no-request",
    "review.not-a-review",
    "review.not-json",
    "review.wrong-field",
    "review.wrong-version",
    "sandbox.already-running",
    "sandbox.answer-late",
    "sandbox.busy",
    "sandbox.connection-broken",
    "sandbox.ended",
    "sandbox.in-use",
    "sandbox.name-taken",
    "sandbox.never-started",
    "sandbox.no-answer",
    "sandbox.not-running",
    "sandbox.not-running-to-save",
    "sandbox.not-served",
    "sandbox.not-suspendable",
    "sandbox.snapshot-timed-out",
    "sandbox.state-not-kept",
    "sandbox.state-used",
    "sandbox.still-running",
    "sandbox.stop-timed-out",
    "sandbox.supervisor-ended",
    "sandbox.unknown",
    "sandbox.unknown-log",
    "seed.damaged",
    "seed.damaged-in-use",
    "seed.data-root-unfit",
    "seed.foreign-file",
    "seed.in-use",
    "seed.name-taken",
    "seed.other-host",
    "seed.other-version",
    "seed.removed",
    "seed.source-unfit",
    "seed.unknown",
    "seed.used-by-start",
    "setup.command-failed",
    "setup.incomplete",
    "setup.sudo-missing",
    "share.guest-refused",
    "share.missing",
    "share.needs-resume",
    "share.needs-start",
    "share.not-bound",
    "share.not-plugged",
    "share.not-supported",
    "share.not-touched",
    "share.not-unplugged",
    "share.socket-failed",
    "share.unknown",
    "share.unreadable",
    "spec.cpus-not-on-seed",
    "spec.differs",
    "spec.file-changed",
    "spec.host-port-without-network",
    "spec.memory-beyond-host",
    "spec.memory-not-on-seed",
    "spec.no-manifests",
    "spec.no-volumes",
    "spec.not-text",
    "spec.option-of-another-backend",
    "spec.seed-with-cold",
    "spec.seed-with-volume",
    "spec.size-beyond-memory",
    "spec.size-not-on-seed",
    "spec.size-too-small-for-xfs",
    "spec.unknown-field",
    "spec.unreadable-file",
    "spec.unwritable-file",
    "spec.url-not-read",
    "spec.volume-in-memory",
    "spec.wrong-usage",
    "spec.wrong-value",
    "spec.xfs-on-other-kind",
    "vm.boot-failed",
    "vm.boot-timed-out",
    "vm.cannot-run-on",
    "vm.command-refused",
    "vm.control-failed",
    "vm.control-timed-out",
    "vm.cpu-not-plugged",
    "vm.ended-by-itself",
    "vm.ended-while-suspending",
    "vm.host-port-not-opened",
    "vm.memory-not-plugged",
    "vm.no-answer",
    "vm.port-not-forwarded",
    "vm.restore-refused",
    "vm.state-not-written",
    "vm.state-read-timed-out",
    "vm.state-unreadable",
    "vm.state-write-timed-out",
    "volume.disk-gone",
    "volume.docker-incompatible",
    "volume.in-use",
    "volume.kind-unknown",
    "volume.name-taken",
    "volume.not-unmounted",
    "volume.other-kind",
    "volume.shrinking",
    "volume.unknown",
    "volume.used-by-command",
    "volume.used-by-running-sandbox",
    "volume.without-disk",
    "webhook.certificate-unfit",
    "webhook.configuration-of-cert-manager",
    "webhook.contended",
    "webhook.does-not-repair",
    "webhook.files-not-written",
    "webhook.no-answer",
    "webhook.no-configuration",
    "webhook.no-webhook-of-ours",
    "webhook.not-ready",
    "webhook.not-trusted",
    "webhook.port-unusable",
    "webhook.secret-foreign",
    "webhook.secret-immutable",
    "webhook.secret-of-cert-manager",
    "webhook.secret-of-wrong-type",
    "webhook.wrong-answer",
]

SOURCE = Path(kata_dind.__file__).parent


@dataclass(frozen=True)
class Use:
    """One place in the source that gives an error its id."""

    id: str
    callee: str
    """The class that is constructed, or the function that gets the id; empty for a variable."""
    place: str


def uses_in(text: str, *, file: str) -> Iterator[Use]:
    """Find the ids that stand as literals: `id="…"` in a call, those of an `ErrorIds`, and `error_id = "…"`."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=func, keywords=keywords):
                callee = ast.unparse(func).rpartition(".")[2]
                values = [word.value for word in keywords if word.arg == "id" or callee == "ErrorIds"]
            case ast.Assign(targets=[ast.Name(id="id" | "error_id")], value=value):
                callee, values = "", [value]
            case _:
                continue
        for id in itertools.chain.from_iterable(map(_literals, values)):
            if id.partition(".")[0] in FINDINGS:
                continue
            yield Use(id, callee, f"{file}:{node.lineno}")


def _literals(value: ast.expr) -> list[str]:
    match value:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_literals(body), *_literals(orelse)]
        case _:
            return []


def all_uses() -> list[Use]:
    files = sorted(SOURCE.rglob("*.py"))
    return [use for file in files for use in uses_in(file.read_text(), file=str(file.relative_to(SOURCE)))]


def exit_code(use: Use) -> int | None:
    found = getattr(errors, use.callee, None)
    return found.exit_code if isinstance(found, type) and issubclass(found, KataDindError) else None


def test_every_id_is_listed() -> None:
    found, listed = {use.id for use in all_uses()}, set(IDS)
    missing, too_much = sorted(found - listed), sorted(listed - found)
    assert (missing, too_much) == ([], []), (
        f"missing in the list: {' '.join(missing) or 'none'}; too much in the list: {' '.join(too_much) or 'none'}"
    )
    assert sorted(listed) == IDS, "the list is sorted, and names each id once"


def test_every_id_names_a_subject_and_what_happened_to_it() -> None:
    wrong = [f"{use.place}: {use.id}" for use in all_uses() if not is_well_formed(use.id)]
    assert wrong == []


def is_well_formed(id: str) -> bool:
    subject, _, what = id.partition(".")
    return subject in SUBJECTS and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", what) is not None


@pytest.mark.parametrize(
    "id", ["boot-failed", "vm", "vm.", "vm.Boot", "vm.boot_failed", "vm.boot.failed", "seeds.gone"]
)
def test_another_form_or_subject_is_refused(id: str) -> None:
    assert not is_well_formed(id)


def test_one_id_has_one_exit_code() -> None:
    codes: dict[str, dict[int, list[str]]] = {}
    for use in all_uses():
        if (code := exit_code(use)) is not None:
            codes.setdefault(use.id, {}).setdefault(code, []).append(f"{use.callee} in {use.place}")
    assert {id: places for id, places in codes.items() if len(places) > 1} == {}


def test_ids_are_found_where_they_stand() -> None:
    text = 'SpecError("no", id="spec.one")\nerrors.HostError(\n  "no", id="host.two" if x else "host.three")\nf(id=x)\n'
    text += 'ErrorIds(one="seed.one", two="seed.two")\nerror_id = "vm.one"\nname = "vm.two"'
    uses = sorted(uses_in(text, file="a.py"), key=lambda use: use.place)
    assert [(use.id, use.callee, use.place) for use in uses] == [
        ("spec.one", "SpecError", "a.py:1"),
        ("host.two", "HostError", "a.py:2"),
        ("host.three", "HostError", "a.py:2"),
        ("seed.one", "ErrorIds", "a.py:5"),
        ("seed.two", "ErrorIds", "a.py:5"),
        ("vm.one", "", "a.py:6"),
    ]
    assert [exit_code(use) for use in uses] == [2, 3, 3, None, None, None]
