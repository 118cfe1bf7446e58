"""What users see of a sandbox, computed from what its files and its locks say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.backend.plan import AnyPlan


@dataclass(frozen=True)
class Facts:
    """What was found out about a sandbox at one moment."""

    name: str
    directory: str
    docker_host: str
    spec: Mapping[str, Any]
    plan: AnyPlan | None
    """None if there is none, or only one of another version."""
    status: Mapping[str, Any]
    is_owned: bool
    """Whether a process of this host owns it."""
    guest_runs: bool | None
    """Whether its guest runs without such a process; None where its backend can't tell at the moment."""
    is_full: bool
    """Whether the file system of its directory is full, so that its owner can't write its status either."""
    created: float
    """Seconds since the epoch."""
    now: float
    disk_bytes: int
    saved_state: Mapping[str, Any] | None = None
    """What is known of the state from which it would resume; None if none is saved."""


@dataclass(frozen=True)
class SandboxSummary:
    """One row of `ls`."""

    name: str
    state: str
    """starting, running, stopping, stopped, crashed, or unknown while its backend can't tell"""
    backend: str
    image: str
    data_root: str
    volume: str
    """The volume that contains the data root; empty if the data root is the sandbox's own."""
    docker_version: str
    accelerator: str
    created: float
    """Seconds since the epoch."""
    uptime_seconds: float | None
    disk_bytes: int
    """How much space the sandbox's own disks take; those of a volume are counted by `volume ls`."""
    ports: tuple[Mapping[str, Any], ...] = ()
    """The published ports: protocol, port, and the addresses of the host where each can be reached."""
    problem: str | None = None
    """What is wrong with a running sandbox at the moment, such as a full disk of the host."""


def state_of(status: Mapping[str, Any], *, is_owned: bool, guest_runs: bool | None) -> str:
    """Return starting, running or stopping while there is an owner or a guest, else stopped or crashed.

    It is unknown while the backend does not answer and only that could tell.
    """
    state = str(status.get("state", "starting"))
    if is_owned:
        if state == "running" and status.get("unsure"):
            return "unknown"
        return state if state in {"starting", "running", "stopping"} else "starting"
    if guest_runs is None:
        return "unknown"
    if guest_runs:
        return "running"
    return "stopped" if state == "stopped" else "crashed"


def inspection(facts: Facts) -> dict[str, Any]:
    """Return all that is known of a sandbox: spec, plan, phases, verdict, disk use, error."""
    status, plan = facts.status, facts.plan
    verdict = status.get("verdict") or {}
    return {
        "name": facts.name,
        "state": _state(facts),
        "directory": facts.directory,
        "docker_host": facts.docker_host,
        "address": status.get("address"),
        "ports": list(published(status, is_owned=facts.is_owned)),
        "spec": dict(facts.spec),
        "backend": plan.backend if plan else None,
        "accelerator": plan.accelerator if plan else None,
        "accelerator_reason": plan.accelerator_reason if plan else None,
        "kernel": status.get("kernel") or (plan.kernel_version if plan else None),
        "image": {"reference": plan.image.reference, "id": plan.image.image_id} if plan else None,
        "data_root": {
            **(status.get("data_root") or {}),
            "kind": str(plan.data_root) if plan else None,
            "reason": plan.data_root_reason if plan else None,
            "size_mib": (plan.data_root_mib or None) if plan else None,
            "volume": facts.spec.get("volume") or None,
        },
        "docker": {
            "version": verdict.get("docker_version"),
            "storage": verdict.get("storage"),
            "native_diff": verdict.get("native_diff"),
        },
        "start": {
            "how": str(plan.start) if plan else None,
            "reason": plan.start_reason if plan else None,
            "seed": (plan.seed or None) if plan else None,
            "check_seconds": status.get("check_seconds"),
        },
        "phases": status.get("phases", []),
        "timings": status.get("timings", {}),
        "warnings": [*(plan.warnings if plan else ()), *status.get("warnings", [])],
        "problem": _problem(facts),
        "error": status.get("error"),
        "created": facts.created,
        "uptime_seconds": _uptime(facts),
        "saved_state": facts.saved_state,
        "disk_bytes": facts.disk_bytes,
    }


def summary(facts: Facts) -> SandboxSummary:
    """Return a sandbox's row of `ls`."""
    plan = facts.plan
    return SandboxSummary(
        name=facts.name,
        state=_state(facts),
        backend=plan.backend if plan else "",
        image=plan.image.reference if plan else "",
        data_root=str(plan.data_root) if plan else "",
        volume=str(facts.spec.get("volume") or ""),
        docker_version=str((facts.status.get("verdict") or {}).get("docker_version") or ""),
        accelerator=plan.accelerator if plan else "",
        created=facts.created,
        uptime_seconds=_uptime(facts),
        disk_bytes=facts.disk_bytes,
        ports=published(facts.status, is_owned=facts.is_owned),
        problem=_problem(facts),
    )


def _state(facts: Facts) -> str:
    return state_of(facts.status, is_owned=facts.is_owned, guest_runs=facts.guest_runs)


def published(status: Mapping[str, Any], *, is_owned: bool) -> tuple[Mapping[str, Any], ...]:
    """Return the ports that can be reached now: none of a sandbox whose owner is gone, whatever its status says."""
    return tuple(status.get("ports", ())) if is_owned else ()


def _problem(facts: Facts) -> str | None:
    if _state(facts) == "unknown" and not facts.is_owned:
        return "its backend does not answer, so that nobody can tell whether its guest runs"
    if _state(facts) not in ("running", "unknown"):
        return None
    if not facts.is_owned:
        return f"no process serves its endpoint; run kata-dind start {facts.name}"
    if facts.is_full:
        return f"the file system of {facts.directory} is full"
    return facts.status.get("problem")


def _uptime(facts: Facts) -> float | None:
    return facts.now - float(facts.status["started_at"]) if _state(facts) == "running" else None
