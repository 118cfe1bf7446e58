"""`kata-dind docker`: the Docker CLI inside the guest, so that none is needed on the host."""

from __future__ import annotations

from typing import Annotated

import typer

from kata_dind.cli import hello
from kata_dind.cli.options import Name, takes_session
from kata_dind.cli.passthrough import after_dashes, attach
from kata_dind.cli.session import Session

Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="-- ARGS...", help="The arguments for the docker command.")
]


@takes_session
def docker(session: Session, name: Name, arguments: Arguments = None) -> None:
    """Run the Docker CLI inside a sandbox: docker NAME -- ps -a.

    Paths mean files inside the sandbox. The command has your stdin, stdout and stderr, and kata-dind exits with its
    exit code.
    """
    sandbox = session.sandboxes.require_sandbox(name)
    words = after_dashes(arguments)
    if any(hello.is_hello(word) for word in words):
        hello.load(sandbox)
    raise typer.Exit(attach(sandbox, ["docker", *words]))
