"""Which images of a pod a registry should be asked about, and what is said when it gave no answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kata_dind.pod.annotations import read_wishes
from kata_dind.pod.detect import has_hint, is_named
from kata_dind.pod.handlers import runtime_of
from kata_dind.pod.images import CERTAIN, known_image
from kata_dind.pod.model import Finding, ImageConfigs, PodDict, Pointer, Severity
from kata_dind.pod.policy import Policy
from kata_dind.pod.reading import containers_of, is_privileged, items, mapping, text
from kata_dind.pod.sentences import quoted

_MOST_IMAGES = 8
"""Of one pod; real ones have one or two that are not known."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of some images now."""

    configs: ImageConfigs = field(default_factory=dict)
    """By their references as they stand in the pod."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why the others aren't known: a clause each, without a full stop."""


def unknown_images(pod: PodDict, policy: Policy) -> list[str]:
    """Return the images of a pod that may run a Docker, and of which neither name nor policy tells what they run.

    None for a pod that is not repaired anyway, and none of a container whose command stands in the pod.
    """
    return list(dict.fromkeys(image for _, _, image in _unknown(mapping(pod), policy)))[:_MOST_IMAGES]


def unread_findings(pod: PodDict, policy: Policy, unread: Mapping[str, str]) -> list[Finding]:
    """Return a note for each container whose image stayed unknown; `unread` has a clause for each image."""
    return [
        Finding(
            "pod.image-unread",
            Severity.NOTE,
            f"What the image of {quoted(name or f'{pointer[1]}[{pointer[2]}]')} runs is not known: {unread[image]}.",
            name,
            pointer,
            "Write its entrypoint into the policy (images), or the command into the container.",
        )
        for pointer, name, image in (_unknown(mapping(pod), policy) if unread else ())
        if image in unread
    ]


def _unknown(pod: Mapping[Any, Any], policy: Policy) -> Iterator[tuple[Pointer, str, str]]:
    spec = mapping(pod.get("spec"))
    annotations = mapping(mapping(pod.get("metadata")).get("annotations"))
    runtime = runtime_of(text(spec.get("runtimeClassName")), annotations, policy)
    if runtime is None or runtime.left_alone:
        return
    wishes, _ = read_wishes(pod)
    if not (policy.repair if wishes.repair is None else wishes.repair):
        return
    for list_name, index, container in containers_of(spec):
        image, name = text(container.get("image")), text(container.get("name"))
        if list_name == "ephemeralContainers" or items(container.get("command")) or not image:
            continue
        # Without privileges nothing in it can mount, nor run containers.
        may_run_one = is_privileged(container) or has_hint(container) or is_named(name, container, policy, wishes)
        if may_run_one and not _is_known(image, policy):
            yield ("spec", list_name, index), name, image


def _is_known(image: str, policy: Policy) -> bool:
    rule = policy.image_rule_for(image)
    if rule is not None:
        return rule.program is None or bool(rule.entrypoint)
    known = known_image(image)
    return known.is_client or (known.entrypoint_is_known and (known.weight >= CERTAIN or known.variable is not None))
