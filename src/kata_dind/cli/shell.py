"""`kata-dind shell`: an interactive shell inside a sandbox."""

from __future__ import annotations

import typer

from kata_dind.cli.options import DEFAULT_NAME, NameOrDefault, takes_session
from kata_dind.cli.passthrough import Guest, attach
from kata_dind.cli.session import Session

_LOGIN_SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash -l; exec sh -l")


@takes_session
def shell(session: Session, name: NameOrDefault = DEFAULT_NAME, *, guest: Guest = False) -> None:
    """Open a shell inside a sandbox.

    It runs in the container that dockerd runs in.
    """
    raise typer.Exit(attach(session.sandboxes.require_sandbox(name), _LOGIN_SHELL, guest=guest))
