"""An engine in full: where its data lies, what becomes of it there, and which storage driver it is told to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kata_dind.pod.argv import place_of
from kata_dind.pod.cases import Case
from kata_dind.pod.container import Container
from kata_dind.pod.hand_mounts import HandMount, mount_over
from kata_dind.pod.images import NOTHING, Known
from kata_dind.pod.launches import FoundLaunch
from kata_dind.pod.model import (
    Backing,
    Engine,
    Finding,
    Launch,
    Outcome,
    Pointer,
    Program,
    Root,
    Severity,
    StorageSetting,
)
from kata_dind.pod.outcomes import outcome_of, with_layers_on
from kata_dind.pod.reading import items, mapping
from kata_dind.pod.roots import DEFAULT_ROOTS, Driver, NamedRoot, Running, Storage, read_storage
from kata_dind.pod.volumes import backing_at, backing_of, find_mount

_CONTAINERD_STORE_SINCE = 29


@dataclass(slots=True)
class _Described:
    """What an outcome depends on."""

    program: Program
    version: tuple[int, ...]
    rootless: bool
    driver: str
    is_wrapped: bool


def engine_of(container: Container, case: Case, launch: FoundLaunch) -> tuple[Engine, list[Finding]]:
    """Return the engine that a case is for, and what is not known of its data root."""
    known = container.known_of(case.program)
    if case.root:
        known = replace(known, root=case.root, program=case.program)
    user = container.user(known)
    start = case.start
    rootless = bool(user != 0 and (known.rootless or (start is not None and start.rootless)))
    variables = {**container.variables, **(start.variables if start is not None else {})}
    files = start.files if start is not None else {}

    def read_file(path: str) -> str | None:
        if path in files:
            return files[path]
        found = container.files.find(path)
        return found.text if found is not None else None

    start_words = start.words if start is not None else _words_of_image(container, case, known)
    running = Running(case.program, start_words, variables, known, rootless, read_file)
    storage = read_storage(running)
    version = known.version
    driver = storage.drivers[0].name if storage.drivers else ""
    described = _Described(case.program, version, rootless, driver, launch.is_wrapped)
    named = [(storage.root, False), *_containerds_root(case, version, launch)]
    mounts = start.mounts if start is not None else ()
    roots = []
    by_hand = covered = False
    for one, is_containerds in named:
        if one.path:
            mount = _hand_mount(container, one.path, mounts)
            covered = covered or (mount is not None and not mount.is_fit)
            mount = mount if mount is not None and mount.is_fit else None
            by_hand = by_hand or (mount is not None and not is_containerds)
            roots.append(_root(container, one, described, mount, is_containerds=is_containerds))
    evidence = list(case.evidence)
    if by_hand:
        evidence.append(f"its own script mounts a disk or a tmpfs on {storage.root.path} first")
    if launch.is_wrapped:
        evidence.append("the guest entrypoint of kata-dind starts it")
    engine = Engine(
        list=container.list_name,
        index=container.index,
        container=container.name,
        program=case.program,
        version=version,
        launch=case.launch,
        entrypoint=container.entrypoint(known),
        command=tuple(map(str, start_words)),
        roots=tuple(roots),
        evidence=tuple(dict.fromkeys(filter(None, evidence))),
        user=user,
        rootless=rootless,
        privileged=container.is_privileged,
        by_hand=by_hand,
        storage_settings=tuple(_setting(container, driver, written=files) for driver in storage.drivers),
        wrapped=launch.is_wrapped,
        lacks_mkfs=known.lacks_mkfs,
        sudo_user=known.sudo_user if user is None else "",
        covered=covered,
        entrypoint_is_known=known.entrypoint_is_known,
        image_volumes=container.known.volumes,
    )
    return engine, _said_of(container, storage)


def _hand_mount(container: Container, path: str, mounts: Sequence[HandMount]) -> HandMount | None:
    """Return what the container's own script mounts on a data root.

    A script that asks first whether something is mounted there finds the image's VOLUME, or the pod's volume.
    """
    return mount_over(path, [one for one in mounts if not (one.unless_mounted and container.has_mount(one.target))])


def _words_of_image(container: Container, case: Case, known: Known) -> tuple[str, ...]:
    if container.command or case.launch is Launch.VARIABLE:
        return ()
    return (*known.entrypoint, *(container.args or known.cmd))


def _containerds_root(case: Case, version: tuple[int, ...], launch: FoundLaunch) -> Iterator[tuple[NamedRoot, bool]]:
    """Docker from 29 on keeps its images in a containerd that stands beside it, in that one's root."""
    if case.program is not Program.DOCKERD or (version and version[0] < _CONTAINERD_STORE_SINCE):
        return
    beside = next((start for start in launch.starts if start.program is Program.CONTAINERD), None)
    if beside is None and not (case.start is not None and case.start.has_containerd):
        return
    if beside is None:
        yield NamedRoot(DEFAULT_ROOTS[Program.CONTAINERD], "the default of the containerd beside it"), True
        return
    running = Running(Program.CONTAINERD, beside.words, beside.variables, NOTHING, beside.rootless, lambda path: None)
    yield read_storage(running).root, True


