"""`kata-dind exec`: run a command inside a sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from kata_dind.cli.options import Name, option, takes_session
from kata_dind.cli.passthrough import Guest, Variables, after_dashes, attach, parse_variables
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError

Arguments = Annotated[list[str] | None, typer.Argument(metavar="-- CMD...", help="The command and its arguments.")]
Workdir = Annotated[
    str,
    option(
        "--workdir",
        "-w",
        variable="EXEC_WORKDIR",
        metavar="DIR",
        show_default="the image's own",
        help_text="The directory to run the command in.",
    ),
]


@takes_session
def exec_(
    session: Session,
    name: Name,
    arguments: Arguments = None,
    *,
    guest: Guest = False,
    variables: Variables = None,
    workdir: Workdir = "",
) -> None:
    """Run a command inside a sandbox: exec NAME -- ls /.

    The command runs in the container that dockerd runs in, with your stdin, stdout and stderr, and kata-dind exits with
    its exit code.
    """
    words = after_dashes(arguments)
    if not words:
        raise SpecError(
            f"CMD: it is missing; say what to run, like kata-dind exec {name} -- ls /", id="spec.wrong-usage"
        )
    environment = parse_variables(variables)
    sandbox = session.sandboxes.require_sandbox(name)
    raise typer.Exit(attach(sandbox, words, guest=guest, environment=environment, cwd=workdir))
