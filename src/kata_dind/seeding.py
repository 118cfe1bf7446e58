"""Making seeds: boot a machine as for a sandbox, prove it, fill it, save it.

The internal ones are made by `up` and `run`, one for each kind of machine that is asked for; those with a name by
`seed build`. Whatever happens on the way, a seed is there when it is whole, and not before.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kata_dind.backend import load_backend
from kata_dind.host.progress import Event, Report
from kata_dind.owner_thread import own_in_thread
from kata_dind.record import Record, list_records, new_workshop
from kata_dind.seed.files import mark_files
from kata_dind.seed.store import (
    Seed,
    build_lock,
    internal_id,
    list_seeds,
    load_seed,
    new_seed_directory,
    publish_seed,
    remove_seed,
)

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec

KEPT_INTERNAL = 4
"""How many internal seeds stay that no sandbox lies over, the most recently used ones: each takes some 400 MiB."""

Fill = Callable[[Record], dict[str, Any]]
"""Puts into a running sandbox what a seed is to hold; returns facts for its record."""


def require_internal_seed(key: str, spec: SandboxSpec, source: PackageSource, *, report: Report) -> Seed:
    """Return the internal seed with a key, made when absent; whoever waits for another maker gets what that made."""
    seed_id = internal_id(key)
    with build_lock(seed_id):
        seed = load_seed(seed_id)
        if seed is None:
            report(Event("seed", "making a seed of such a machine, from which later ones start in a moment (once)"))
            seed = build_seed(seed_id, spec, source, report=report)
            prune_internal_seeds(keep=seed_id)
    return seed


def build_seed(
    seed_id: str, spec: SandboxSpec, source: PackageSource, *, fill: Fill | None = None, report: Report
) -> Seed:
    """Boot, prove, fill and save a machine; its name, shares and volume are left out.

    Raises what `up` raises, and NoSpace.
    """
    started = time.monotonic()
    spec = spec.model_copy(update={"name": "seed", "shares": (), "volume": "", "seed": "", "cold": False})
    backend = load_backend(spec.backend.value)
    with new_workshop() as record:
        plan = backend.prepare(spec, record.directory, source, stored=None, to_save=True, report=report)
        record.write("plan.json", {"backend": spec.backend.value, "plan": plan})
        launch = backend.launch(plan, ephemeral=False)
        with own_in_thread(record, launch, report=_but_ready(report)) as owner:
            filled = fill(record) if fill else {}
            report(Event("save", "saving the machine"))
            owner.save()
        status = record.read("status.json")
        with new_seed_directory() as directory:
            packed = backend.pack_seed(plan, record.directory, directory)
            facts = {
                "backend": spec.backend.value,
                "created": time.time(),
                "spec": spec.model_dump(mode="json"),
                "plan": plan,
                "parts": packed["parts"],
                "verdict": status.get("verdict"),
                "data_root": status.get("data_root"),
                "kernel": status.get("kernel"),
                "warnings": status.get("warnings", []),
                "files": mark_files(directory, packed["files"]),
                "build_seconds": round(time.monotonic() - started, 3),
                **filled,
            }
            seed = publish_seed(directory, seed_id, facts)
    report(Event("seed", "the seed is ready", time.monotonic() - started))
    return seed


def sandboxes_on_seed(seed_id: str) -> list[str]:
    """Return the names of the sandboxes, running or not, whose disks lie over a seed's."""
    plans = {record.name: record.read("plan.json").get("plan") or {} for record in list_records()}
    return [name for name, plan in plans.items() if plan.get("seed") == seed_id]


def prune_internal_seeds(*, keep: str) -> None:
    """Remove the internal seeds that were not used for the longest time, beyond KEPT_INTERNAL."""
    spare = [seed for seed in list_seeds() if seed.is_internal and seed.seed_id != keep]
    spare.sort(key=lambda seed: seed.used_at, reverse=True)
    for seed in spare[KEPT_INTERNAL - 1 :]:
        if not sandboxes_on_seed(seed.seed_id) and not seed.is_in_use:
            with contextlib.suppress(Exception):  # somebody has begun to use it
                remove_seed(seed, references=[])


def _but_ready(report: Report) -> Report:
    """Pass on all events but the one that means the end of a start to who follows one."""

    def heard(event: Event) -> None:
        if event.name != "ready":
            report(event)

    return heard
