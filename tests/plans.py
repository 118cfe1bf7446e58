"""A plan like a backend's, for tests that need one and not what it says."""

from __future__ import annotations

from typing import Any

from kata_dind.backend.plan import AnyPlan, Plan, PlannedImage
from kata_dind.vocabulary import DataRootKind, Fallback


def plan_with(**changes: Any) -> AnyPlan:
    """Return a plan with some fields as given; `image_id` is the image's."""
    fields: dict[str, Any] = {
        "backend": "vm",
        "name": "demo",
        "image": PlannedImage("dind:bookworm", changes.pop("image_id", "sha256:abc")),
        "accelerator": "tcg",
        "accelerator_reason": "no /dev/kvm",
        "kernel_version": "6.1.0",
        "cpus": 2,
        "memory_mib": 2048,
        "data_root": DataRootKind.BLOCK,
        "data_root_reason": "as asked",
        "data_root_mib": 20480,
        "fallback": Fallback.NONE,
        "timeout_seconds": 180.0,
        "own": {},
    }
    return Plan(**{**fields, **changes})
