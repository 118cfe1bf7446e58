"""Making seeds: boot a machine as for a sandbox, prove it, fill it, snapshot it.

`up` and `run` make internal seeds, one for each kind of machine that is asked for; `seed build` makes those with a
name. Whatever happens on the way, a seed appears when it is whole, and not before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend import Wish, load_backend, require_snapshots
from kata_dind.backend.plan import find_seed_plan, plan_to_json
from kata_dind.backend.plan_file import earlier_plan, may_need, require_plan, write_plan
from kata_dind.errors import KataDindError, NoSpace, SeedUnfit, SpecError
from kata_dind.host.process import tail
from kata_dind.life.owner_thread import own_in_thread
from kata_dind.progress import Event, Report, silent, without
from kata_dind.seeding.contents import give_archive, give_image, images_of
from kata_dind.store.marks import mark_files
from kata_dind.store.sandboxes import Record, keep_logs, list_records, new_workshop, require_record
from kata_dind.store.seeds import (
    Seed,
    build_lock,
    internal_id,
    list_seeds,
    load_seed,
    new_seed_directory,
    publish_seed,
    remove_seed,
    require_free,
    require_intact,
    require_seed,
)
from kata_dind.vocabulary import Accelerator

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec

KEPT_INTERNAL = 4
"""How many internal seeds without a sandbox stay, the most recently used ones; each takes some 400 MiB."""

Fill = Callable[[Record], dict[str, Any]]
"""Puts into a running sandbox what a seed is to contain, and returns facts for the seed."""

Disks = Callable[[Path], None]
"""Puts the disks that a sandbox is to boot on into its directory, before it boots."""


def make_seed(
    name: str,
    spec: SandboxSpec,
    *,
    images: Sequence[str] = (),
    archives: Sequence[Path] = (),
    from_sandbox: str = "",
    source: PackageSource | None = None,
    report: Report = silent,
) -> Seed:
    """Make a seed with a name, from a machine as `spec` describes it or from that of a stopped sandbox.

    The seed's dockerd pulls the images and loads the `docker save` archives. Raises SpecError, before anything is
    begun, for what can't be made; else what `up` raises, or SandboxError with Docker's words.
    """
    from kata_dind.spec import parse_name

    parse_name(name, field="NAME")
    _check_contents(images, archives)
    with build_lock(name):
        require_free(name)
        disks = None
        if from_sandbox:
            record = _require_stopped(from_sandbox)
            spec, disks = _spec_of(record, spec), _disks_of(record)
        fill = _filling(images, archives, report=report)
        return build_seed(name, spec, source, disks=disks, fill=fill, report=report)


def _check_contents(images: Sequence[str], archives: Sequence[Path]) -> None:
    for image in images:
        if not image or image.startswith("-") or not image.isprintable() or " " in image:
            raise SpecError(
                f"IMAGE: {image!r} is not an image; use a reference, like kata-dind/hello", id="spec.wrong-value"
            )
    for archive in archives:
        if not archive.is_file() or not os.access(archive, os.R_OK):
            found = "cannot be read" if archive.is_file() else "is not a file on this host"
            raise SpecError(f"--from-archive: '{archive}' {found}", id="spec.unreadable-file")


def _filling(images: Sequence[str], archives: Sequence[Path], *, report: Report) -> Fill:
    def fill(record: Record) -> dict[str, Any]:
        for archive in archives:
            with _told(f"loading {archive}", report):
                give_archive(record, archive)
        for image in images:
            with _told(f"pulling {image}", report):
                give_image(record, image)
        return {"images": images_of(record)}

    return fill


@contextlib.contextmanager
def _told(what: str, report: Report) -> Iterator[None]:
    started = time.monotonic()
    report(Event("images", what))
    yield
    report(Event("images", f"{what}: done", time.monotonic() - started))


def _require_stopped(name: str) -> Record:
    record = require_record(name)
    if record.is_owned():
        raise SpecError(
            f"--from-sandbox: the sandbox '{name}' is running",
            id="sandbox.still-running",
            hint=f"kata-dind stop {name}",
        )
    return record


def _spec_of(record: Record, asked: SandboxSpec) -> SandboxSpec:
    """Return the spec of a sandbox, with its image by its id; what was asked for may not differ from it."""
    from kata_dind.spec import require_same, spec_from_json

    plan = earlier_plan(record.directory)
    if plan is None:
        raise SpecError(f"--from-sandbox: the sandbox '{record.name}' was never started", id="sandbox.never-started")
    spec = spec_from_json(record.read("spec.json"))
    reference = spec.image
    if spec.seed:  # the sandbox has the machine of its seed, and what was plugged into that
        plugged = {field: getattr(spec, field) for field in ("cpus", "memory", "size") if field in spec.given}
        made_of = spec_from_json(require_seed(spec.seed).facts["spec"])
        spec, reference = made_of.settled(**plugged), made_of.image
    spec = spec.settled(image=plan.image.image_id)
    had: dict[str, tuple[object, ...]] = {field: (value,) for field, value in spec}
    # The user may have left the choice of these.
    had["data_root"], had["accelerator"] = (plan.data_root, spec.data_root), (plan.accelerator, spec.accelerator)
    had["image"] = (plan.image.reference or reference, reference, plan.image.image_id)
    if asked.size_bytes == spec.size_bytes:
        had["size"] = (asked.size,)
    if asked.memory_bytes == spec.memory_bytes:
        had["memory"] = (asked.memory,)
    del had["timeout_seconds"]
    require_same(asked, had, of=f"the sandbox '{record.name}'")
    return spec.settled(timeout_seconds=asked.timeout_seconds)


def _disks_of(record: Record) -> Disks:
    def copy(directory: Path) -> None:
        with record.owned():  # so that it can't be started meanwhile
            plan = require_plan(record.directory)
            require_snapshots(load_backend(plan.backend)).copy_disks(plan, record.directory, directory)
            if record.unclean.exists():
                Record("", directory).unclean.touch()

    return copy


def require_internal_seed(
    key: str, spec: SandboxSpec, source: PackageSource | None, *, accelerator: str, report: Report
) -> Seed:
    """Return the internal seed with a key; make it when it is absent or damaged. Its guest will run on `accelerator`.

    Where another process is making it, this one waits and returns that seed. Raises SeedUnfit for a damaged one that
    sandboxes still need; else what `build_seed` raises.
    """
    seed_id = internal_id(key)
    with build_lock(seed_id):
        seed = load_seed(seed_id)
        if seed is not None and not _is_intact(seed):
            report(
                Event("warning", f"the files of the seed {seed_id} have changed since it was made, so it is made anew")
            )
            _discard(seed)
            seed = None
        if seed is None:
            first = f"the first start of such a machine makes a seed, which takes {_build_duration(accelerator)}"
            report(Event("seed", f"{first}; later starts from it take about a second"))
            seed = build_seed(seed_id, spec, source, report=report)
            prune_internal_seeds(keep=seed_id)
    return seed


def _build_duration(accelerator: str) -> str:
    """Say how long it takes to make an internal seed: what the last one took on this host, else what is usual."""
    internal = {seed.seed_id: seed.facts for seed in list_seeds() if seed.is_internal}
    plans = {seed_id: find_seed_plan(facts) for seed_id, facts in internal.items()}
    made = [internal[seed_id] for seed_id, plan in plans.items() if plan and plan.accelerator == accelerator]
    took = {float(facts["created"]): float(facts["build_seconds"]) for facts in made}
    if took:
        return f"about {_rounded(took[max(took)])} s here"
    return "some seconds" if accelerator == Accelerator.KVM else "about half a minute without KVM"


def _rounded(seconds: float) -> int:
    return max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)


def _is_intact(seed: Seed) -> bool:
    try:
        require_intact(seed)
    except SeedUnfit:
        return False
    return True


def _discard(seed: Seed) -> None:
    users = sandboxes_on_seed(seed.seed_id)
    try:
        remove_seed(seed, references=users)
    except SpecError as error:
        raise SeedUnfit(
            f"the seed for this machine is damaged, and sandboxes still need it: {', '.join(users)}",
            id="seed.damaged-in-use",
        ) from error


def build_seed(
    seed_id: str,
    spec: SandboxSpec,
    source: PackageSource | None,
    *,
    disks: Disks | None = None,
    fill: Fill | None = None,
    report: Report,
) -> Seed:
    """Boot, prove, fill and snapshot a machine.

    The name, the shares, the host's ports and the volume of the spec are left out.

    Raises what `up` raises, and NoSpace.
    """
    from kata_dind.spec import spec_to_json

    started = time.monotonic()
    spec = spec.without("shares", "watch", "host_ports", "volume", "seed", "cold").settled(name="seed")
    backend = load_backend(spec.backend.value)
    if backend.snapshots is None:
        raise SpecError(f"--backend: {spec.backend} has no seeds", id="backend.no-seeds")
    with _told_of_full_disk(), new_workshop() as record, _logs_kept(record, seed_id):
        wish = Wish(spec, record.directory, packages=source, to_snapshot=True)
        plan = backend.prepare(wish, report=report)
        write_plan(record.directory, plan)
        if disks:
            disks(record.directory)
        # "ready" means the end of a start to those that follow one, and this start is not theirs.
        with own_in_thread(record, plan, backend, report=without(report, "ready")) as owner:
            filled = fill(record) if fill else {}
            report(Event("snapshot", "taking a snapshot of the machine"))
            owner.snapshot()
        status = record.read("status.json")
        with new_seed_directory() as directory:
            packed = backend.snapshots.pack_seed(plan, record.directory, directory)
            facts = {
                "backend": spec.backend.value,
                "created": time.time(),
                "spec": spec_to_json(spec),
                "plan": plan_to_json(plan),
                "parts": dict(packed.parts),
                "image": dict(packed.image),
                "children": list(packed.children),
                "verdict": status.get("verdict"),
                "data_root": status.get("data_root"),
                "kernel": status.get("kernel"),
                "warnings": status.get("warnings", []),
                "dockerd_log": tail(record.directory / backend.logs["dockerd"], lines=1000),
                "files": mark_files(directory, packed.files),
                "build_seconds": round(time.monotonic() - started, 3),
                **filled,
            }
            seed = publish_seed(directory, seed_id, facts)
    report(Event("seed", "the seed is ready", time.monotonic() - started))
    return seed


@contextlib.contextmanager
def _logs_kept(record: Record, seed_id: str) -> Iterator[None]:
    """Keep the logs of a workshop whose machine fails; the error says where."""
    try:
        yield
    except KataDindError as error:
        # No sandbox has a name with an underscore.
        if kept := keep_logs(Record(f"_seed-{seed_id}", record.directory)):
            error.add_note(f"the logs of this start are kept in {kept}")
        raise


@contextlib.contextmanager
def _told_of_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("there is not enough space for the seed", id="host.no-space", details=str(error)) from error
        raise


def sandboxes_on_seed(seed_id: str) -> list[str]:
    """Return the names of the sandboxes, running or not, whose disks lie over a seed's, or may."""
    return [record.name for record in list_records() if may_need(record.directory, lambda plan: plan.seed == seed_id)]


def prune_internal_seeds(*, keep: str) -> None:
    """Remove the internal seeds that were not used for the longest time, beyond KEPT_INTERNAL."""
    spare = [seed for seed in list_seeds() if seed.is_internal and seed.seed_id != keep]
    spare.sort(key=lambda seed: seed.used_at, reverse=True)
    for seed in spare[KEPT_INTERNAL - 1 :]:
        if not sandboxes_on_seed(seed.seed_id) and not seed.is_in_use:
            with contextlib.suppress(Exception):  # another process has begun to use it
                remove_seed(seed, references=[])
