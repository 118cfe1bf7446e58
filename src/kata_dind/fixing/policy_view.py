"""A policy as people and programs may read it: for each rule, what the class can do and what a dind pod gets there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.policy import Policy
from kata_dind.pod.policy_check import explain_policy, policy_warnings
from kata_dind.pod.sentences import sentence

_KINDS = {
    "block-plain": "a plain emptyDir, of which Kata makes a disk",
    "block": "a block device (block)",
    "loop": "a disk in a file (loop)",
    "memory": "a tmpfs (memory)",
    "": "no change",
}


def policy_as_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy with what follows from it; the fields are public."""
    return {
        "runtime_classes": [dataclasses.asdict(each) for each in explain_policy(policy)],
        "warnings": policy_warnings(policy),
        "policy": policy.model_dump(mode="json", by_alias=True),
    }


def policy_in_words(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that explain a policy, from its fields."""
    for rule in fields["runtime_classes"]:
        yield from _class_in_words(rule)
        yield ""
    policy = fields["policy"]
    if policy["repair"]:
        yield "Pods are repaired, unless their annotation kata-dind.io/repair says no."
    else:
        yield "Pods are repaired only if their annotation kata-dind.io/repair says so."
    root = policy["dataRoot"]
    kind = "of the kind that fits the class" if root["kind"] == "auto" else f"of the kind {root['kind']}"
    yield f"A data root is {kind}, with {root['size']}, if the pod's annotations don't say otherwise."
    delivery = {
        "inline": "in the manifest itself",
        "image": f"in an image volume of {policy['deliveryImage']}",
        "init": f"by an init container of {policy['deliveryImage']}",
    }
    yield f"The guest entrypoint comes into a pod {delivery[policy['delivery']]}."
    if policy["diskImage"]:
        yield f"Where a daemon's image has no mkfs.ext4, an init container of {policy['diskImage']} makes its disk."
    for rule in policy["images"]:
        version = f" {rule['version']}" if rule["version"] else ""
        yield f"Images that match {rule['match']} run {rule['program'] or 'no daemon'}{version}."
    if policy["containers"]:
        yield f"Containers named {', '.join(policy['containers'])} run dockerd."
    if policy["registryMirrors"]:
        yield f"A repaired dockerd pulls through {', '.join(policy['registryMirrors'])}."
    for certificate in policy["certificates"]:
        source = certificate["configMap"] or certificate["secret"]
        yield f"A repaired dockerd knows {certificate['host']} by the certificates in {source}."
    registry = policy["registry"]
    if registry["lookup"]:
        secrets = ", with the pods' pull secrets" if registry["pullSecrets"] else ""
        yield (
            f"What images run whose names don't tell is asked of {', '.join(registry['allowed'])}{secrets}, "
            f"for {registry['timeoutSeconds']:g} s at most."
        )
    else:
        yield "No registry is asked what images run."
    yield f"What is broken and can't be repaired: {policy['unrepaired']}."
    guards = [f"{name} ({answer})" for name, answer in policy["guards"].items() if answer != "off"]
    yield f"Guards: {', '.join(guards) or 'all off'}."
    yield from (f"Mind: {warning}." for warning in fields["warnings"])


def _class_in_words(rule: Mapping[str, Any]) -> Iterator[str]:
    yield f"{rule['match']}: {'Kata' if rule['is_kata'] else 'not Kata'}"
    yield f"  {sentence(rule['about'])}"
    for kind in rule["kinds"]:
        yield f"  A pod with docker:dind and no volume gets {_KINDS.get(kind['kind'], kind['kind'])}"
        yield f"    with {', '.join(kind['classes'])}:"
        yield f"    {sentence(kind['because'])}"
    yield from (f"  Mind: {warning}." for warning in rule["warnings"])
