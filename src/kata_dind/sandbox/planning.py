"""From a spec to the plan of a start: its volume, the backend's own planning, and the seed that it wants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend.plan import AnyPlan, WantedSeed
from kata_dind.errors import NoSpace, SeedUnfit
from kata_dind.progress import Event, Report, without
from kata_dind.store.volumes import Volume, use_volume
from kata_dind.vocabulary import Filesystem

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec


@contextlib.contextmanager
def used_volume(spec: SandboxSpec) -> Iterator[tuple[Volume | None, list[int]]]:
    """Use the volume that a spec names, if any, for the length of the block; yield its lock's descriptor, too."""
    if not spec.volume:
        yield None, []
        return
    with use_volume(spec.volume, asked=spec.data_root) as (volume, lock):
        yield volume, [lock]


def plan_start(
    spec: SandboxSpec,
    directory: Path,
    volume: Volume | None,
    *,
    before: AnyPlan | None = None,
    packages: PackageSource | None,
    report: Report,
) -> AnyPlan:
    """Return the plan of a start in a sandbox's directory; make the seed that it wants when there is none."""
    from kata_dind.backend import StoredRoot, Wish, load_backend

    backend, stored = load_backend(spec.backend.value), None
    if volume:
        facts = volume.facts
        stored = StoredRoot(
            volume.name, volume.directory, str(facts.get("docker_version", "")), str(facts.get("storage", ""))
        )
        spec = _on_volume(spec, volume, report=report)
    wish = Wish(spec, directory, stored=stored, before=before, packages=packages)
    plan = backend.prepare(wish, report=report)
    # Making the seed plans a machine as well, and this start is planned again once the seed exists. The first plan has
    # reported the accelerator, which is the same for all three.
    further = without(report, "accelerator")
    if plan.wanted_seed and _make_seed(plan, plan.wanted_seed, spec, packages, report=further):
        plan = backend.prepare(wish, report=further)
    for warning in plan.warnings:
        report(Event("warning", warning))
    if volume:
        volume.grow(spec.size_bytes)
    return plan


def _make_seed(
    plan: AnyPlan, wanted: WantedSeed, spec: SandboxSpec, packages: PackageSource | None, *, report: Report
) -> bool:
    """Make the seed that a start wants; return False if that can't be done, as on a full disk: then the guest boots."""
    from kata_dind.seeding.making import require_internal_seed

    spec = spec.settled(cpus=wanted.cpus, memory=f"{wanted.memory_mib}M")
    if spec.size:
        spec = spec.settled(size=f"{wanted.data_root_mib}M")
    try:
        require_internal_seed(wanted.key, spec, packages, accelerator=plan.accelerator, report=report)
    except (NoSpace, SeedUnfit) as error:
        report(Event("warning", f"no seed could be made, so the guest boots: {error.summary}"))
        return False
    return True


def _on_volume(spec: SandboxSpec, volume: Volume, *, report: Report) -> SandboxSpec:
    """Return a spec with the kind, the size and the file system that its volume will have."""

    def warn(message: str) -> None:
        report(Event("warning", message))

    update: dict[str, Any] = {"data_root": volume.kind}
    if spec.size and volume.disk is None:
        warn(f"--size: the volume '{volume.name}' is of the kind {volume.kind}, whose size is that of the host's disk")
    if present := volume.size_bytes:
        if spec.size and spec.size_bytes < present:
            warn(f"--size: the volume '{volume.name}' keeps its {present >> 20}M; a volume only grows")
        update["size"] = f"{max(present, spec.size_bytes if spec.size else 0) >> 20}M"
    if found := volume.filesystem:
        if "filesystem" in spec.given and spec.filesystem != found:
            warn(
                f"--filesystem: the volume '{volume.name}' keeps its {found}; only a new one can have {spec.filesystem}"
            )
        update["filesystem"] = Filesystem(found)
    return spec.settled(**update)
