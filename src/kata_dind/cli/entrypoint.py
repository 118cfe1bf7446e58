"""`kata-dind entrypoint`: the guest entrypoint, for an image or a pod of your own."""

from __future__ import annotations

from kata_dind.cli.options import takes_session
from kata_dind.cli.session import Session


@takes_session
def entrypoint(session: Session) -> None:
    """Print the guest entrypoint, a shell script.

    You can use it alone, in a pod or an image of your own.
    """
    from kata_dind.image.entrypoint import entrypoint_script

    print(entrypoint_script(), end="")
