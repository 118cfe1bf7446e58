"""Pods for tests, in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kata_dind.pod.detect import detect
from kata_dind.pod.model import Detection, Engine
from kata_dind.pod.policy import Policy

PRIVILEGED = {"privileged": True}
DIGEST = "@sha256:" + "0752ca4e" * 8
ONE_HOST_PATH = [{"name": "host", "hostPath": {"path": "/var/lib/docker"}}]


def container(image: str, name: str = "c", **fields: Any) -> dict[str, Any]:
    env = fields.pop("env", None)
    mounts = fields.pop("mounts", None)
    found: dict[str, Any] = {"name": name, "image": image, **fields}
    if env:
        found["env"] = [{"name": key, "value": value} for key, value in env.items()]
    if mounts:
        found["volumeMounts"] = [{"name": volume, "mountPath": path} for path, volume in mounts.items()]
    return found


def privileged(image: str, name: str = "c", **fields: Any) -> dict[str, Any]:
    return container(image, name, securityContext=PRIVILEGED, **fields)


def pod(
    *containers: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]] = (),
    annotations: Mapping[str, Any] | None = None,
    runtime_class: str = "kata-qemu",
    **spec: Any,
) -> dict[str, Any]:
    metadata = {"name": "p", **({"annotations": dict(annotations)} if annotations else {})}
    whole = {"containers": list(containers), "volumes": list(volumes), **spec}
    if runtime_class:
        whole["runtimeClassName"] = runtime_class
    return {"metadata": metadata, "spec": whole}


def empty_dir(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "emptyDir": source}


def detected(*containers: Mapping[str, Any], policy: Policy | None = None, **more: Any) -> Detection:
    config_maps = more.pop("config_maps", {})
    claims = more.pop("claim_templates", ())
    return detect(pod(*containers, **more), policy or Policy(), config_maps=config_maps, claim_templates=claims)


def only_engine(*containers: Mapping[str, Any], **more: Any) -> Engine:
    detection = detected(*containers, **more)
    assert len(detection.engines) == 1, detection
    return detection.engines[0]


def paths(engine: Engine) -> list[str]:
    return [root.path for root in engine.roots]
