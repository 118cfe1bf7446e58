"""From a spec to the plan of a start: its volume, the backend's own planning, and the seed that it wants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.backend import UsedVolume, Wish, load_backend
from kata_dind.backend.plan import AnyPlan, WantedSeed
from kata_dind.errors import NoSpace, SeedUnfit, SpecError
from kata_dind.progress import Event, Report, without

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec


@contextlib.contextmanager
def used_volume(spec: SandboxSpec) -> Iterator[UsedVolume | None]:
    """Use the volume that a spec names, if it does, for the length of the block. Raises what `Volumes.use` raises."""
    if not spec.volume:
        yield None
        return
    volumes = load_backend(spec.backend.value).volumes
    if volumes is None:
        raise SpecError(f"--volume: the backend {spec.backend} has no named volumes", id="spec.no-volumes")
    with volumes.use(spec) as volume:
        yield volume


def plan_start(
    spec: SandboxSpec,
    directory: Path,
    volume: UsedVolume | None,
    *,
    before: AnyPlan | None = None,
    packages: PackageSource | None,
    report: Report,
) -> AnyPlan:
    """Return the plan of a start in a sandbox's directory; the seed that it wants is made when there is none."""
    backend = load_backend(spec.backend.value)
    if volume:
        spec = volume.fitted(spec, report=report)
    wish = Wish(spec, directory, stored=volume.stored if volume else None, before=before, packages=packages)
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
