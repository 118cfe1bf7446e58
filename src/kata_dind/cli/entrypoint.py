"""`kata-dind entrypoint`: the guest entrypoint, for an image or a pod of your own."""

from __future__ import annotations

from typing import Annotated

import typer

from kata_dind.cli.options import takes_session
from kata_dind.cli.session import Session
from kata_dind.vocabulary import DataRootKind

Kind = Annotated[
    DataRootKind | None,
    typer.Option(
        "--kind",
        help="Print it for this kind of data root alone, without comments: at most 24 KiB, for a pod's manifest.",
        show_default="all kinds, with comments",
    ),
]


@takes_session
def entrypoint(session: Session, *, kind: Kind = None) -> None:
    """Print the guest entrypoint, a shell script.

    You can use it alone, in a pod or an image of your own.
    """
    if kind is None:
        from kata_dind.image.entrypoint import entrypoint_script

        print(entrypoint_script(), end="")
    else:
        from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods

        print(entrypoint_for_pods(kind), end="")
