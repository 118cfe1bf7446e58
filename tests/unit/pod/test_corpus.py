"""The corpus through find_pods, detect and repair: what is found, what is changed, and what is never touched."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.manifest import Document, edited, parse_yaml, read_documents
from kata_dind.pod.detect import detect
from kata_dind.pod.guard import guard
from kata_dind.pod.model import Copy, Detection, Engine, Operation, Place, Program, Repair, Root, Severity
from kata_dind.pod.places import config_maps_in, find_pods, translate
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.quantity import quantity_bytes
from kata_dind.pod.repair import repair
from kata_dind.vocabulary import DataRootKind, Filesystem
from tests.unit.pod.cases import CORPUS, Case, ExpectedEngine, read_corpus

_CASES = read_corpus()
_CORE_VERSIONS = frozenset({"v1", "apps/v1", "batch/v1"})
_DRIVER_VARIABLES = frozenset({"DOCKER_DRIVER", "PLUGIN_STORAGE_DRIVER"})
_GROWING = frozenset({"failureThreshold", "terminationGracePeriodSeconds", "memory", "ephemeral-storage", "sizeLimit"})
"""What a repair may raise and never lower."""


script = entrypoint_for_pods
"""Gives the guest entrypoint, as `fix` does."""

_COPIES = [
    Copy(kind, program, filesystem, fallback=fallback, containerd=containerd, mounts_below=mounts_below)
    for kind in DataRootKind
    for program in Program
    for filesystem in Filesystem
    for fallback in (False, True)
    for containerd in (False, True)
    for mounts_below in (False, True)
]


@functools.cache
def policy_of(name: str) -> Policy:
    """Return one of the corpus's policies; the default without a name."""
    if not name:
        return Policy()
    (data,) = parse_yaml((CORPUS / "policies" / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse_policy(data)


def without_aliases(value: Any) -> Any:
    """Return a copy in which no object stands in two places, as an API server would get it."""
    if isinstance(value, Mapping):
        return {key: without_aliases(item) for key, item in value.items()}
    return [without_aliases(item) for item in value] if isinstance(value, list) else value


def patched(value: Any, patch: Sequence[Operation]) -> Any:
    """Return what a library makes of a value and a patch."""
    return jsonpatch.apply_patch(without_aliases(value), list(patch), in_place=True)


@dataclass(frozen=True)
class Mended:
    """What came out for one pod."""

    document: Document
    place: Place
    detection: Detection
    result: Repair
    own: Sequence[Operation]
    elsewhere: Sequence[Operation]

    @property
    def said(self) -> str:
        """All that is said about it."""
        findings = [*self.detection.findings, *self.result.findings]
        words = [word for finding in findings for word in (finding.id, finding.message, finding.hint)]
        roots = [word for engine in self.detection.engines for word in _said_of(engine)]
        return "\n".join([*words, *roots, *self.result.reasons, self.place.incomplete, self.place.made_by])

    @property
    def after(self) -> Any:
        """The pod with the patch, as a library applies it."""
        return patched(self.place.pod, self.result.patch)


def _said_of(engine: Engine) -> Iterator[str]:
    for root in engine.roots:
        yield from (root.backing_because, root.outcome_because)


@functools.cache
def mend(case: Case) -> tuple[Mended, ...]:
    """Return what comes out for each pod of a case."""
    documents = list(read_documents(case.text, case.file))
    config_maps = config_maps_in([document.mapping for document in documents])
    policy = policy_of(case.policy)
    return tuple(
        _mended(document, place, policy, config_maps)
        for document in documents
        if isinstance(document.data, Mapping)
        for place in find_pods(document.data)
    )


def _mended(document: Document, place: Place, policy: Policy, config_maps: Any) -> Mended:
    detection = detect(place.pod, policy, config_maps=config_maps, claim_templates=place.claim_templates)
    result = repair(
        place.pod,
        policy,
        script=script,
        config_maps=config_maps,
        claim_templates=place.claim_templates,
        detection=detection,
    )
    own, elsewhere = translate(place, result.patch)
    return Mended(document, place, detection, result, own, elsewhere)


def _again(case: Case, mended: Mended, pod: Any) -> Repair:
    config_maps = config_maps_in([document.mapping for document in read_documents(case.text, case.file)])
    return repair(
        pod,
        policy_of(case.policy),
        script=script,
        config_maps=config_maps,
        claim_templates=mended.place.claim_templates,
    )


def each_file() -> pytest.MarkDecorator:
    """Parametrize over the corpus's files: a test for each case would take minutes, for what is around a test."""
    return pytest.mark.parametrize("file", sorted({case.file for case in _CASES}))


def check_cases(file: str, check: Callable[[Case], None]) -> None:
    """Check all cases of a file, and fail with the names of all that fail."""
    failures = []
    for case in _CASES:
        if case.file == file:
            try:
                check(case)
            except Exception as error:  # noqa: BLE001 whatever it is, the case's name goes with it
                failures.append(f"{case.name}: {type(error).__name__}: {error}")
    assert not failures, "\n\n".join(failures)


def test_the_corpus_is_large_and_a_third_of_it_is_left_alone() -> None:
    assert len(_CASES) >= 150
    assert len({case.name for case in _CASES}) == len(_CASES)
    assert sum(case.is_near_miss for case in _CASES) * 3 >= len(_CASES)
    assert {case.policy for case in _CASES} - {""} == {path.stem for path in (CORPUS / "policies").iterdir()}


@each_file()
def test_what_runs_in_it_is_found(file: str) -> None:
    check_cases(file, _check_what_runs_in_it_is_found)


def _check_what_runs_in_it_is_found(case: Case) -> None:
    mended = mend(case)
    if case.pods != "any":
        assert len(mended) == int(case.pods), [one.place.parts for one in mended]
    if case.engines is None:
        return
    found = [(one.place, engine) for one in mended for engine in one.detection.engines]
    unexplained = [_shown(engine) for place, engine in found if not any(_fits(place, engine, x) for x in case.engines)]
    missing = [x.text for x in case.engines if not any(_fits(place, engine, x) for place, engine in found)]
    if "not-here" in case.repairs and not found:
        return
    wanted = [x for x in case.engines if x.programs != {"any"}]
    if wanted or not case.engines:
        assert (unexplained, missing) == ([], []), [_shown(engine) for _, engine in found]


def _fits(place: Place, engine: Engine, expected: ExpectedEngine) -> bool:
    names = {engine.container, str(engine.index), f"{engine.list}/{engine.container}", f"{engine.list}/{engine.index}"}
    if (expected.pod and expected.pod != place.name) or not names & expected.containers:
        return False
    if expected.programs == {"any"}:
        return True
    version = ".".join(map(str, engine.version))
    return (
        engine.program.value in expected.programs
        and f"{version}.".startswith(f"{expected.version}." if expected.version else "")
        and engine.rootless == expected.rootless
        and engine.by_hand == expected.by_hand
        and len(engine.roots) >= len(expected.roots)
        and all(
            any(
                (not wanted.paths or root.path in wanted.paths)
                and (not wanted.backings or root.backing.value in wanted.backings)
                and (not wanted.outcomes or root.outcome.value in wanted.outcomes)
                for root in engine.roots
            )
            for wanted in expected.roots
        )
    )


def _shown(engine: Engine) -> str:
    roots = " ".join(f"root={root.path} backing={root.backing} outcome={root.outcome}" for root in engine.roots)
    flags = " ".join(word for word in ("rootless", "by_hand") if getattr(engine, word))
    version = ".".join(map(str, engine.version)) or "-"
    return " ".join(f"{engine.list}/{engine.container} {engine.program} {version} {flags} {roots}".split())


@each_file()
def test_what_is_done_about_it(file: str) -> None:
    check_cases(file, _check_what_is_done_about_it)


def _check_what_is_done_about_it(case: Case) -> None:
    mended = mend(case)
    outcomes = {_outcome(one) for one in mended} - {"none"} or {"none"}
    if "any" not in case.repairs:
        for outcome in outcomes:
            assert outcome in case.repairs or ("alone" in case.repairs and outcome in _UNCHANGED), (
                outcomes,
                [(one.result.kind, one.result.reasons, one.said) for one in mended],
            )
    said = "\n".join(one.said for one in mended).lower()
    if case.notes:
        assert any(note.lower() in said for note in case.notes), said
    if "any" not in case.repairs:
        assert any(one.result.unrepaired for one in mended) or not case.unrepaired
    for one in mended:
        if one.result.unrepaired:
            assert any(finding.severity is not Severity.NOTE for finding in one.result.findings), one.said


_UNCHANGED = frozenset({"none", "cannot", "not-here"})


def _outcome(one: Mended) -> str:
    """Return what was done, as the patched pod shows it: a word of `repair:`."""
    if one.result.patch and any(not op["path"].startswith("/metadata") for op in one.elsewhere):
        return "not-here"
    if not one.result.patch:
        if one.place.incomplete and not one.result.unrepaired:
            return "not-here"
        return "cannot" if one.result.unrepaired else "none"
    kinds = {
        _kind(one.after, engine, root)
        for engine in one.detection.engines
        for root in engine.roots
        if root.outcome.value in {"slow", "fails"}
    }
    return "|".join(sorted(kinds - {""})) or "tidy"


def _container(after: Mapping[str, Any], engine: Engine) -> Mapping[str, Any]:
    """Return the container of an engine; an init container may have been put before it."""
    containers: list[dict[str, Any]] = after["spec"][engine.list]
    named = [container for container in containers if container and container.get("name", "") == engine.container]
    return named[0] if len(named) == 1 else containers[engine.index]


def _kind(after: Mapping[str, Any], engine: Engine, root: Root) -> str:
    spec = after["spec"]
    container = _container(after, engine)
    env = {entry["name"]: entry.get("value") for entry in container.get("env") or () if isinstance(entry, dict)}
    wish = env.get("KATA_DIND_DATA_ROOT")
    if wish in {"loop", "block", "memory"}:
        return str(wish)
    names = [
        mount["name"]
        for mount in container.get("volumeMounts") or ()
        if mount["mountPath"].rstrip("/") == root.path.rstrip("/")
    ]
    volumes = [volume for volume in spec.get("volumes") or () if volume["name"] in names and "emptyDir" in volume]
    if not volumes or root.backing.value in {"memory", "disk"}:
        return ""
    return "memory" if (volumes[0]["emptyDir"] or {}).get("medium") == "Memory" else "emptydir"


@each_file()
def test_the_patch_changes_no_more_than_it_says(file: str) -> None:
    check_cases(file, _check_the_patch_changes_no_more_than_it_says)


def _check_the_patch_changes_no_more_than_it_says(case: Case) -> None:
    for one in mend(case):
        _assert_kept(one.place.pod, one.after, ())
        if not one.result.patch:
            assert one.after == one.place.pod
            continue
        assert one.result.reasons and one.result.kind is not None
        for engine in one.detection.engines:
            container = _container(one.after, engine)
            words = [
                *(word for word in (container.get("command") or ())[:2] if isinstance(word, str)),
                *(container.get("args") or ()),
                *(f"{entry['name']} {entry.get('value')}" for entry in container.get("env") or ()),
            ]
            if case.strips:
                assert not any(case.strips in str(word) for word in words), words
            if case.keeps:
                client = [str(entry) for other in one.after["spec"]["containers"] for entry in other.get("env") or ()]
                assert any(case.keeps in entry for entry in client)
            if case.size_below:
                _assert_smaller(container, case.size_below)
            if engine.list == "initContainers" and one.place.pod["spec"][engine.list][engine.index].get(
                "restartPolicy"
            ):
                assert container["restartPolicy"] == "Always"
        for text in _texts([operation.get("value") for operation in one.result.patch]):
            assert not any(word in text for word in _HOSTILE) or _is_the_entrypoint(text), text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


_HOSTILE = ("rm -rf /", "touch /tmp/pwned", "reboot;", "../../etc")


def _is_the_entrypoint(text: str) -> bool:
    return len(text) > 20_000 and "pwned" not in text and "reboot" not in text


def _assert_smaller(container: Mapping[str, Any], limit: str) -> None:
    sizes = [entry["value"] for entry in container["env"] if entry["name"] == "KATA_DIND_SIZE"]
    most = quantity_bytes(limit)
    assert len(sizes) == 1 and most is not None
    size = quantity_bytes(sizes[0] if sizes[0][-1].isdigit() else f"{sizes[0]}i")
    assert size is not None and 0.5 * most <= size < most, (sizes, limit)


def _assert_kept(before: Any, after: Any, path: tuple[str | int, ...]) -> None:
    """Assert that all of `before` is in `after`, in its order, but for what a repair is there to change."""
    if isinstance(before, Mapping):
        assert isinstance(after, Mapping), path
        for key, value in before.items():
            if key not in after:
                assert key in {"command", "args", "env", "subPath", "subPathExpr", "readOnly"} and not _strict(value), (
                    *path,
                    key,
                )
                continue
            _assert_kept(value, after[key], (*path, key))
        kept = [key for key in after if key in before]
        assert kept == [key for key in before if key in after], path
    elif isinstance(before, Sequence) and not isinstance(before, str):
        if path and path[-1] in {"command", "args"}:
            return _assert_words_kept(before, after, path)
        if not before and after is not None:
            return None
        assert isinstance(after, list), path
        marks = [_mark(item) for item in after]
        position = 0
        for item in before:
            mark = _mark(item)
            if mark not in marks[position:] and _may_go(item, path):
                continue
            assert mark in marks[position:], (*path, mark)
            position = marks.index(mark, position)
            _assert_kept(item, after[position], (*path, position))
            position += 1
    elif path and path[-1] == "kata-dind.io/repaired":
        pass  # what an earlier repair said
    elif path and path[-1] == "name" and "volumeMounts" in path and after.startswith("kata-dind"):
        pass  # a volume that others share, or see a part of, gives way to one of the data root's own
    elif path and path[-1] in _GROWING and before != after:
        assert (quantity_bytes(str(after)) or 0) > (quantity_bytes(str(before)) or 0), (path, before, after)
    elif before is not None:
        assert before == after, path
    return None


def _may_go(item: Any, path: tuple[str | int, ...]) -> bool:
    """Tell whether an entry may be taken out: a variable that names a driver, a device that lies on the root itself."""
    if not isinstance(item, Mapping):
        return False
    return (path[-1] == "env" and item.get("name") in _DRIVER_VARIABLES) or item.get("devicePath") == "/var/lib/docker"


def _strict(value: Any) -> bool:
    return isinstance(value, (list, Mapping)) and any(
        not (isinstance(item, Mapping) and item.get("name") in _DRIVER_VARIABLES)
        and not (
            isinstance(item, str)
            and any(word in item for word in ("vfs", "native", "fuse-overlayfs", "-s", "--storage"))
        )
        for item in value
    )


def _assert_words_kept(before: Sequence[Any], after: Any, path: tuple[str | int, ...]) -> None:
    words = [word for word in before if isinstance(word, str)]
    rest: Iterator[Any] = iter(after if isinstance(after, list) else ())
    for word in words:
        if any(name in word for name in ("vfs", "fuse-overlayfs", "native", "--storage-driver")) or word == "-s":
            continue
        assert word in rest, (path, word)  # `in` goes on in the iterator, so order counts


def _mark(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return repr(item)
    return tuple(str(item.get(name)) for name in ("mountPath", "devicePath", "key", "containerPort")) + (
        () if "mountPath" in item else (str(item.get("name")),)
    )


@each_file()
def test_what_is_repaired_works_and_is_still_found(file: str) -> None:
    check_cases(file, _check_what_is_repaired_works_and_is_still_found)


def _check_what_is_repaired_works_and_is_still_found(case: Case) -> None:
    for one in mend(case):
        if not one.result.patch:
            continue
        now = _again_detected(case, one)
        assert {_identity(engine) for engine in now.engines} == {_identity(x) for x in one.detection.engines}
        roots = [(engine.container, root) for engine in now.engines for root in engine.roots]
        if not one.result.unrepaired:
            assert not [root for root in roots if root[1].outcome.value in {"slow", "fails"}]
        _check_the_script_reaches_the_shell(one)


def _again_detected(case: Case, one: Mended) -> Detection:
    config_maps = config_maps_in([document.mapping for document in read_documents(case.text, case.file)])
    policy = policy_of(case.policy)
    return detect(one.after, policy, config_maps=config_maps, claim_templates=one.place.claim_templates)


def _identity(engine: Engine) -> tuple[str, str, str, tuple[int, ...]]:
    return engine.list, engine.container, engine.program.value, engine.version


def _check_the_script_reaches_the_shell(one: Mended) -> None:
    for engine in one.detection.engines:
        container = _container(one.after, engine)
        command = container.get("command") or []
        if command[:2] == ["/bin/sh", "-c"] and len(command[2]) > 10_000:
            entries = [entry for entry in container.get("env") or () if isinstance(entry, Mapping)]
            names = {str(entry.get("name")): str(entry.get("value")) for entry in entries}
            text = _expanded(command[2], names)
            assert text in {script(copy) for copy in _COPIES}, text[:200]


def _expanded(text: str, values: Mapping[str, str]) -> str:
    """Expand a word of a command as kubelet does (third_party/forked/golang/expansion of Kubernetes)."""
    return _REFERENCE.sub(lambda found: "$" if found[1] is None else values.get(found[1], found[0]), text)


_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


@each_file()
def test_the_guards_speak_of_it(file: str) -> None:
    check_cases(file, _check_the_guards_speak_of_it)


def _check_the_guards_speak_of_it(case: Case) -> None:
    policy = policy_of(case.policy)
    said = {finding.id for one in mend(case) for _, finding in guard(one.place.pod, policy, one.detection)}
    if case.guards is not None:
        assert said == {f"guard.{name}" for name in case.guards}
    elif case.policy != "guards":
        assert not said


@each_file()
def test_a_recipe_by_hand_can_be_improved(file: str) -> None:
    check_cases(file, _check_a_recipe_by_hand_can_be_improved)


def _check_a_recipe_by_hand_can_be_improved(case: Case) -> None:
    for one in mend(case):
        if not any(engine.by_hand for engine in one.detection.engines):
            continue
        better = _improved(case, one, one.place.pod)
        said = [finding.message for finding in better.findings]
        assert better.patch or said, case.name
        script_text = json.dumps([one.place.pod, case.text])
        for word in ("/agent", "containerd &"):
            if word in script_text:
                assert word in json.dumps(
                    [_container(patched(one.place.pod, better.patch), x) for x in one.detection.engines]
                )
        after = patched(one.place.pod, better.patch)
        assert_valid(after)
        assert _improved(case, one, after).patch == ()


def _improved(case: Case, one: Mended, pod: Any) -> Repair:
    config_maps = config_maps_in([document.mapping for document in read_documents(case.text, case.file)])
    return repair(
        pod,
        policy_of(case.policy),
        script=script,
        config_maps=config_maps,
        claim_templates=one.place.claim_templates,
        improve=True,
    )


@each_file()
def test_a_second_repair_changes_nothing(file: str) -> None:
    check_cases(file, _check_a_second_repair_changes_nothing)


def _check_a_second_repair_changes_nothing(case: Case) -> None:
    for one in mend(case):
        second = _again(case, one, one.after)
        assert second.patch == (), second.reasons
        if one.result.patch and not case.unrepaired and "any" not in case.repairs:
            assert not second.unrepaired, second.findings


@each_file()
def test_the_document_with_the_patch_is_valid_and_reads_the_same(file: str) -> None:
    check_cases(file, _check_the_document_with_the_patch_is_valid_and_reads_the_same)


def _check_the_document_with_the_patch_is_valid_and_reads_the_same(case: Case) -> None:
    by_document: dict[int, list[Operation]] = {}
    documents = {document.index: document for document in read_documents(case.text, case.file)}
    for one in mend(case):
        if not any(not operation["path"].startswith("/metadata") for operation in one.elsewhere):
            by_document.setdefault(one.document.index, []).extend(one.own)
    for index, document in documents.items():
        patch = by_document.get(index, [])
        after = patched(document.data, patch) if patch else document.data
        if case.valid != "no":
            assert_valid(after)
            if patch:
                assert_valid(document.data)
        text = edited(document, patch) if patch else document.source
        (read,) = list(read_documents(text, case.file)) or [document]
        assert read.data == after
        for line in document.source.splitlines():
            if line.lstrip().startswith("#"):
                assert line in text.splitlines(), line


def assert_valid(data: Any) -> None:
    if not isinstance(data, Mapping) or data.get("apiVersion") not in _CORE_VERSIONS:
        return
    if data.get("kind") == "List":
        for item in data["items"]:
            assert_valid(item)
        return
    with pytest.MonkeyPatch.context() as patch:
        # The library reads two megabytes of schemas for each object, which is a minute for this file.
        patch.setattr(kubernetes_validate.utils, "schema_contents", _schema_contents)
        kubernetes_validate.validate(without_aliases(data), "1.34", strict=True)


_schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
