"""Pods for the tests of repairs, and what holds for every repair: valid, the same by a library, empty a second time."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it has no types
from jsonschema.exceptions import best_match  # type: ignore[import-untyped] # it has no types
from kubernetes_validate import utils
from referencing import Registry, Resource

from kata_dind.manifest.patch import patched
from kata_dind.pod.model import Copy, Repair
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.quantity import quantity_bytes
from kata_dind.pod.repair import repair
from kata_dind.pod.wrapper import wrapped_words

SCRIPT = '#!/bin/sh\n# kata-dind 0.1.0 guest entrypoint, interface 1, kind loop, sha256 0\nexec "$@" $(id)\n'
ESCAPED = SCRIPT.replace("$(", "$$(")
BLOCK_PLAIN = {"runtimeClasses": [{"match": "kata*", "emptyDir": "block-plain"}]}
BLOCK = {"runtimeClasses": [{"match": "kata*", "blockStorageClass": "fast"}]}
MEMORY = {"kata-dind.io/data-root": "memory", "kata-dind.io/size": "4Gi"}

Json = dict[str, Any]


def script(copy: Copy) -> str:
    """Stand for the guest entrypoint; its head is what makes it known again."""
    return SCRIPT


def pod(*containers: Json, volumes: Sequence[Json] = (), annotations: Json | None = None, **spec: Any) -> Json:
    """Return a pod of a Kata class, with these containers."""
    made: Json = {"metadata": {"name": "ci"}, "spec": {"runtimeClassName": "kata-qemu", **spec}}
    if annotations is not None:
        made["metadata"]["annotations"] = annotations
    made["spec"]["containers"] = list(containers)
    if volumes:
        made["spec"]["volumes"] = list(volumes)
    return made


def dind(**fields: Any) -> Json:
    """Return a container with Docker in it."""
    return {"name": "dind", "image": "docker:27-dind", "securityContext": {"privileged": True}, **fields}


def mount(name: str, path: str = "/var/lib/docker", **fields: Any) -> Json:
    """Return a volume's mount."""
    return {"name": name, "mountPath": path, **fields}


def repaired(
    document: Json,
    policy: Policy | Json | None = None,
    *,
    claim_templates: Sequence[Mapping[str, Any]] = (),
    improve: bool = False,
    validate: bool = True,
) -> tuple[Repair, Json]:
    """Return the repair and the pod after it, when all that must hold for any repair does."""
    policy = policy if isinstance(policy, Policy) else parse_policy(policy or {})
    before = copy.deepcopy(document)
    was_valid = validate and not faults_of(document, claim_templates)
    result = repair(document, policy, script=script, claim_templates=claim_templates, improve=improve)
    assert document == before, "the pod itself was changed"
    patch = json.loads(json.dumps(result.patch))
    # The library changes all that is the same object at once; what comes over the network never is.
    after: Json = jsonpatch.apply_patch(json.loads(json.dumps(document)), patch)
    assert patched(document, result.patch) == after
    assert bool(result.patch) == bool(result.kind)
    if was_valid:
        assert faults_of(after, claim_templates) == []
    assert_nothing_is_lost(document, after)
    again = repair(after, policy, script=script, claim_templates=claim_templates, improve=improve)
    assert again.patch == (), "the second repair is not empty"
    return result, after


def assert_nothing_is_lost(before: Json, after: Json) -> None:
    """Check that lists keep their items' order, and that no container, volume or mount is gone."""
    for key in ("containers", "initContainers", "volumes", "ephemeralContainers"):
        old, new = names_of(before, key), names_of(after, key)
        assert [name for name in new if name in old] == old, key


def names_of(document: Json, key: str) -> list[Any]:
    entries = document["spec"].get(key) if isinstance(document.get("spec"), dict) else None
    return [item.get("name") if isinstance(item, dict) else None for item in entries or []] if entries else []


# ---- What an API server would refuse


@functools.cache
def pod_schema() -> Draft202012Validator:
    """Return what `kubernetes_validate.validate` makes anew for each pod, in 20 ms."""
    directory = f"kubernetes-json-schema/v{_version()}-local-strict"
    schema = utils.schema_contents(f"{directory}/pod-v1.json", "1.36")
    definitions = utils.schema_contents(f"{directory}/_definitions.json", "1.36")
    registry = Registry().with_resources(
        [(part["$id"], Resource.from_contents(part)) for part in (schema, definitions)]
    )
    return Draft202012Validator(schema, registry=registry)


