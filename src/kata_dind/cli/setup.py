"""`kata-dind setup`: make this host ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from kata_dind.cli.options import Json, flag, takes_session
from kata_dind.cli.output import print_json, printable, progress
from kata_dind.cli.session import Session
from kata_dind.errors import HostError

if TYPE_CHECKING:
    from kata_dind.setup.plan import Step

Yes = Annotated[
    bool, flag("--yes", "-y", variable="SETUP_YES", help_text="Do everything that is missing, without asking first.")
]


@takes_session
def setup(session: Session, *, yes: Yes = False, json: Json = False) -> None:
    """Make this host ready for sandboxes.

    This installs packages, and gives an ordinary user the rights that a sandbox needs.

    It shows what is missing and each command that it would run as root, then asks. Without a terminal to ask on, it
    does nothing, and exits with 3 if something is missing. Packages are installed on Debian and Ubuntu; on other hosts
    the missing programs are listed.
    """
    from kata_dind.setup.facts import read_facts
    from kata_dind.setup.perform import perform
    from kata_dind.setup.plan import plan

    as_root = os.geteuid() == 0
    steps = plan(read_facts())
    can_do = any(step.commands for step in steps)
    if not session.json:
        _print_plan(steps, session=session, as_root=as_root)
    do = can_do and (yes or (not session.json and _agrees()))
    if do:
        with progress(session) as shown:
            perform(steps, as_root=as_root, report=shown.report)
    left = [step.name for step in (plan(read_facts()) if do else steps) if step.needed]
    if session.json:
        print_json(
            [{**step.as_fields(as_root=as_root), "done": step.needed and step.name not in left} for step in steps]
        )
    elif do and not left and not session.quiet:
        print("This host is ready.")
    if left:
        hint = "kata-dind setup --yes" if can_do and not do else ""
        raise HostError(
            f"this host is not ready for kata-dind, which needs: {', '.join(left)}", id="setup.incomplete", hint=hint
        )


def _print_plan(steps: Sequence[Step], *, session: Session, as_root: bool) -> None:
    """Print every step; with --quiet only those that are needed."""
    for step in steps:
        if session.quiet and not step.needed:
            continue
        print(printable(f"{step.name}: {'to do: ' if step.needed else 'nothing to do: '}{step.what}"))
        if step.needed:
            lines = [
                step.why,
                *("\n".join(command.as_shell(as_root=as_root) for command in step.commands).splitlines()),
            ]
            print(printable("".join(f"    {line}\n" for line in lines)), end="")
    if not session.quiet and not any(step.needed for step in steps):
        print("This host is ready.")
    sys.stdout.flush()


def _agrees() -> bool:
    """Ask on the terminal, if there is one."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print("Do this now? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
