"""A policy as people and programs may read it: for each rule, what the class can do and what a dind pod gets there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kata_dind.fixing.around import rule_for
from kata_dind.fixing.mend import script
from kata_dind.pod.detect import detect
from kata_dind.pod.explain import sentence
from kata_dind.pod.handlers import runtime_of
from kata_dind.pod.policy import Policy, RuntimeClass
from kata_dind.pod.repair import repair

_EXAMPLES = ("qemu", "clh", "fc", "remote", "example", "x")
"""What takes the place of a star, so that a pattern gets a name that it matches."""


def policy_as_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy with what follows from it; the fields are public."""
    return {
        "runtime_classes": [_class_as_fields(policy, rule) for rule in policy.runtime_classes],
        "repair": policy.repair,
        "data_root": policy.data_root.model_dump(mode="json"),
        "images": [rule.model_dump(mode="json") for rule in policy.images],
        "containers": list(policy.containers),
        "registry_mirrors": list(policy.registry_mirrors),
        "delivery": policy.delivery.value,
        "delivery_image": policy.delivery_image,
        "unrepaired": policy.unrepaired.value,
        "guards": policy.guards.model_dump(mode="json"),
    }


def example_name(pattern: str) -> str:
    """Return a name that a pattern matches, for one without brackets."""
    return re.sub(r"\*", _EXAMPLES[0] if pattern.startswith("kata") else "x", pattern).replace("?", "x")


def _class_as_fields(policy: Policy, rule: RuntimeClass) -> dict[str, Any]:
    name = example_name(rule.match)
    fields: dict[str, Any] = {"match": rule.match, "kata": rule.kata, "example": name}
    decides = rule_for(policy, name)
    fields["is_reached"] = decides is rule
    runtime = runtime_of(name, {}, policy) if decides is rule else None
    if runtime is None:
        return fields
    pod = _example_pod(name)
    mended = repair(pod, policy, script=script, detection=detect(pod, policy))
    return {
        **fields,
        "handler": runtime.handler,
        "version": ".".join(map(str, runtime.version)),
        "sharing": runtime.sharing.value,
        "empty_dir": runtime.empty_dir.value,
        "virtiofs_fit": runtime.virtiofs_fit,
        "confidential": runtime.confidential,
        "block_storage_class": runtime.block_storage_class,
        "direct_assigned": list(runtime.direct_assigned),
        "because": runtime.because,
        "dind": {
            "kind": mended.kind,
            "reasons": list(mended.reasons),
            "findings": [finding.message for finding in mended.findings],
            "is_repaired": bool(mended.patch) and not mended.unrepaired,
        },
    }


def _example_pod(runtime_class: str) -> dict[str, Any]:
    container = {"name": "dind", "image": "docker:dind", "securityContext": {"privileged": True}}
    return {"metadata": {"name": "dind"}, "spec": {"runtimeClassName": runtime_class, "containers": [container]}}


def policy_in_words(fields: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that explain a policy, from its fields."""
    for rule in fields["runtime_classes"]:
        yield from _class_in_words(rule)
        yield ""
    if fields["repair"]:
        yield "Pods are repaired, unless their annotation kata-dind.io/repair says no."
    else:
        yield "Pods are repaired only if their annotation kata-dind.io/repair says so."
    root = fields["data_root"]
    kind = "of the kind that fits the class" if root["kind"] == "auto" else f"of the kind {root['kind']}"
    yield f"A data root is {kind}, with {root['size']}, if the pod's annotations don't say otherwise."
    delivery = {
        "inline": "in the manifest itself",
        "image": f"in an image volume of {fields['delivery_image']}",
        "init": f"by an init container of {fields['delivery_image']}",
    }
    yield f"The guest entrypoint comes into a pod {delivery[fields['delivery']]}."
    for rule in fields["images"]:
        program = rule["program"] or "no daemon"
        yield f"Images that match {rule['match']} run {program}{' ' + rule['version'] if rule['version'] else ''}."
    if fields["containers"]:
        yield f"Containers named {', '.join(fields['containers'])} run dockerd."
    if fields["registry_mirrors"]:
        yield f"A repaired dockerd pulls through {', '.join(fields['registry_mirrors'])}."
    yield f"What can't be repaired: {fields['unrepaired']}."
    guards = [f"{name} {answer}" for name, answer in fields["guards"].items() if answer != "off"]
    yield f"Guards: {', '.join(guards) or 'all off'}."


def _class_in_words(rule: dict[str, Any]) -> Iterator[str]:
    if not rule["kata"]:
        yield f"{rule['match']}: not Kata's; its pods are left alone."
        return
    yield f"{rule['match']}: Kata's" + (f", as in {rule['example']}." if rule["example"] != rule["match"] else ".")
    if not rule["is_reached"]:
        yield f"  A rule above it decides about {rule['example']}."
        return
    yield f"  {sentence(rule['because'])}"
    yield f"  A plain emptyDir: {rule['empty_dir']}. Files of the node: {rule['sharing']}."
    dind = rule["dind"]
    if dind["is_repaired"]:
        yield f"  A pod with docker:dind and no volume gets a data root of the kind {dind['kind'] or 'that it has'}:"
        yield from (f"  - {sentence(reason)}" for reason in dind["reasons"])
    else:
        yield "  A pod with docker:dind and no volume is not repaired:"
        yield from (f"  - {sentence(message)}" for message in dind["findings"] or ["nothing is wrong with it"])
