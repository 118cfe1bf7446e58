"""`kata-dind image`: make, fetch, list and remove dind images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kata_dind.cli import completion
from kata_dind.cli.options import Json, flag, takes_package_options, takes_session
from kata_dind.cli.output import human_size, print_json, print_table, progress
from kata_dind.cli.request import package_source
from kata_dind.cli.session import Session
from kata_dind.errors import ImageError, SpecError

if TYPE_CHECKING:
    from kata_dind.image.store import DindImage

References = Annotated[list[str], typer.Argument(metavar="IMAGE...", autocompletion=completion.image_references)]
Remote = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE",
        show_default=False,
        help="The image, such as docker:28-dind; also oci:DIR[:TAG] and docker-archive:FILE.",
    ),
]
Insecure = Annotated[
    bool,
    flag(
        "--insecure",
        variable="PULL_INSECURE",
        help_text="Accept a registry without TLS, or with a certificate that can't be verified.",
    ),
]


@takes_session
@takes_package_options
def build(session: Session, *, json: Json = False, packages: dict[str, Any]) -> None:
    """Build a dind image from a distribution's packages."""
    from kata_dind.image.dind import build_dind_image

    with progress(session) as shown:
        image = build_dind_image(package_source(packages), report=shown.report)
    _print_made(session, image)


@takes_session
def pull(session: Session, reference: Remote, *, insecure: Insecure = False, json: Json = False) -> None:
    """Fetch a dind image from a registry or an archive."""
    from kata_dind.image.oci import pull_image

    with progress(session) as shown:
        image = pull_image(reference, insecure=insecure, report=shown.report)
    _print_made(session, image)


@takes_session
def ls(session: Session, *, json: Json = False) -> None:
    """List the dind images; with --quiet, only their references."""
    from kata_dind.image.store import list_images

    images = list_images()
    if json:
        print_json([dataclasses.asdict(image) for image in images])
    elif session.quiet:
        print("".join(f"{image.reference or image.image_id}\n" for image in images), end="")
    else:
        print_table(("IMAGE", "ID", "DOCKER", "SIZE", "CREATED", "FROM"), [_row(image) for image in images])


@takes_session
def rm(session: Session, references: References) -> None:
    """Remove dind images."""
    from kata_dind.image.store import remove_image, require_image
    from kata_dind.sandbox.api import sandboxes_with_image

    wanted = list(dict.fromkeys(references))
    for reference in wanted:
        try:
            image = require_image(reference)
        except ImageError as error:
            raise SpecError(f"IMAGE: {error.summary}", id=error.id) from error
        if users := sandboxes_with_image(image.image_id):
            raise SpecError(
                f"IMAGE: {reference!r} is used by the sandbox {', '.join(users)}",
                id="image.needed",
                hint=f"kata-dind rm {' '.join(users)}",
            )
    for reference in wanted:
        remove_image(reference)


def _print_made(session: Session, image: DindImage) -> None:
    if session.json:
        print_json(dataclasses.asdict(image))
    else:
        print(image.reference)


def _row(image: DindImage) -> tuple[str, ...]:
    return (
        image.reference or "-",
        image.image_id[:12],
        image.docker_version or "-",
        human_size(image.size_bytes),
        image.created[:10],
        image.origin,
    )
