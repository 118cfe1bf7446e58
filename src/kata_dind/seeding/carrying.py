"""Carrying a seed to another host: export it to one file, and import it from there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kata_dind.backend import load_backend, require_snapshots
from kata_dind.errors import PlanOutdated, SeedUnfit, SpecError
from kata_dind.progress import Event, Report, silent
from kata_dind.seeding.archive import read_facts, unpack_files, write_archive
from kata_dind.seeding.keeping import why_unfit
from kata_dind.store.marks import mark_files, remarked_files
from kata_dind.store.seeds import (
    Seed,
    build_lock,
    new_seed_directory,
    publish_seed,
    require_free,
    require_seed,
    use_seed,
)


def export_seed(name: str, file: Path) -> None:
    """Write a seed to one file, which can be imported elsewhere. Raises SpecError, NoSpace, SeedUnfit, ToolMissing."""
    seed = require_seed(name)
    if file.is_dir():
        raise SpecError(f"FILE: '{file}' is a directory; name a file", id="spec.unwritable-file")
    if not file.absolute().parent.is_dir():
        raise SpecError(
            f"FILE: '{file}' cannot be written: there is no directory '{file.parent}'", id="spec.unwritable-file"
        )
    with use_seed(seed.seed_id):
        write_archive(seed, file)


def import_seed(file: Path, name: str = "", *, report: Report = silent) -> Seed:
    """Add an exported seed under the name that it had, or another; warn when it doesn't fit this host.

    Import only what you would run: QEMU reads the machine's state from it. Raises SpecError, SeedUnfit, NoSpace.
    """
    from kata_dind.spec import parse_name

    if not file.is_file():
        raise SpecError(f"FILE: there is no file '{file}'", id="spec.unreadable-file")
    started = time.monotonic()
    with new_seed_directory() as directory:
        facts = read_facts(file, directory)
        name = parse_name(name or str(facts.get("name")), field="NAME")
        with build_lock(name):
            require_free(name)
            report(Event("seed", f"unpacking {file}"))
            unpack_files(file, directory, facts)
            seed = publish_seed(directory, name, _adopted(facts, directory, file))
    report(Event("seed", f"the seed '{name}' is imported", time.monotonic() - started))
    if why := why_unfit(seed):
        report(Event("warning", why))
    return seed


def _adopted(facts: dict[str, Any], directory: Path, file: Path) -> dict[str, Any]:
    """Return the facts of an unpacked seed, after its backend has made the files that the archive leaves out."""
    try:
        snapshots = require_snapshots(load_backend(str(facts["backend"])))
        children = snapshots.adopt_seed(facts, directory)
    except PlanOutdated as error:
        raise SeedUnfit(
            f"FILE: '{file}' was exported by another version of kata-dind",
            id="seed.other-version",
            details=error.details,
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(
            f"FILE: '{file}' does not describe a seed", id="seed.foreign-file", details=str(error)
        ) from error
    files = {**remarked_files(directory, facts["files"]), **mark_files(directory, children)}
    return {**facts, "children": children, "files": files}
