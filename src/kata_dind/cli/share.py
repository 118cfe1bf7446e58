"""`kata-dind share`: files of this host that a sandbox sees, added and taken away while it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from kata_dind.cli import completion
from kata_dind.cli.options import Json, Name, takes_session
from kata_dind.cli.options.declare import flag
from kata_dind.cli.output import print_json, print_table, progress
from kata_dind.cli.request import parsed_share
from kata_dind.cli.session import Session

Shares = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH[:GUEST][:ro]...",
        help="A directory or a file of this host, and where the sandbox sees it; without GUEST under the same path.",
    ),
]
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="GUEST...",
        autocompletion=completion.share_paths,
        help="The shares' paths in the sandbox.",
    ),
]

Off = Annotated[bool, flag("--off", variable="SHARE_WATCH_OFF", help_text="Let them see it no longer.")]

_HEADER = ("HOST", "GUEST", "MODE", "EXISTS")


@takes_session
def add(session: Session, name: Name, shares: Shares, *, json: Json = False) -> None:
    """Share files of this host with a sandbox, also while it runs, and at its later starts.

    A sandbox that runs and was started without any share is saved and resumed for its first one. Its containers
    continue to run, and connections to it are closed.
    """
    from kata_dind.sandbox.sharing import add_share, list_shares

    parsed = [parsed_share(share) for share in shares]
    session.sandboxes.require_sandbox(name)
    with progress(session) as shown:
        for share in parsed:
            add_share(name, share, report=shown.report)
    if json:
        print_json(list_shares(name))


@takes_session
def rm(session: Session, name: Name, paths: Paths, *, json: Json = False) -> None:
    """Take shares away from a sandbox.

    A share that a running container has mounted can only be removed when that container has ended.
    """
    from kata_dind.sandbox.sharing import list_shares, remove_share

    session.sandboxes.require_sandbox(name)
    for path in dict.fromkeys(paths):
        remove_share(name, str(parsed_share(path).guest_path))
    if json:
        print_json(list_shares(name))


@takes_session
def watch(session: Session, name: Name, *, off: Off = False, json: Json = False) -> None:
    """Let programs in containers that watch shared files see what this host changes in them, as `up --watch` does.

    This holds from now on, and at the sandbox's later starts.
    """
    from kata_dind.sandbox.sharing import watch_shares

    sandbox = session.sandboxes.require_sandbox(name)
    watch_shares(name, on=not off)
    if json:
        print_json(sandbox.inspect())


@takes_session
def ls(session: Session, name: Name, *, json: Json = False) -> None:
    """List the files of this host that a sandbox sees; with --quiet, only their paths in the sandbox."""
    from kata_dind.sandbox.sharing import list_shares

    session.sandboxes.require_sandbox(name)
    shares = list_shares(name)
    if json:
        print_json(shares)
    elif session.quiet:
        print("".join(f"{share['guest_path']}\n" for share in shares), end="")
    else:
        rows = [
            (share["host_path"], share["guest_path"], "ro" if share["read_only"] else "rw",
             "yes" if share["exists"] else "no")
            for share in shares
        ]  # fmt: skip
        print_table(_HEADER, rows)
