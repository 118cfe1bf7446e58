"""`kata-dind inspect`: everything that is known about one sandbox."""

from __future__ import annotations

from kata_dind.cli.options import DEFAULT_NAME, Json, NameOrDefault, takes_session
from kata_dind.cli.output import print_json, print_tree
from kata_dind.cli.session import Session


@takes_session
def inspect(session: Session, name: NameOrDefault = DEFAULT_NAME, *, json: Json = False) -> None:
    """Show everything that is known about a sandbox.

    That includes what was chosen for it and why, the proof of its data root, and how long each step of its start took.
    """
    facts = session.sandboxes.require_sandbox(name).inspect()
    if json:
        print_json(facts)
    else:
        print_tree(facts)
