"""`kata-dind seed`: machines to start from; their dockerd is up, proven, and has its images."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kata_dind.cli import completion
from kata_dind.cli.options import Json, option, takes_machine_options, takes_package_options, takes_session
from kata_dind.cli.output import human_duration, human_size, print_json, print_table, print_tree, progress
from kata_dind.cli.request import package_source, sandbox_spec
from kata_dind.cli.session import Session
from kata_dind.errors import SeedUnfit

if TYPE_CHECKING:
    from kata_dind.seeding.keeping import SeedSummary

NewName = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The name for the seed.")]
Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE...",
        show_default=False,
        help="The images that the seed's Docker pulls; kata-dind/hello is built in.",
    ),
]
Archives = Annotated[
    list[str] | None,
    option(
        "--from-archive",
        variable="SEED_FROM_ARCHIVE",
        metavar="FILE",
        help_text="Load the images in this archive, which `docker save` has written. May be repeated.",
        show_default=False,
    ),
]
FromSandbox = Annotated[
    str,
    option(
        "--from-sandbox",
        variable="SEED_FROM_SANDBOX",
        metavar="SANDBOX",
        help_text="Boot the seed's machine on copies of the disks of this stopped sandbox, with everything on them.",
        show_default="empty disks",
        autocompletion=completion.sandbox_names,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=completion.seed_names, help="The seed's name in `kata-dind seed ls`."
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=completion.seed_names)]
SomeNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...",
        autocompletion=completion.seed_names,
        help="The seeds to check; all of them if no name is given.",
    ),
]
File = Annotated[str, typer.Argument(metavar="FILE", show_default=False)]
OtherName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="A new name for the seed; without it, the seed keeps the name that it had.",
    ),
]

_HEADER = ("NAME", "DOCKER", "DATA ROOT", "MEMORY", "IMAGES", "DISK", "OWN", "AGE", "USED BY")


@takes_session
@takes_package_options
@takes_machine_options
def build(
    session: Session,
    name: NewName,
    images: Images = None,
    *,
    archives: Archives = None,
    from_sandbox: FromSandbox = "",
    json: Json = False,
    fields: dict[str, Any],
    packages: dict[str, Any],
) -> None:
    """Make a seed, a ready machine to start from.

    A machine is booted, its Docker is proven to work and gets the images, and then a snapshot of the machine is taken.
    Start a sandbox from it with `kata-dind up --seed NAME`.
    """
    from kata_dind.seeding.keeping import inspect_seed
    from kata_dind.seeding.making import make_seed

    with progress(session) as shown:
        seed = make_seed(
            name,
            sandbox_spec("seed", fields),
            images=images or (),
            archives=[Path(archive) for archive in archives or ()],
            from_sandbox=from_sandbox,
            source=package_source(packages),
            report=shown.report,
        )
    if json:
        print_json(inspect_seed(seed))
    elif not session.quiet:
        print(f"{name} is ready. Start from it:\n  kata-dind up --seed {name}")


@takes_session
def ls(session: Session, *, json: Json = False) -> None:
    """List the seeds; with --quiet, only their names.

    A seed with a name that begins with _ was made by `up` or `run`, for all sandboxes with such a machine. DISK is the
    space that a seed takes, and OWN is how much of it becomes free when the seed is removed.
    """
    from kata_dind.seeding.keeping import summary_of
    from kata_dind.store.seeds import list_seeds

    seeds = list_seeds()
    if json:
        print_json([dataclasses.asdict(summary_of(seed)) for seed in seeds])
    elif session.quiet:
        print("".join(f"{seed.seed_id}\n" for seed in seeds), end="")
    else:
        print_table(_HEADER, [_row(summary_of(seed)) for seed in seeds])


@takes_session
def inspect(session: Session, name: Name, *, json: Json = False) -> None:
    """Show everything that is known about a seed.

    That includes whether it fits this host: whether its machine can be restored here.
    """
    from kata_dind.seeding.keeping import inspect_seed
    from kata_dind.store.seeds import require_seed

    facts = inspect_seed(require_seed(name))
    if json:
        print_json(facts)
    else:
        print_tree(facts)


@takes_session
def rm(session: Session, names: Names) -> None:
    """Remove seeds.

    A seed that a sandbox was started from can only be removed after that sandbox.
    """
    from kata_dind.seeding.keeping import remove_seeds

    remove_seeds(names)


@takes_session
def verify(session: Session, names: SomeNames = None, *, json: Json = False) -> None:
    """Check the files of seeds for damage.

    Every file is read in full and compared with the checksum from when the seed was made.
    """
    from kata_dind.seeding.keeping import verify_seed
    from kata_dind.store.seeds import list_seeds, require_seed

    seeds = [require_seed(name) for name in dict.fromkeys(names)] if names else list_seeds()
    damage: dict[str, SeedUnfit] = {}
    for seed in seeds:
        try:
            verify_seed(seed)
        except SeedUnfit as error:
            damage[seed.seed_id] = error
        else:
            if not json:
                print(f"{seed.seed_id}: ok")
    if json:
        print_json([{"id": seed.seed_id, "ok": seed.seed_id not in damage} for seed in seeds])
    if damage:
        first, *others = damage.values()
        first.details = "\n".join(filter(None, [first.details, *(error.summary for error in others)]))
        raise first


@takes_session
def export(session: Session, name: Name, file: File) -> None:
    """Write a seed to one file.

    A host of the same kind can import it.
    """
    from kata_dind.seeding.carrying import export_seed

    export_seed(name, Path(file))


@takes_session
def import_(session: Session, file: File, name: OtherName = "", *, json: Json = False) -> None:
    """Add a seed from a file that `seed export` has written.

    Import only what you would run: the file contains the memory and the disks of a machine.
    """
    from kata_dind.seeding.carrying import import_seed
    from kata_dind.seeding.keeping import inspect_seed

    with progress(session) as shown:
        seed = import_seed(Path(file), name, report=shown.report)
    if json:
        print_json(inspect_seed(seed))
    elif not session.quiet:
        print(seed.name)


def _row(summary: SeedSummary) -> tuple[str, ...]:
    return (
        summary.seed_id,
        summary.docker_version or "-",
        summary.data_root or "-",
        human_size(summary.memory_mib << 20),
        ", ".join(summary.images) or "-",
        human_size(summary.disk_bytes),
        human_size(summary.own_bytes),
        human_duration(time.time() - summary.created),
        ", ".join(summary.used_by) or "-",
    )
