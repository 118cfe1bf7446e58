"""What `kata-dind backends` tells of a handler, as JSON values. Pure."""

from __future__ import annotations

from typing import Any

from kata_dind.backend.containerd.handlers import Ability, Handler


def handler_fields(handler: Handler) -> dict[str, Any]:
    """Return all that is known of a handler."""
    return {
        "name": handler.name,
        "type": handler.runtime_type,
        "is_kata": handler.is_kata,
        "snapshotter": handler.snapshotter,
        "kata": _kata_fields(handler),
        "abilities": {
            str(ability): {"can": verdict.can, "why": verdict.why, "change": verdict.change}
            for ability in Ability
            for verdict in [handler.can(ability)]
        },
        "holes": [
            {"is_sure": hole.is_sure, "fault": hole.fault, "because": _because(handler), "change": hole.change}
            for hole in handler.holes
        ],
    }


def _kata_fields(handler: Handler) -> dict[str, Any] | None:
    if not handler.is_kata:
        return None
    runtime, kata = handler.runtime, handler.kata
    return {
        "version": handler.version or None,
        "runtime": str(runtime.shim) if runtime.shim else None,
        "vmm": str(runtime.vmm) if runtime.vmm else None,
        "sharing": str(runtime.sharing),
        "emptydir_mode": str(runtime.empty_dir),
        "configuration": [str(file.path) for file in kata.files] if kata else [],
        "damaged": [str(file.path) for file in kata.files if file.is_damaged] if kata else [],
        "kernel": kata.kernel if kata else None,
        "annotations": list(kata.annotations) if kata else [],
        "sandbox_cgroup_only": kata.sandbox_cgroup_only if kata else None,
    }


def _because(handler: Handler) -> str:
    return f"this Kata is {handler.version}" if handler.version else "the version of this Kata is not known"