def _version() -> str:
    return str(next(version for version in utils.all_versions() if version.startswith("1.36.")))


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def faults_of(document: Json, claim_templates: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Return what is wrong with a pod: by Kubernetes' schemas, and by rules that a schema does not have."""
    error = best_match(pod_schema().iter_errors({"apiVersion": "v1", "kind": "Pod", **document}))
    if error is not None:
        return [f"{error.json_path}: {error.message}"]
    spec = document["spec"]
    volumes = spec.get("volumes") or []
    faults = _doubles("volume", [volume["name"] for volume in volumes])
    known = {volume["name"]: volume for volume in volumes}
    known |= {claim["metadata"]["name"]: {"ephemeral": {"volumeClaimTemplate": claim}} for claim in claim_templates}
    for name, volume in known.items():
        sources = [key for key, value in volume.items() if key != "name" and value is not None]
        faults += [] if _LABEL.fullmatch(name) else [f"volume name {name}"]
        faults += [f"sources of {name}"] if len(sources) > 1 else []
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        faults += [f"sizeLimit {limit}"] if limit is not None and quantity_bytes(limit) is None else []
    containers = [*(spec.get("initContainers") or []), *spec["containers"]]
    faults += _doubles("container", [container["name"] for container in containers])
    for container in containers:
        faults += _faults_of_container(container, known)
    return faults


def _doubles(what: str, names: Sequence[Any]) -> list[str]:
    return [f"two of {what} {name}" for name in set(names) if list(names).count(name) > 1]


def _faults_of_container(container: Json, volumes: Mapping[str, Any]) -> list[str]:
    mounts, devices = container.get("volumeMounts") or [], container.get("volumeDevices") or []
    faults = _doubles("path", [entry["mountPath"] for entry in mounts] + [entry["devicePath"] for entry in devices])
    faults += _doubles("volume in mounts and devices", [*{e["name"] for e in mounts}, *{e["name"] for e in devices}])
    for entry in [*mounts, *devices]:
        if entry["name"] not in volumes:
            faults.append(f"no volume {entry['name']}")
            continue
        ephemeral = (volumes[entry["name"]].get("ephemeral") or {}).get("volumeClaimTemplate") or {}
        is_block = (ephemeral.get("spec") or {}).get("volumeMode") == "Block"
        if "claimName" not in (volumes[entry["name"]].get("persistentVolumeClaim") or {}) and is_block != (
            "devicePath" in entry
        ):
            faults.append(f"{entry['name']} is not what it is taken for")
    ours = [entry["name"] for entry in container.get("env") or [] if str(entry["name"]).startswith("KATA_DIND_")]
    faults += _doubles("variable", ours)
    limits = (container.get("resources") or {}).get("limits") or {}
    requests = (container.get("resources") or {}).get("requests") or {}
    for key, value in requests.items():
        if key in limits and (quantity_bytes(value) or 0) > (quantity_bytes(limits[key]) or 0):
            faults.append(f"request of {key} above its limit")
    return faults


def container_of(document: Json, name: str = "dind") -> Json:
    """Return a container by its name."""
    spec = document["spec"]
    return next(c for c in [*spec["containers"], *spec.get("initContainers", [])] if c["name"] == name)


def variables_of(document: Json, name: str = "dind") -> Json:
    """Return the KATA_DIND_ variables of a container, without their prefix."""
    entries = container_of(document, name).get("env", [])
    prefix = "KATA_DIND_"
    return {entry["name"].removeprefix(prefix): entry["value"] for entry in entries if entry["name"].startswith(prefix)}


def command_behind(document: Json, name: str = "dind") -> list[str] | None:
    """Return what the guest entrypoint starts in a container; None if it isn't there."""
    return wrapped_words(container_of(document, name).get("command"))


def finding_ids(result: Repair) -> list[str]:
    """Return the ids of a repair's findings."""
    return [finding.id for finding in result.findings]
