"""The seeds of this user: what each is, whether it is whole and fits this host, and removing them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.backend import load_backend, require_snapshots
from kata_dind.backend.plan import AnyPlan, find_seed_plan
from kata_dind.errors import HostError
from kata_dind.host.disks import allocated_bytes
from kata_dind.seeding.making import sandboxes_on_seed
from kata_dind.store.seeds import Seed, remove_seed, require_seed, require_unused, use_seed


@dataclass(frozen=True)
class SeedSummary:
    """One row of `seed ls`."""

    seed_id: str
    name: str
    """Empty for an internal seed."""
    docker_version: str
    data_root: str
    memory_mib: int
    images: tuple[str, ...]
    disk_bytes: int
    """How much space its files take on the disk."""
    own_bytes: int
    """How much of that becomes free when the seed is removed: files that images or other seeds share stay."""
    created: float
    """Seconds since the epoch."""
    used_by: tuple[str, ...]
    """The sandboxes whose disks lie over those of the seed."""


def summary_of(seed: Seed) -> SeedSummary:
    """Return a seed's row of `seed ls`."""
    plan = find_seed_plan(seed.facts)
    return SeedSummary(
        seed_id=seed.seed_id,
        name=seed.name,
        docker_version=str((seed.facts.get("verdict") or {}).get("docker_version") or ""),
        data_root=str(plan.data_root) if plan else "",
        memory_mib=plan.memory_mib if plan else 0,
        images=tuple(seed.facts.get("images", [])),
        disk_bytes=allocated_bytes(seed.directory),
        own_bytes=_own_bytes(seed.directory),
        created=float(seed.facts.get("created") or 0.0),
        used_by=tuple(sandboxes_on_seed(seed.seed_id)),
    )


def inspect_seed(seed: Seed) -> dict[str, Any]:
    """Return all that is known of a seed: its parts, its proof, the sandboxes on it, and whether it fits this host."""
    summary, plan = summary_of(seed), find_seed_plan(seed.facts)
    unfit = why_unfit(seed)
    return {
        "name": seed.name or None,
        "id": seed.seed_id,
        "directory": str(seed.directory),
        "created": summary.created,
        "build_seconds": seed.facts.get("build_seconds"),
        "fits": not unfit,
        "unfit_reason": unfit or None,
        "made_of": seed.parts,
        "image": {"reference": plan.image.reference, "id": plan.image.image_id} if plan else None,
        "images": list(summary.images),
        "kernel": seed.facts.get("kernel"),
        "machine": _machine(plan, seed) if plan else None,
        "data_root": {
            **(seed.facts.get("data_root") or {}),
            "size_mib": (plan.data_root_mib or None) if plan else None,
        },
        "verdict": seed.facts.get("verdict"),
        "warnings": seed.facts.get("warnings", []),
        "used_by": list(summary.used_by),
        "in_use": seed.is_in_use,
        "used_at": seed.used_at or None,
        "disk_bytes": summary.disk_bytes,
        "own_bytes": summary.own_bytes,
        "files": [{"name": name, **mark} for name, mark in seed.facts["files"].items()],
    }


def _machine(plan: AnyPlan, seed: Seed) -> dict[str, Any]:
    network = (seed.facts.get("spec") or {}).get("network")
    return {"accelerator": plan.accelerator, "cpus": plan.cpus, "memory_mib": plan.memory_mib, "network": network}


def why_unfit(seed: Seed) -> str:
    """Return why a seed can't be restored on this host; empty when it can."""
    plan = find_seed_plan(seed.facts)
    if plan is None:
        return "it was made by another version of kata-dind"
    try:
        require_snapshots(load_backend(plan.backend)).require_fit(seed)
    except HostError as error:
        return f"{error.summary} ({error.details.replace(chr(10), '; ')})" if error.details else error.summary
    return ""


def remove_seeds(names: Sequence[str]) -> None:
    """Remove seeds by their names or ids. Raises SpecError, with none removed, when a sandbox needs one of them."""
    seeds = [require_seed(name) for name in dict.fromkeys(names)]
    for seed in seeds:
        require_unused(seed, references=sandboxes_on_seed(seed.seed_id))
    for seed in seeds:
        remove_seed(seed, references=sandboxes_on_seed(seed.seed_id))


def verify_seed(seed: Seed) -> None:
    """Read every file of a seed in full. Raises SeedUnfit for the first one that has changed since it was made."""
    with use_seed(seed.seed_id) as used:
        used.verify()


def _own_bytes(directory: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            status = path.lstat()
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total