def _root(
    container: Container, named: NamedRoot, described: _Described, by_hand: HandMount | None, *, is_containerds: bool
) -> Root:
    scene = container.scene
    mount = find_mount(scene.spec, container.fields, named.path, scene.claim_templates)
    if mount is not None:
        backing, because = backing_of(scene.spec, mount, scene.runtime, scene.claim_templates)
    else:
        backing, because = backing_at(
            scene.spec,
            container.fields,
            named.path,
            scene.runtime,
            scene.claim_templates,
            image_volumes=container.image_volumes,
        )
    if by_hand is not None:
        backing = Backing.MEMORY if by_hand.is_memory else Backing.DISK
        what = "a tmpfs" if by_hand.is_memory else "a disk"
        because = f"its own script mounts {what} on {by_hand.target} before it starts {described.program}"
    program = Program.CONTAINERD if is_containerds else described.program
    outcome, outcome_because = outcome_of(
        program,
        described.version,
        backing,
        scene.runtime,
        rootless=described.rootless,
        driver=described.driver,
    )
    if outcome in (Outcome.SLOW, Outcome.FAILS) and program is Program.DOCKERD and not described.rootless:
        answer = _with_layers_elsewhere(container, named.path, described)
        outcome, outcome_because = answer or (outcome, outcome_because)
    if described.is_wrapped:
        outcome = Outcome.WORKS
        outcome_because = "the guest entrypoint of kata-dind prepares and proves the data root first"
    return Root(named.path, named.said_by, mount, backing, because, outcome, outcome_because, is_containerds)


def _with_layers_elsewhere(container: Container, root: str, described: _Described) -> tuple[Outcome, str] | None:
    """Return what becomes of dockerd if the directory of overlay2 in its data root is a good volume."""
    mounts = items(container.fields.get("volumeMounts"))
    if not any("overlay2" in str(mapping(mount).get("mountPath")) for mount in mounts):
        return None
    scene = container.scene
    below = find_mount(scene.spec, container.fields, f"{root}/overlay2", scene.claim_templates)
    if below is None:
        return None
    layers = backing_of(scene.spec, below, scene.runtime, scene.claim_templates)[0]
    return with_layers_on(layers, described.version, described.driver)


def _setting(container: Container, driver: Driver, *, written: Mapping[str, str]) -> StorageSetting:
    if driver.variable:
        pointers = _variable_pointers(container, driver.variable)
        return StorageSetting(driver.name, pointers, True, in_script=not pointers)
    places = [place_of(word) for word in driver.words]
    if places and all(place >= 0 for place in places):
        return StorageSetting(driver.name, tuple(_word_pointer(container, place) for place in places), False)
    # A file that the script writes is written after the guest entrypoint has read it.
    in_file = "" if driver.in_file in written else driver.in_file
    return StorageSetting(driver.name, (), False, in_script=True, in_file=in_file)


def _word_pointer(container: Container, place: int) -> Pointer:
    count = len(container.command)
    return (*container.pointer, "command", place) if place < count else (*container.pointer, "args", place - count)


def _variable_pointers(container: Container, name: str) -> tuple[Pointer, ...]:
    """Return all entries of a variable: without the last one, which counts, the one before it would."""
    entries = [
        (index, mapping(entry))
        for index, entry in enumerate(items(container.fields.get("env")))
        if mapping(entry).get("name") == name
    ]
    if not entries or not isinstance(entries[-1][1].get("value"), str):
        return ()
    return tuple((*container.pointer, "env", index) for index, _ in entries)


def _said_of(container: Container, storage: Storage) -> list[Finding]:
    findings = []
    if storage.root.one_word:
        findings.append(_one_word(container, storage.root.one_word))
    if not storage.root.path:
        findings.append(
            Finding(
                "root.unknown",
                Severity.WARNING,
                f"The data root of the container {container.named} is named by {storage.root.said_by} "
                "with a value that is not known here.",
                container=container.name,
                pointer=container.pointer,
            )
        )
    unread = container.files.unread(storage.config_file) if storage.config_file and not storage.root.by_flag else ""
    if unread:
        findings.append(
            Finding(
                "root.config-unread",
                Severity.NOTE,
                f"The file {storage.config_file} comes from the ConfigMap {unread}, which is not at hand: "
                "it may name another data root or storage driver.",
                container=container.name,
                pointer=container.pointer,
            )
        )
    return findings


def _one_word(container: Container, word: str) -> Finding:
    """Return the finding about a flag with its value in one word, as pflag reads it: `-g /x`, `--data-root /x`."""
    flag, _, value = word.partition(" ")
    takes = f"for `{flag}` with the value `{word[2:]}`, whose space is a part of the path"
    if flag.startswith("--"):
        takes = "for a flag of that whole name, which it does not have, and exits"
    return Finding(
        "root.one-word",
        Severity.WARNING,
        f"The program in {container.named} takes the word `{word}` {takes}.",
        container=container.name,
        pointer=container.pointer,
        hint=f"Write two words, `{flag}` and `{value.strip()}`.",
    )
