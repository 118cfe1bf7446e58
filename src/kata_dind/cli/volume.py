"""`kata-dind volume`: data roots that outlive their sandboxes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from kata_dind.cli import completion
from kata_dind.cli.options import Json, takes_session
from kata_dind.cli.output import human_size, print_json, print_table, print_tree
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from kata_dind.store.volume_view import VolumeSummary

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.volume_names)]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=completion.volume_names)]
Size = Annotated[
    str, typer.Argument(metavar="SIZE", help="The new size, such as 50G. A volume can only grow.", show_default=False)
]

_HEADER = ("NAME", "KIND", "SIZE", "DISK", "USED BY", "DOCKER")


@takes_session
def ls(session: Session, *, json: Json = False) -> None:
    """List the volumes; with --quiet, only their names.

    DISK is the space that a volume takes on this host.
    """
    from kata_dind.sandbox.volumes import list_volumes

    volumes = list_volumes()
    if json:
        print_json([dataclasses.asdict(volume.summary()) for volume in volumes])
    elif session.quiet:
        print("".join(f"{volume.name}\n" for volume in volumes), end="")
    else:
        print_table(_HEADER, [_row(volume.summary()) for volume in volumes])


@takes_session
def inspect(session: Session, name: Name, *, json: Json = False) -> None:
    """Show everything that is known about a volume."""
    from kata_dind.sandbox.volumes import require_volume

    facts = require_volume(name).inspect()
    if json:
        print_json(facts)
    else:
        print_tree(facts)


@takes_session
def resize(session: Session, name: Name, size: Size, *, json: Json = False) -> None:
    """Grow a volume that no sandbox is using.

    Its file system grows with it: an ext4 at once, an xfs at the next start of a sandbox that uses the volume.
    """
    from kata_dind.sandbox.volumes import require_volume
    from kata_dind.spec import parse_disk_size

    volume = require_volume(name)
    volume.resize(parse_disk_size(size, field="SIZE"))
    if json:
        print_json(volume.inspect())
    elif volume.summary().filesystem == "xfs":
        print(f"{name} has its new size; its xfs grows at the next start")


@takes_session
def fsck(session: Session, name: Name, *, json: Json = False) -> None:
    """Check the file system of a volume that no sandbox is using.

    Damage that can be repaired without a decision is repaired. The answer is `clean` or `repaired`. Other damage is an
    error, and its hint is the command that repairs it.
    """
    from kata_dind.sandbox.volumes import require_volume

    outcome = require_volume(name).fsck()
    if json:
        print_json({"name": name, "outcome": outcome})
    else:
        print(outcome)


@takes_session
def rm(session: Session, names: Names) -> None:
    """Remove volumes, with everything in them.

    A volume that belongs to a sandbox, running or not, can only be removed after that sandbox.
    """
    from kata_dind.sandbox.volumes import require_volume

    volumes = [require_volume(name) for name in dict.fromkeys(names)]
    for volume in volumes:
        volume.require_unused()
    for volume in volumes:
        volume.remove()


def _row(summary: VolumeSummary) -> tuple[str, ...]:
    return (
        summary.name,
        summary.kind or "-",
        human_size(summary.size_bytes),
        human_size(summary.disk_bytes),
        ", ".join(summary.used_by) or "-",
        summary.docker_version or "-",
    )
