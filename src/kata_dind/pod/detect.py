"""Which containers of a pod run a program with a data root, by the signals that image, words and volumes give.

Each signal has a weight (see `images.CERTAIN`). What adds up to a certain one is an engine; what is only likely is a
note, unless an annotation of the pod asks for it. Clients and monitors are none, nor is an image that is told to do
something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kata_dind.pod.annotations import Wishes, read_wishes
from kata_dind.pod.argv import FROM_IMAGE, Word, basename, expand, place_of
from kata_dind.pod.files import Files, environment_of
from kata_dind.pod.flags import flags_weight
from kata_dind.pod.hand_mounts import HandMount, mount_over
from kata_dind.pod.handlers import Runtime, runtime_of
from kata_dind.pod.images import CERTAIN, LIKELY, NOTHING, Known, known_image
from kata_dind.pod.launches import Launch as FoundLaunch
from kata_dind.pod.launches import Start, read_launch
from kata_dind.pod.model import (
    NO_CONFIG_MAPS,
    Backing,
    ConfigMaps,
    ContainerList,
    Detection,
    Engine,
    Finding,
    Launch,
    Outcome,
    PodDict,
    Pointer,
    Program,
    Root,
    Severity,
    StorageSetting,
)
from kata_dind.pod.outcomes import outcome_of
from kata_dind.pod.policy import Policy, matches
from kata_dind.pod.reading import containers_of, items, mapping, number, text, words
from kata_dind.pod.roots import DEFAULT_ROOTS, Driver, NamedRoot, Running, Storage, read_storage
from kata_dind.pod.volumes import IMAGE_VOLUMES, backing_at, backing_of, clean_path, find_mount, find_volume

# A container that has none of these in its image and words runs no Docker, unless variables or volumes say so.
_HINTS = (
    *("docker", "dind", "buildk", "dagger", "earthly", "containerd", "plugins/", "/init", "systemd", "envbox"),
    *("podman", "k3s", "kindest", "k0s", "rke2", "minikube", "codercom", "buildctl", "krte", "kubekins", "buildah"),
)
_ENVIRONMENT_HINTS = ("DOCKER_TLS_CERTDIR", "DOCKER_GROUP_GID", "DOCKER_DRIVER", "DOCKERD_ROOTLESS_")
_CLIENT_ADDRESSES = ("tcp://localhost:237", "tcp://127.0.0.1:237", "tcp://docker:237", "localhost:237", "docker:237")
_SOCKET_DIRECTORIES = frozenset(("/var/run", "/run"))
_VARIABLES = {
    "DOCKER_IN_DOCKER": (("start",), ""),
    "DOCKER_IN_DOCKER_ENABLED": (("true", "1", "yes", "True"), "/docker-graph"),
}
# To read so many characters is no more work than to look for hints in them.
_LONG = 8192
_VARIABLE_HINTS = frozenset((*_VARIABLES, "START_DOCKER_SERVICE"))
_USUAL_ROOTS = frozenset(("/var/lib/docker", "/home/rootless/.local/share/docker", "/docker-graph"))
_OWN_VOLUMES = ("emptyDir", "persistentVolumeClaim", "ephemeral")
_CONTAINERD_STORE_SINCE = 29
_HINT_YES = "annotate the pod with kata-dind.io/container: {name} if it does"


def detect(
    pod: PodDict,
    policy: Policy,
    *,
    config_maps: ConfigMaps = NO_CONFIG_MAPS,
    claim_templates: Sequence[Mapping[str, Any]] = (),
) -> Detection:
    """Return what runs in a pod, where its data lands and what becomes of it, and what else is to be said."""
    pod = mapping(pod)
    spec = mapping(pod.get("spec"))
    runtime_class = text(spec.get("runtimeClassName"))
    wishes, findings = read_wishes(pod)
    everyone = bool(config_maps) or "preset-dind-enabled" in mapping(mapping(pod.get("metadata")).get("labels"))
    entries = [
        entry
        for entry in containers_of(spec)
        if everyone or _has_hint(entry[2]) or _is_named(text(entry[2].get("name")), entry[2], policy, wishes)
    ]
    if not entries:
        return Detection((), findings, runtime_class, policy.class_of(runtime_class) is not None)
    runtime = runtime_of(runtime_class, mapping(mapping(pod.get("metadata")).get("annotations")), policy)
    scene = _Scene(pod, spec, policy, config_maps, claim_templates, runtime, wishes)
    engines: list[Engine] = []
    notes: list[Finding] = list(findings)
    for entry in entries:
        some, said = _Container(scene, *entry).engines()
        engines += some
        notes += said
    return Detection(tuple(engines), tuple(notes), runtime_class, runtime is not None)


def _has_hint(container: Mapping[str, Any]) -> bool:
    """Look for a word that speaks of Docker: the cheap check that most containers end with."""
    get = container.get
    command, args = items(get("command")), items(get("args"))
    parts = [text(get("image"))]
    parts += [word for word in command if isinstance(word, str)]
    parts += [word for word in args if isinstance(word, str)]
    seen = "\n".join(parts)
    if "\n$(" in seen:  # a word that is a variable
        seen = "\n".join([seen, *(text(mapping(entry).get("value")) for entry in items(get("env")))])
    if len(seen) > _LONG:
        return True
    seen = seen.lower()
    for hint in _HINTS:
        if hint in seen:
            return True
    for entry in items(get("env")):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in _VARIABLE_HINTS:
            return True
    for key, path_key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        for entry in items(get(key)):
            path = entry.get(path_key) if isinstance(entry, dict) else None
            if isinstance(path, str) and "docker" in path and clean_path(path) in _USUAL_ROOTS:
                return True
    if args and not command and flags_weight(words(args)) >= LIKELY:
        return True
    return "lifecycle" in container and any(hint in word for word in words(_hook(container)) for hint in _HINTS)


def _hook(container: Mapping[str, Any]) -> object:
    return mapping(mapping(mapping(container.get("lifecycle")).get("postStart")).get("exec")).get("command")


def _is_named(name: str, container: Mapping[str, Any], policy: Policy, wishes: Wishes) -> bool:
    """Tell whether the policy or an annotation speaks of a container."""
    if name and (wishes.container == name or any(matches(pattern, name) for pattern in policy.containers)):
        return True
    image = text(container.get("image"))
    return any(rule.match == image or matches(rule.match, image) for rule in policy.images)


# Frozen classes take three times as long to make, which is a fifth of the search; these are seen here alone.
@dataclass(slots=True)
class _Scene:
    """What the containers of a pod have in common."""

    pod: Mapping[str, Any]
    spec: Mapping[str, Any]
    policy: Policy
    config_maps: ConfigMaps
    claim_templates: Sequence[Mapping[str, Any]]
    runtime: Runtime | None
    wishes: Wishes


@dataclass(slots=True)
class _Case:
    """The case for a program in a container."""

    program: Program
    weight: int
    evidence: tuple[str, ...]
    start: Start | None = None
    launch: Launch = Launch.IMAGE
    root: str = ""


class _Container:
    """A container under examination."""

    def __init__(self, scene: _Scene, list_name: ContainerList, index: int, container: Mapping[str, Any]) -> None:
        self._scene = scene
        self._list: ContainerList = list_name
        self._index = index
        self._container = container
        self.name = text(container.get("name"))
        self._image = text(container.get("image"))
        self._files = Files(scene.spec, container, scene.config_maps)
        self._variables = environment_of(container, scene.config_maps)
        self._rule_is_set, self._known = self._look_up()
        count = len(items(container.get("command")))
        self._command = self._words("command", 0)
        self._args = self._words("args", count)
        self.is_privileged = _is_privileged(container)

    @property
    def pointer(self) -> Pointer:
        """The way to the container."""
        return ("spec", self._list, self._index)

    def _words(self, key: str, start: int) -> list[str]:
        found = words(self._container.get(key))
        # The guest entrypoint is a long script, which nobody reads.
        unread = 2 if found[1:4:2] == ["-c", "kata-dind"] else -1
        return [
            Word(word if place == unread else expand(word, self._variables), start + place)
            for place, word in enumerate(found)
        ]

    def _look_up(self) -> tuple[bool, Known]:
        """Return whether the policy has a rule for the image, and what is known of it."""
        known = known_image(self._image)
        for rule in self._scene.policy.images:
            if rule.match == self._image or matches(rule.match, self._image):
                if rule.program is None:
                    return True, Known(is_client=True)
                version = tuple(int(part) for part in rule.version.split(".") if part.isdecimal())
                said = f"the policy says that the image {self._image} runs {rule.program}"
                return True, Known(rule.program, CERTAIN, said, version, rule.entrypoint, user=rule.user)
        return False, known

    # ---- What it runs.

    def engines(self) -> tuple[list[Engine], list[Finding]]:
        """Return the programs in the container, and what else is to be said about it."""
        launch = self._read_launch()
        if self._rule_is_set and self._known.is_client:
            return [], []
        cases = self._cases(launch)
        is_named = self._is_named()
        engines: list[Engine] = []
        findings: list[Finding] = []
        if is_named and not cases:
            said = "an annotation or the policy names the container"
            cases = [_Case(self._known.program or Program.DOCKERD, CERTAIN, (said,), launch=self._launch_of(None))]
        for case in cases:
            if case.weight >= CERTAIN or is_named or (case.weight >= LIKELY and self._scene.wishes.repair):
                engine, remarks = self._engine(case, launch)
                engines.append(engine)
                findings += remarks
            elif case.weight >= LIKELY and self._scene.runtime is not None:
                findings.append(self._likely(case))
        if not engines:
            findings += self._other_runtime(launch)
        return engines, findings

    def _is_named(self) -> bool:
        if not self.name:
            return False
        named = self._scene.wishes.container == self.name
        return named or any(matches(pattern, self.name) for pattern in self._scene.policy.containers)

    def _read_launch(self) -> FoundLaunch:
        known = self._known
        if self._command:
            argv = [*self._command, *self._args]
        else:
            own = [Word(word, FROM_IMAGE) for word in (*known.entrypoint, *(() if self._args else known.cmd))]
            argv = [*own, *self._args]
        found = read_launch(argv, self._variables, self._files.find)
        hook = _hook(self._container)
        if hook:
            later = read_launch(words(hook), self._variables, self._files.find)
            found.starts += [replace(start, said=f"its postStart hook: {start.said}") for start in later.starts]
        return found

    def _cases(self, launch: FoundLaunch) -> list[_Case]:
        cases = self._started(launch)
        if not cases and (case := self._by_variable(launch) or self._by_image(launch) or self._by_volume(launch)):
            cases = [case]
        if launch.is_wrapped and not any(case.weight >= CERTAIN for case in cases):
            cases = [self._wrapped()]
        return [self._with_extras(case) for case in cases]

    def _wrapped(self) -> _Case:
        """Return the case for what the guest entrypoint starts: it is there for nothing else."""
        word = self._variables.get("KATA_DIND_PROGRAM", "")
        program = Program(word) if word in tuple(Program) else self._known.program or Program.DOCKERD
        path = self._variables.get("KATA_DIND_PATH", "")
        root = clean_path(path) if path.startswith("/") and "\0" not in path else ""
        said = tuple(filter(None, (self._known.said,)))
        return _Case(program, CERTAIN, said, launch=Launch.COMMAND, root=root)

    def _started(self, launch: FoundLaunch) -> list[_Case]:
        """The programs that command and arguments start by themselves."""
        known = self._known
        if known.is_client and not self._command:
            return []
        if not self._command and known.variable is not None and self._variables.get(known.variable[0]) is None:
            return []
        if self._is_off():
            return []
        cases: dict[Program, _Case] = {}
        for start in launch.starts:
            weight = start.weight
            if start.needs_image:
                weight = CERTAIN if known.has_systemd else 0
            elif known.program is start.program and not (self._command and known.weight == 0):
                # The image and what is started in it agree.
                weight = max(weight, known.weight) if not self._command else max(weight, min(CERTAIN, weight + 2))
                weight = self._undecided(weight, start)
            elif known.program is None and start.weight == 1 and self.is_privileged and not known.is_client:
                weight = LIKELY
            if weight > 0 and self._is_better(start, weight, cases.get(start.program)):
                by_image = known.said if known.program is start.program else ""
                by_itself = start.said if place_of(start.words[0]) != FROM_IMAGE or not by_image else ""
                by_args = self._said_of_args() if by_image and not self._command and known.weight < CERTAIN else ""
                evidence = tuple(filter(None, (by_image, by_itself, by_args)))
                cases[start.program] = _Case(start.program, weight, evidence, start, self._launch_of(start))
        if Program.CONTAINERD in cases and len(cases) > 1:
            del cases[Program.CONTAINERD]
        return list(cases.values())

    def _is_better(self, start: Start, weight: int, before: _Case | None) -> bool:
        """Tell whether a start says more than an earlier one of the same program.

        A script that has both ways, as Docker's entrypoint has, takes the one with rootlesskit for other users only.
        """
        if before is None or weight != before.weight or before.start is None:
            return before is None or weight > before.weight
        return before.start.rootless and not start.rootless and not self._user(self._known)

    def _said_of_args(self) -> str:
        return f"its arguments are dockerd's, as in `{self._args[0][:60]}`" if flags_weight(self._args) else ""

    def _undecided(self, weight: int, start: Start) -> int:
        """An image that is a client or a daemon, started without anything that tells."""
        known = self._known
        if self._command or known.weight >= CERTAIN:
            return weight
        if not self._args:
            # A client would have nothing to do, unless somebody types.
            types = self._container.get("tty") is True or self._container.get("stdin") is True
            return max(known.weight, LIKELY) if not types else known.weight
        if basename(self._args[0]) == "dockerd":
            return CERTAIN
        return known.weight + flags_weight(self._args)

    def _is_off(self) -> bool:
        unless = self._known.unless
        return unless is not None and self._variables.get(unless[0]) in unless[1] and not self._command

    def _by_variable(self, launch: FoundLaunch) -> _Case | None:
        """A daemon that the image's own starter runs, since a variable says so."""
        known = self._known
        name, root = "", ""
        values: tuple[str, ...] = ()
        if known.variable is not None:
            (name, values), root = known.variable, known.root
        else:
            for candidate, (words_of_it, its_root) in _VARIABLES.items():
                if self._variables.get(candidate) in words_of_it:
                    name, values, root = candidate, words_of_it, its_root
        is_on = bool(name) and self._variables.get(name) in values
        if not is_on and name.endswith("_ENABLED"):
            labels = mapping(mapping(self._scene.pod.get("metadata")).get("labels"))
            is_on = labels.get("preset-dind-enabled") in ("true", True)
        if not is_on or (self._command and not self._goes_on(launch)):
            return None
        weight = CERTAIN if known.variable is not None else LIKELY
        said = f"{name} says that a Docker daemon is started"
        return _Case(Program.DOCKERD, weight, (said,), launch=Launch.VARIABLE, root=root)

    def _goes_on(self, launch: FoundLaunch) -> bool:
        """Tell whether a command may go through the image's own starter, or through a script that can't be read."""
        return bool(launch.unknown) or any(basename(word) in self._known.starters for word in self._command)

    def _by_image(self, launch: FoundLaunch) -> _Case | None:
        known = self._known
        if known.program is None or not known.weight or known.variable is not None or self._is_off():
            return None
        if self._command:
            if not self._goes_on(launch):
                return None
            is_starters = any(basename(word) in known.starters for word in self._command)
            weight = CERTAIN if is_starters else 1
        elif self._args and self._is_told_otherwise(launch):
            return None
        else:
            weight = known.weight
        return _Case(known.program, weight, (known.said,), launch=self._launch_of(None))

    def _is_told_otherwise(self, launch: FoundLaunch) -> bool:
        """Tell whether the arguments are a command of its own for an image that would start a daemon."""
        known = self._known
        if known.starters or known.program is not Program.DOCKERD:
            return False  # its starter runs the daemon first, and then the arguments
        if self._args[0].startswith("-"):
            return False
        return not launch.unknown or bool(known.entrypoint)

    def _by_volume(self, launch: FoundLaunch) -> _Case | None:
        """Nothing names a daemon, but flags of one, or a volume where one keeps its data, are there."""
        known = self._known
        if known.is_client or (self._command and not launch.unknown):
            return None
        if not self._command and self._args:
            weight = flags_weight(self._args)
            if weight >= LIKELY:
                return _Case(Program.DOCKERD, weight, (self._said_of_args(),), launch=Launch.IMAGE)
            if not self._args[0].startswith("-") and not launch.unknown:
                return None
        if self.is_privileged and self._own_volume():
            return _Case(Program.DOCKERD, 0, ("a privileged container has a volume there",), launch=Launch.IMAGE)
        return None

    def _with_extras(self, case: _Case) -> _Case:
        """Add what is weak alone: privileges, variables, a volume at the data root, a client beside it."""
        weight = case.weight
        evidence = list(case.evidence)
        if self.is_privileged:
            weight += 1
            evidence.append("it is privileged")
        if self._has_docker_variables():
            weight += 1
            evidence.append("it has variables of dockerd's")
        volume = self._own_volume()
        if volume:
            weight += 2
            evidence.append(f"it has a volume of its own at {volume}")
        if weight < CERTAIN and self._has_client():
            weight += 1
            evidence.append("another container uses a Docker daemon in the pod")
        says_nothing = self._known.is_either and not self._command and not self._args
        if says_nothing and self._uses_host_socket():
            weight = 0
        case.weight, case.evidence = weight, tuple(evidence)
        return case

    def _has_docker_variables(self) -> bool:
        return any(name.startswith(_ENVIRONMENT_HINTS) for name in self._variables)

    def _own_volume(self) -> str:
        """Return the data root at which the pod has a volume of its own; empty if there is none."""
        for key, path_key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
            for entry in items(self._container.get(key)):
                path = text(mapping(entry).get(path_key))
                if path and clean_path(path) in _USUAL_ROOTS and self._is_own(text(mapping(entry).get("name"))):
                    return clean_path(path)
        return ""

    def _is_own(self, name: str) -> bool:
        found = find_volume(self._scene.spec, name)
        if found is not None:
            # Without a source it is an emptyDir.
            return any(kind in found[1] for kind in _OWN_VOLUMES) or len(found[1]) == 1
        return any(mapping(mapping(claim).get("metadata")).get("name") == name for claim in self._scene.claim_templates)

    def _has_client(self) -> bool:
        mine = self._socket_volumes()
        for list_name, index, other in containers_of(self._scene.spec):
            if (list_name, index) == (self._list, self._index):
                continue
            for entry in items(other.get("env")):
                if text(mapping(entry).get("value")).startswith(_CLIENT_ADDRESSES):
                    return True
            if mine and mine & _socket_volumes(other):
                return True
        return False

    def _socket_volumes(self) -> set[str]:
        return _socket_volumes(self._container)

    def _uses_host_socket(self) -> bool:
        for entry in items(self._container.get("volumeMounts")):
            found = find_volume(self._scene.spec, text(mapping(entry).get("name")))
            if found is not None and text(mapping(found[1].get("hostPath")).get("path")).endswith("docker.sock"):
                return True
        return False

    def _launch_of(self, start: Start | None) -> Launch:
        if self._known.variable is not None and start is None:
            return Launch.VARIABLE
        if start is not None and start.in_script and (self._command or self._args):
            return Launch.SCRIPT
        return Launch.COMMAND if self._command else Launch.IMAGE

    # ---- What is said.

    def _likely(self, case: _Case) -> Finding:
        reasons = "; ".join(case.evidence)
        return Finding(
            "pod.likely-daemon",
            Severity.NOTE,
            f"the container {self.name or self._index} may run {case.program} ({reasons}), but nothing makes it sure",
            container=self.name,
            pointer=self.pointer,
            hint=_HINT_YES.format(name=self.name) if self.name else "",
        )

    def _other_runtime(self, launch: FoundLaunch) -> Iterator[Finding]:
        other = launch.other_runtime or self._known.other_runtime
        if other and self._scene.runtime is not None:
            yield Finding(
                "pod.other-runtime",
                Severity.NOTE,
                f"the container {self.name or self._index} runs {other}, which kata-dind does not repair",
                container=self.name,
                pointer=self.pointer,
            )

    # ---- The engine.

    def _engine(self, case: _Case, launch: FoundLaunch) -> tuple[Engine, list[Finding]]:
        known = self._known if self._known.program is case.program else NOTHING
        if case.root:
            known = replace(known, root=case.root, program=case.program)
        user = self._user(known)
        start = case.start
        rootless = bool(user != 0 and (known.rootless or (start is not None and start.rootless)))
        variables = {**self._variables, **(start.variables if start is not None else {})}
        files = start.files if start is not None else {}

        def read_file(path: str) -> str | None:
            if path in files:
                return files[path]
            found = self._files.find(path)
            return found.text if found is not None else None

        start_words = start.words if start is not None else self._words_of_image(case, known)
        running = Running(case.program, start_words, variables, known, rootless, read_file)
        storage = read_storage(running)
        version = known.version
        driver = storage.drivers[0].name if storage.drivers else ""
        described = _Described(case.program, version, rootless, driver, launch.is_wrapped)
        named = [(storage.root, False), *self._containerds_root(case, storage, version, launch)]
        mounts = start.mounts if start is not None else ()
        roots = []
        by_hand = covered = False
        for one, is_containerds in named:
            if one.path:
                mount = self._hand_mount(one.path, mounts)
                covered = covered or (mount is not None and not mount.is_fit)
                mount = mount if mount is not None and mount.is_fit else None
                by_hand = by_hand or (mount is not None and not is_containerds)
                roots.append(self._root(one, described, mount, is_containerds=is_containerds))
        evidence = list(case.evidence)
        if by_hand:
            evidence.append(f"its own script mounts a disk or a tmpfs on {storage.root.path} first")
        if launch.is_wrapped:
            evidence.append("the guest entrypoint of kata-dind starts it")
        engine = Engine(
            self._list,
            self._index,
            self.name,
            case.program,
            version,
            case.launch,
            self._entrypoint(known),
            tuple(map(str, start_words)),
            tuple(roots),
            tuple(dict.fromkeys(filter(None, evidence))),
            user,
            rootless,
            self.is_privileged,
            by_hand,
            tuple(self._setting(driver) for driver in storage.drivers),
            launch.is_wrapped,
            covered,
        )
        return engine, self._said_of(storage)

    def _hand_mount(self, path: str, mounts: Sequence[HandMount]) -> HandMount | None:
        """Return what the container's own script mounts on a data root.

        A script that asks first whether something is mounted there finds the image's VOLUME, or the pod's volume.
        """
        return mount_over(path, [one for one in mounts if not (one.unless_mounted and self._has_mount(one.target))])

    def _has_mount(self, path: str) -> bool:
        if self._known.program is not None and path in IMAGE_VOLUMES:
            return True
        return find_mount(self._scene.spec, self._container, path, self._scene.claim_templates) is not None

    def _words_of_image(self, case: _Case, known: Known) -> tuple[str, ...]:
        if self._command or case.launch is Launch.VARIABLE:
            return ()
        return (*known.entrypoint, *(self._args or known.cmd))

    def _entrypoint(self, known: Known) -> tuple[str, ...]:
        return known.entrypoint if self._args or not known.entrypoint else (*known.entrypoint, *known.cmd)

    def _user(self, known: Known) -> int | None:
        own = number(mapping(self._container.get("securityContext")).get("runAsUser"))
        if own is not None:
            return own
        pods = number(mapping(self._scene.spec.get("securityContext")).get("runAsUser"))
        return pods if pods is not None else known.user

    def _containerds_root(
        self, case: _Case, storage: Storage, version: tuple[int, ...], launch: FoundLaunch
    ) -> Iterator[tuple[NamedRoot, bool]]:
        """Docker from 29 on keeps its images in a containerd that stands beside it, in that one's root."""
        if case.program is not Program.DOCKERD or (version and version[0] < _CONTAINERD_STORE_SINCE):
            return
        beside = next((start for start in launch.starts if start.program is Program.CONTAINERD), None)
        if beside is None and not (case.start is not None and case.start.has_containerd):
            return
        if beside is None:
            yield NamedRoot(DEFAULT_ROOTS[Program.CONTAINERD], "the default of the containerd beside it"), True
            return
        running = Running(
            Program.CONTAINERD, beside.words, beside.variables, NOTHING, beside.rootless, lambda path: None
        )
        yield read_storage(running).root, True

    def _root(
        self, named: NamedRoot, described: _Described, by_hand: HandMount | None, *, is_containerds: bool
    ) -> Root:
        scene = self._scene
        mount = find_mount(scene.spec, self._container, named.path, scene.claim_templates)
        if mount is not None:
            backing, because = backing_of(scene.spec, mount, scene.runtime, scene.claim_templates)
        else:
            backing, because = backing_at(scene.spec, self._container, named.path, scene.runtime, scene.claim_templates)
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
        if described.is_wrapped:
            outcome = Outcome.WORKS
            outcome_because = "the guest entrypoint of kata-dind prepares and proves the data root first"
        return Root(named.path, named.said_by, mount, backing, because, outcome, outcome_because, is_containerds)

    def _setting(self, driver: Driver) -> StorageSetting:
        if driver.variable:
            pointers = self._variable_pointers(driver.variable)
            return StorageSetting(driver.name, pointers, True, in_script=not pointers)
        places = [place_of(word) for word in driver.words]
        if places and all(place >= 0 for place in places):
            return StorageSetting(driver.name, tuple(map(self._word_pointer, places)), False)
        return StorageSetting(driver.name, (), False, in_script=True, in_file=driver.in_file)

    def _word_pointer(self, place: int) -> Pointer:
        count = len(self._command)
        return (*self.pointer, "command", place) if place < count else (*self.pointer, "args", place - count)

    def _variable_pointers(self, name: str) -> tuple[Pointer, ...]:
        """Return all entries of a variable: without the last one, which counts, the one before it would."""
        entries = [
            (index, mapping(entry))
            for index, entry in enumerate(items(self._container.get("env")))
            if mapping(entry).get("name") == name
        ]
        if not entries or not isinstance(entries[-1][1].get("value"), str):
            return ()
        return tuple((*self.pointer, "env", index) for index, _ in entries)

    def _said_of(self, storage: Storage) -> list[Finding]:
        findings = []
        if not storage.root.path:
            findings.append(
                Finding(
                    "root.unknown",
                    Severity.WARNING,
                    f"the data root of the container {self.name or self._index} is named by {storage.root.said_by} "
                    "with a value that is not known here",
                    container=self.name,
                    pointer=self.pointer,
                )
            )
        unread = self._files.unread(storage.config_file) if storage.config_file and not storage.root.by_flag else ""
        if unread:
            findings.append(
                Finding(
                    "root.config-unread",
                    Severity.NOTE,
                    f"{storage.config_file} comes from the ConfigMap {unread}, which is not at hand: "
                    "it may name another data root or storage driver",
                    container=self.name,
                    pointer=self.pointer,
                )
            )
        return findings


@dataclass(slots=True)
class _Described:
    """What an outcome depends on."""

    program: Program
    version: tuple[int, ...]
    rootless: bool
    driver: str
    is_wrapped: bool


def _is_privileged(container: Mapping[str, Any]) -> bool:
    context = mapping(container.get("securityContext"))
    if context.get("privileged") is True:
        return True
    added = items(mapping(context.get("capabilities")).get("add"))
    return any(name in ("SYS_ADMIN", "CAP_SYS_ADMIN", "ALL") for name in added)


def _socket_volumes(container: Mapping[str, Any]) -> set[str]:
    """Return the volumes in which a container has the directory of Docker's socket."""
    return {
        text(mapping(entry).get("name"))
        for entry in items(container.get("volumeMounts"))
        if clean_path(text(mapping(entry).get("mountPath"))) in _SOCKET_DIRECTORIES
    }
