"""`kata-dind entrypoint`: the guest entrypoint, for an image or a pod of your own."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options import takes_session
from kata_dind.cli.options.declare import option
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError
from kata_dind.vocabulary import DataRootKind

Kind = Annotated[
    str,
    option(
        "--kind",
        variable="ENTRYPOINT_KIND",
        metavar="|".join(DataRootKind),
        help_text="The kind of data root to print it for, without comments, as for a pod's manifest.",
        show_default="all kinds, with comments",
        autocompletion=completion.words([*DataRootKind]),
    ),
]


@takes_session
def entrypoint(session: Session, *, kind: Kind = "") -> None:
    """Print the guest entrypoint, a shell script.

    You can use it alone, in a pod or an image of your own.
    """
    if not kind:
        from kata_dind.image.entrypoint import entrypoint_script

        print(entrypoint_script(), end="")
    else:
        from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods

        if kind not in [*DataRootKind]:
            raise SpecError(f"--kind: {kind!r} is not one of {', '.join(DataRootKind)}", id="spec.wrong-value")
        print(entrypoint_for_pods(DataRootKind(kind)), end="")
