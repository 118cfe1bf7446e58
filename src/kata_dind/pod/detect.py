"""Which containers of a pod run a program with a data root, by the signals that image, words and volumes give.

`container` gathers what a container shows, `cases` weighs it, and `engines` describes what is certain. What is only
likely is a note, unless an annotation of the pod asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kata_dind.pod.annotations import Wishes, read_wishes
from kata_dind.pod.argv import FROM_IMAGE, Word
from kata_dind.pod.cases import STARTING_VARIABLES, Case, cases_of, launch_of
from kata_dind.pod.container import USUAL_ROOTS, Container, Scene
from kata_dind.pod.engines import engine_of
from kata_dind.pod.flags import flags_weight
from kata_dind.pod.handlers import runtime_of
from kata_dind.pod.images import CERTAIN, LIKELY
from kata_dind.pod.launches import FoundLaunch, read_launch
from kata_dind.pod.model import (
    NO_CONFIG_MAPS,
    NO_IMAGE_CONFIGS,
    ConfigMaps,
    Detection,
    Engine,
    Finding,
    ImageConfigs,
    PodDict,
    Program,
    Severity,
)
from kata_dind.pod.policy import Policy
from kata_dind.pod.reading import containers_of, items, mapping, post_start_words, text, words
from kata_dind.pod.volumes import clean_path

# A container that has none of these in its image and words runs no Docker, unless variables or volumes say so.
_HINTS = (
    *("docker", "dind", "buildk", "dagger", "earthly", "containerd", "plugins/", "/init", "systemd", "envbox"),
    *("podman", "k3s", "kindest", "k0s", "rke2", "minikube", "codercom", "buildctl", "krte", "kubekins", "buildah"),
)
# To read so many characters is no more work than to look for hints in them.
_LONG = 8192
_VARIABLE_HINTS = frozenset((*STARTING_VARIABLES, "START_DOCKER_SERVICE"))
_HINT_YES = "Annotate the pod with kata-dind.io/container: {name} if it does."


def detect(
    pod: PodDict,
    policy: Policy,
    *,
    config_maps: ConfigMaps = NO_CONFIG_MAPS,
    claim_templates: Sequence[Mapping[str, Any]] = (),
    images: ImageConfigs = NO_IMAGE_CONFIGS,
) -> Detection:
    """Return what runs in a pod, where its data lands and what becomes of it, and what else is to be said.

    `images` is what registries have told of the images whose names don't tell it (`lookups.unknown_images`).
    """
    pod = mapping(pod)
    spec = mapping(pod.get("spec"))
    runtime_class = text(spec.get("runtimeClassName"))
    wishes, findings = read_wishes(pod)
    everyone = bool(config_maps) or "preset-dind-enabled" in mapping(mapping(pod.get("metadata")).get("labels"))
    entries = [
        entry
        for entry in containers_of(spec)
        if everyone
        or has_hint(entry[2])
        or (images and text(entry[2].get("image")) in images)
        or is_named(text(entry[2].get("name")), entry[2], policy, wishes)
    ]
    if not entries:
        return Detection((), findings, runtime_class, policy.class_of(runtime_class) is not None)
    runtime = runtime_of(runtime_class, mapping(mapping(pod.get("metadata")).get("annotations")), policy)
    scene = Scene(pod, spec, policy, config_maps, claim_templates, runtime, wishes, images)
    engines: list[Engine] = []
    notes: list[Finding] = list(findings)
    for entry in entries:
        some, said = _engines_of(Container(scene, *entry))
        engines += some
        notes += said
    return Detection(tuple(engines), tuple(notes), runtime_class, runtime is not None)


def has_hint(container: Mapping[str, Any]) -> bool:
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
            if isinstance(path, str) and "docker" in path and clean_path(path) in USUAL_ROOTS:
                return True
    if args and not command and flags_weight(words(args)) >= LIKELY:
        return True
    return "lifecycle" in container and any(hint in word for word in post_start_words(container) for hint in _HINTS)


def is_named(name: str, container: Mapping[str, Any], policy: Policy, wishes: Wishes) -> bool:
    """Tell whether the policy or an annotation speaks of a container."""
    if name and (wishes.container == name or policy.names(name)):
        return True
    return policy.image_rule_for(text(container.get("image"))) is not None


def _engines_of(container: Container) -> tuple[list[Engine], list[Finding]]:
    """Return the programs in the container, and what else is to be said about it."""
    launch = _read_launch(container)
    if container.rule_is_set and container.known.is_client:
        return [], []
    cases = cases_of(container, launch)
    is_named = container.is_named()
    engines: list[Engine] = []
    findings: list[Finding] = []
    if is_named and not cases:
        said = "an annotation or the policy names the container"
        cases = [Case(container.known.program or Program.DOCKERD, CERTAIN, (said,), launch=launch_of(container, None))]
    for case in cases:
        if case.weight >= CERTAIN or is_named or (case.weight >= LIKELY and container.scene.wishes.repair):
            engine, remarks = engine_of(container, case, launch)
            engines.append(engine)
            findings += remarks
        elif case.weight >= LIKELY and container.scene.runtime is not None:
            findings.append(_likely(container, case))
    if not engines:
        findings += _other_runtime(container, launch)
    return engines, findings


def _read_launch(container: Container) -> FoundLaunch:
    known = container.known
    if container.command:
        argv = [*container.command, *container.args]
    else:
        own = [Word(word, FROM_IMAGE) for word in (*known.entrypoint, *(() if container.args else known.cmd))]
        argv = [*own, *container.args]
    found = read_launch(argv, container.variables, container.files.find)
    hook = post_start_words(container.fields)
    if hook:
        later = read_launch(hook, container.variables, container.files.find)
        found.starts += [replace(start, said=f"its postStart hook: {start.said}") for start in later.starts]
    return found


def _likely(container: Container, case: Case) -> Finding:
    reasons = "; ".join(case.evidence)
    return Finding(
        "pod.likely-daemon",
        Severity.NOTE,
        f"The container {container.named} may run {case.program} ({reasons}), but nothing makes it sure.",
        container=container.name,
        pointer=container.pointer,
        hint=_HINT_YES.format(name=container.name) if container.name else "",
    )


def _other_runtime(container: Container, launch: FoundLaunch) -> Iterator[Finding]:
    other = launch.other_runtime or container.known.other_runtime
    if other and container.scene.runtime is not None:
        yield Finding(
            "pod.other-runtime",
            Severity.NOTE,
            f"The container {container.named} runs {other}, which kata-dind does not repair.",
            container=container.name,
            pointer=container.pointer,
        )
