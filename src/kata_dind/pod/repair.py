"""The repair of a pod: an RFC 6902 patch with its reasons, or sentences about what can't be repaired. Pure.

A second repair of what a repair has made is empty. The pod keeps whatever is not named in a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kata_dind.pod.annotations import REPAIRED
from kata_dind.pod.by_hand import can_replace, replacement, root_beside, unclear_script, works_by_hand
from kata_dind.pod.choose import Choice, Site, choose, source_of
from kata_dind.pod.daemon import (
    add_certificates,
    add_mirrors,
    contradicting,
    driver_in_script,
    driver_on_claim,
    give_time,
    strip_drivers,
)
from kata_dind.pod.detect import detect
from kata_dind.pod.handlers import Runtime, runtime_of
from kata_dind.pod.model import (
    NO_CONFIG_MAPS,
    NO_IMAGE_CONFIGS,
    Backing,
    ConfigMaps,
    Copy,
    Detection,
    Engine,
    Finding,
    ImageConfigs,
    Outcome,
    PodDict,
    Pointer,
    Repair,
    Root,
    Severity,
    StorageSetting,
)
from kata_dind.pod.patch import Draft, Malformed, escape_expansion, pointer_text
from kata_dind.pod.policy import Delivery, Policy
from kata_dind.pod.reading import is_mapping, items, mapping
from kata_dind.pod.sentences import sentence
from kata_dind.pod.sockets import share_sockets
from kata_dind.pod.storage import Bench, give_to_user, make_disk_first, prove_only, provide
from kata_dind.pod.volumes import find_mount
from kata_dind.pod.wishes import Wanted, read_environment, read_wanted
from kata_dind.pod.wrapper import (
    DIRECTORY,
    FILE,
    NAME,
    NO_PROGRAM,
    command_of,
    copy_for,
    inline_command,
    is_intact,
    mounted_command,
    wrapped_words,
)
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind

Script = Callable[[Copy], str]
"""Gives a copy of the guest entrypoint; it is asked for the same ones often."""

_LONGEST_NOTE = 250
_KINDS = {kind.value: kind for kind in DataRootKind}
_BROKEN = (Outcome.SLOW, Outcome.FAILS)

_FINDINGS = {
    Backing.VIRTIOFS: "root.on-share",
    Backing.GUEST_ROOT: "root.on-share",
    Backing.HOST: "root.on-host",
    Backing.RAW: "root.raw-device",
    Backing.UNFIT: "root.unfit",
    Backing.DISK: "root.storage-driver",
    Backing.MEMORY: "root.storage-driver",
}


def repair(
    pod: PodDict,
    policy: Policy,
    *,
    script: Script,
    config_maps: ConfigMaps = NO_CONFIG_MAPS,
    claim_templates: Sequence[Mapping[str, Any]] = (),
    images: ImageConfigs = NO_IMAGE_CONFIGS,
    detection: Detection | None = None,
    improve: bool = False,
) -> Repair:
    """Return the patch that gives each Docker of a pod a data root that works, with its reasons.

    With `improve`, a disk that the pod's own script makes is replaced, too. Without a detection, the pod is searched.
    """
    if detection is None:
        detection = detect(pod, policy, config_maps=config_maps, claim_templates=claim_templates, images=images)
    if not detection.engines:
        return Repair(findings=detection.findings)
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    runtime = runtime_of(detection.runtime_class, annotations, policy) if detection.is_kata else None
    if runtime is None:
        return Repair(findings=detection.findings)
    if runtime.left_alone:
        return Repair(findings=_joined(detection.findings, [_left_alone(runtime)]))
    wanted = read_wanted(pod, policy)
    bench = Bench(Draft(pod), claim_templates)
    if not wanted.repair:
        is_broken = any(_broken_roots(bench.spec, engine, claim_templates) for engine in detection.engines)
        found = [*wanted.findings, *(_found(engine, root) for engine, root in _all_broken(detection, bench))]
        unclear = tuple(each for each in wanted.findings if each.id == "annotation.repair") if is_broken else ()
        return Repair(findings=_joined(detection.findings, found), unrepaired=bool(unclear), gave_up=unclear)
    job = _Job(bench, policy, runtime, wanted, script, improve, config_maps)
    try:
        for engine in detection.engines:
            job.mend(engine)
        job.finish()
    except Malformed as error:
        malformed = _malformed(error)
        findings = _joined(detection.findings, [*job.findings, malformed])
        return Repair(findings=findings, unrepaired=True, gave_up=(*job.gave_up, malformed))
    return Repair(
        patch=tuple(bench.draft.operations),
        reasons=tuple(bench.reasons),
        findings=_joined(detection.findings, job.findings),
        kind=job.kind,
        unrepaired=bool(job.gave_up),
        gave_up=tuple(job.gave_up),
    )


def _joined(first: Sequence[Finding], second: Sequence[Finding]) -> tuple[Finding, ...]:
    known = {(finding.id, finding.container) for finding in first}
    return (*first, *(finding for finding in second if (finding.id, finding.container) not in known))


def _malformed(error: Malformed) -> Finding:
    where = pointer_text(error.pointer)
    return Finding(
        "pod.malformed",
        Severity.ERROR,
        f"The value at {where} is of a wrong type, which Kubernetes refuses.",
        pointer=error.pointer,
        hint="Mend it, and the pod can be repaired.",
    )


def _left_alone(runtime: Runtime) -> Finding:
    return Finding("class.left-alone", Severity.NOTE, sentence(runtime.left_alone))


def _broken_roots(spec: Mapping[str, Any], engine: Engine, claim_templates: Sequence[Mapping[str, Any]]) -> list[Root]:
    """Return the roots that need something; of a container with the guest entrypoint, what has lost its volume."""
    containers = items(spec.get(engine.list))
    container = mapping(containers[engine.index]) if engine.index < len(containers) else {}
    if wrapped_words(container.get("command")) is None:
        return [root for root in engine.roots if root.outcome in _BROKEN]
    if not engine.roots or is_intact(spec, container, claim_templates):
        return []
    because = "the guest entrypoint is there, and the volume that it needs is not, so the start is refused"
    return [replace(engine.roots[0], outcome=Outcome.FAILS, outcome_because=because)]


def _all_broken(detection: Detection, bench: Bench) -> list[tuple[Engine, Root]]:
    return [
        (engine, root)
        for engine in detection.engines
        for root in _broken_roots(bench.spec, engine, bench.claim_templates)
    ]


def _found(engine: Engine, root: Root) -> Finding:
    severity = Severity.ERROR if root.outcome is Outcome.FAILS else Severity.WARNING
    message = (
        f"{engine.named} keeps the data of {engine.program.product} in `{root.path}`: "
        f"{root.backing_because}; {root.outcome_because}."
    )
    return Finding(_FINDINGS.get(root.backing, "root.unknown"), severity, message, engine.container, engine.pointer)


@dataclass(slots=True)
class _Job:
    """One repair: what it was told, and what has come of it so far."""

    bench: Bench
    policy: Policy
    runtime: Runtime
    wanted: Wanted
    script: Script
    improve: bool
    config_maps: ConfigMaps
    findings: list[Finding] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    """What is wrong, for the annotation: a phrase each."""
    gave_up: list[Finding] = field(default_factory=list)
    """Those of the findings that tell why something stays broken."""
    script_volume: str = ""
    """The name of the volume that brings the guest entrypoint, once it is there."""
    wrapped: set[Pointer] = field(default_factory=set)
    """The containers that the guest entrypoint serves by now."""

    def mend(self, engine: Engine) -> None:
        """Repair one program, or say why not."""
        container = self.bench.draft.get(engine.pointer)
        if not is_mapping(container):
            return
        broken = _broken_roots(self.bench.spec, engine, self.bench.claim_templates)
        beside = next((root for root in broken if root.is_standalone_containerds), None)
        if engine.by_hand and beside is not None:
            self.findings.append(_found(engine, beside))
            self._give_up(root_beside(engine, beside))
            return
        if engine.by_hand and not self.improve:
            self.findings.append(works_by_hand(engine))
            return
        self.findings += [_found(engine, root) for root in broken]
        if engine.list == "ephemeralContainers":
            if broken:
                self._give_up(_ephemeral(engine))
            return
        only_driver = [root for root in broken if self._is_good(root)]
        on_bad = [root for root in broken if root not in only_driver]
        if engine.by_hand and not on_bad:
            on_bad = list(engine.roots[:1])
        settings = contradicting(engine, is_broken=bool(broken))
        if engine.by_hand:  # its words are replaced
            settings = [setting for setting in settings if setting.is_variable]
        dropped: set[Pointer] = set()
        before = self._changes
        if on_bad and not self._mend_roots(engine, container, on_bad, settings, dropped):
            return
        self._mend_driver(engine, only_driver, settings, dropped, is_on_bad=bool(on_bad))
        sockets, left = share_sockets(self.bench, engine, self.runtime)
        for finding in left:
            self._give_up(finding)
        if sockets:
            self.findings += sockets
            self.mended.append(f"the sockets of {engine.title}")
        if before != self._changes:
            add_mirrors(self.bench, engine, self.policy)
            add_certificates(self.bench, engine, self.policy)

    @property
    def kind(self) -> str:
        """What the repair is, in a word for each way of it; empty if nothing was changed."""
        return ", ".join(dict.fromkeys(self.kinds)) or ("socket" if self.mended else "")

    @property
    def _changes(self) -> tuple[int, int]:
        return len(self.bench.draft.operations), len(self.bench.removals)

    def _is_good(self, root: Root) -> bool:
        """Tell whether overlay works on what is there, so that only the storage driver can be wrong."""
        return root.backing in (Backing.DISK, Backing.MEMORY) or (
            root.backing is Backing.VIRTIOFS and self.runtime.virtiofs_fit
        )

    def _mend_driver(
        self,
        engine: Engine,
        only_driver: Sequence[Root],
        settings: Sequence[StorageSetting],
        dropped: set[Pointer],
        *,
        is_on_bad: bool,
    ) -> None:
        hidden = driver_in_script(engine, settings, is_wrapped=engine.wrapped or engine.pointer in self.wrapped)
        if settings and not is_on_bad and self._holds_old_data(engine):
            self._give_up(driver_on_claim(engine, settings))
            return
        is_stripped = strip_drivers(self.bench, engine, settings, dropped)
        if hidden is not None:
            self._give_up(hidden)
        elif only_driver and not is_stripped:
            self._give_up(_no_way(engine, only_driver[0]))
        if is_stripped and not is_on_bad:
            self.kinds.append("driver")
            self.mended.append(f"the storage driver of {engine.title}")

    def _holds_old_data(self, engine: Engine) -> bool:
        """Tell whether a root lies on a claim as it is, where a driver that was named so far may have images."""
        for root in engine.roots:
            if root.mount is not None and root.backing in (Backing.DISK, Backing.VIRTIOFS):
                kind = source_of(self.bench.spec, root.mount, self.bench.claim_templates)[0]
                if kind not in ("emptyDir", "ephemeral"):
                    return True
        return False

    def _mend_roots(
        self,
        engine: Engine,
        container: Mapping[str, Any],
        broken: Sequence[Root],
        settings: Sequence[StorageSetting],
        dropped: set[Pointer],
    ) -> bool:
        if engine.by_hand and not can_replace(engine, container, self.config_maps):
            self.findings.append(unclear_script(engine))  # it works, though
            return False
        dockerds = next((root for root in broken if not root.is_standalone_containerds), None)
        site = self._site(engine, container, dockerds or broken[0])
        choice = choose(site)
        if not isinstance(choice, Finding) and choice.way.needs_wrapper and self._lacks_mkfs(site):
            choice = _no_mkfs(site)
        if isinstance(choice, Finding):
            self._give_up(choice)
            return False
        if choice.way.needs_wrapper and engine.pointer in self.wrapped:
            self._give_up(_second_program(engine))
            return False
        if not choice.way.needs_wrapper:
            for root in broken:
                refusal = self._without_wrapper(self._site(engine, container, root), choice)
                if refusal is not None:
                    self._give_up(refusal)
                    return False
            if engine.by_hand:
                self._put_command(site, replacement(engine), kind="")
        else:
            if dockerds is None:
                prove_only(self.bench, site)
            else:
                provide(self.bench, site, choice)
            kind = "auto" if dockerds is None else choice.way.value
            self._wrap(site, kind, settings, dropped)
            if engine.lacks_mkfs and not site.is_wrapped:
                make_disk_first(self.bench, site, self.policy.disk_image, self._before(site, kind, NO_PROGRAM))
        self.kinds.append("auto" if dockerds is None and choice.way.needs_wrapper else choice.way.value)
        self.mended.append(f"{broken[0].path} of {engine.title}")
        give_time(self.bench, engine, with_disk=choice.way.needs_wrapper)
        return True

    def _lacks_mkfs(self, site: Site) -> bool:
        """Tell whether there is no image that could make a disk for the program."""
        return site.engine.lacks_mkfs and not site.is_wrapped and not self.policy.disk_image

    def _without_wrapper(self, site: Site, choice: Choice) -> Finding | None:
        is_rootless = site.engine.rootless or (site.engine.user or 0) != 0
        if is_rootless and site.engine.user is None:
            return site.finding(
                "root.rootless",
                f"The container {site.named} does not run as root, and its user is not known, so that no volume can be "
                "given to it.",
                "Set securityContext.runAsUser.",
            )
        refusal = provide(self.bench, site, choice)
        if refusal is None and is_rootless:
            give_to_user(self.bench, site)
        return refusal

    def _site(self, engine: Engine, container: Mapping[str, Any], root: Root) -> Site:
        own = command_of(container)
        is_wrapped = wrapped_words(own) is not None
        return Site(
            spec=self.bench.spec,
            container=container,
            engine=engine,
            root=root,
            runtime=self.runtime,
            wanted=self.wanted,
            environment=read_environment(container),
            claim_templates=self.bench.claim_templates,
            can_wrap=bool(is_wrapped or own or engine.entrypoint_is_known),
            is_wrapped=is_wrapped,
        )

    def _wrap(self, site: Site, kind: str, settings: Sequence[StorageSetting], dropped: set[Pointer]) -> None:
        """Put the guest entrypoint in front of the container's command."""
        engine = site.engine
        self.wrapped.add(engine.pointer)
        if engine.by_hand:
            self._put_command(site, replacement(engine), kind)
            return
        own = command_of(site.container)
        if site.is_wrapped:
            if own[1] != "-c":
                self._mount_entrypoint(site)
            return
        pointer = (*engine.pointer, "command")
        gone = {
            word
            for setting in settings
            if not (setting.in_script or setting.is_variable)
            for word in setting.pointers
            if word[:-1] == pointer
        }
        dropped |= gone
        kept = [word for index, word in enumerate(own) if (*pointer, index) not in gone]
        # Kubernetes expands a command, and not an image's entrypoint.
        self._put_command(site, kept or [escape_expansion(word) for word in engine.entrypoint], kind)

    def _put_command(self, site: Site, command: Sequence[Any], kind: str) -> None:
        """Give the container a command, with the guest entrypoint of a kind in front of it, if one is named."""
        pointer = (*site.engine.pointer, "command")
        if site.engine.by_hand:
            if "args" in site.container:
                self.bench.draft.remove((*site.engine.pointer, "args"))
            self.bench.say(f"The script of {site.named} is replaced by the command that it ends with.")
        if not kind:
            self.bench.draft.put(pointer, list(command))
            return
        self.bench.draft.put(pointer, self._before(site, kind, command))
        if self._delivery is not Delivery.INLINE:
            self._mount_entrypoint(site)
        self.bench.say(
            f"The guest entrypoint runs before the command of {site.named}: it mounts the data root, proves that "
            "overlay works on it, and then runs the command with its own arguments."
        )

    def _before(self, site: Site, kind: str, command: Sequence[Any]) -> list[Any]:
        """Return a command with the guest entrypoint of a kind in front of it."""
        if self._delivery is Delivery.INLINE:
            return inline_command(self.script(self._copy(site, kind)), command)
        return mounted_command(command)

    def _copy(self, site: Site, kind: str) -> Copy:
        container = self.bench.container(site)
        return copy_for(site.engine, _KINDS[kind], container, read_environment(container))

    @property
    def _delivery(self) -> Delivery:
        return self.policy.delivery if self.policy.delivery_image else Delivery.INLINE

    def _mount_entrypoint(self, site: Site) -> None:
        """Mount what brings the guest entrypoint; one volume serves all containers."""
        bench, image = self.bench, self.policy.delivery_image
        mount = find_mount(bench.spec, bench.container(site), DIRECTORY, bench.claim_templates)
        if mount is not None and mount.volume_pointer is not None:
            return
        if not self.script_volume:
            name = mount.volume if mount is not None else bench.fresh_name(f"{NAME}-entrypoint")
            if self._delivery is Delivery.INIT:
                # In memory, since a small limit evicts the pod where Kata makes a disk of each emptyDir.
                bench.add_volume({"emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}, name)
                bench.first_containers.append(
                    {
                        "name": bench.fresh_container_name(f"{NAME}-entrypoint"),
                        "image": image,
                        "command": ["/bin/cp", f"/{FILE}", f"{DIRECTORY}/{FILE}"],
                        "volumeMounts": [{"name": name, "mountPath": DIRECTORY}],
                    }
                )
            else:
                bench.add_volume({"image": {"reference": image, "pullPolicy": "IfNotPresent"}}, name)
            bench.say(f"The volume `{name}` brings the guest entrypoint, from the image {image}.")
            self.script_volume = name
        if mount is None:
            entry = {"name": self.script_volume, "mountPath": DIRECTORY, "readOnly": True}
            bench.draft.append((*site.engine.pointer, "volumeMounts"), entry)

    def _give_up(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.gave_up.append(finding)

    def finish(self) -> None:
        """Do what had to wait: take items out of lists, put containers in front, and note the repair in the pod."""
        bench = self.bench
        if not bench.draft.operations and not bench.removals:
            return
        bench.draft.remove_items(bench.removals)
        for container in reversed(bench.first_containers):
            bench.draft.insert_first(("spec", "initContainers"), container)
        metadata = bench.draft.get(("metadata",))
        annotations = mapping(metadata).get("annotations")
        if all(value is None or is_mapping(value) for value in (metadata, annotations)):
            note = f"{__version__} {self.kind}: {'; '.join(self.mended)}"
            bench.draft.put(("metadata", "annotations", REPAIRED), note[:_LONGEST_NOTE])


def _ephemeral(engine: Engine) -> Finding:
    return Finding(
        "pod.ephemeral-container",
        Severity.WARNING,
        f"{engine.named} is an ephemeral container, which can't get volumes of its own.",
        engine.container,
        engine.pointer,
        "Run the daemon in a container of the pod.",
    )


def _no_mkfs(site: Site) -> Finding:
    return site.finding(
        "pod.no-mkfs",
        f"The image of {site.named} has no mkfs.ext4, and the policy names no image that could make a disk for it.",
        "Set diskImage in the policy to an image with e2fsprogs, such as docker:29-dind.",
    )


def _second_program(engine: Engine) -> Finding:
    return Finding(
        "pod.second-program",
        Severity.WARNING,
        f"{engine.named} runs a second program with a data root, {engine.program.product}, and the guest "
        "entrypoint prepares one.",
        engine.container,
        engine.pointer,
        "Give it a container of its own.",
    )


def _no_way(engine: Engine, root: Root) -> Finding:
    return Finding(
        "root.unrepaired",
        Severity.WARNING,
        f"`{root.path}` of {engine.named} lies on a good file system, and yet: {root.outcome_because}.",
        engine.container,
        engine.pointer,
    )
