"""Doing the steps of a plan, as root or through sudo, which may ask for a password on the terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from kata_dind.errors import CommandFailed, CommandTimedOut, HostError, PermissionMissing
from kata_dind.host.process import find_tool, run_in_foreground
from kata_dind.progress import Event, Report
from kata_dind.setup.plan import Command, Step


def perform(steps: Sequence[Step], *, as_root: bool, report: Report) -> None:
    """Do the steps that are needed and have commands, in their order.

    Raises HostError with the command that failed and its last lines; PermissionMissing without sudo.
    """
    for step in steps:
        if not (step.needed and step.commands):
            continue
        if not as_root and find_tool("sudo") is None:
            lines = "\n".join(command.as_shell(as_root=True) for command in step.commands)
            raise PermissionMissing(
                f"{step.name}: this needs root, and sudo is not installed",
                id="setup.sudo-missing",
                details=f"run as root:\n{lines}",
            )
        report(Event("notice", f"{step.name}: {step.what}"))  # a line that moves would hide sudo's question
        for command in step.commands:
            _run(command, step=step, as_root=as_root)


def _run(command: Command, *, step: Step, as_root: bool) -> None:
    argv = command.argv if as_root else ("sudo", *command.argv)
    with tempfile.TemporaryFile() as stdin:
        stdin.write(command.stdin.encode())
        stdin.seek(0)
        try:
            run_in_foreground(argv, stdin=stdin, timeout_seconds=command.timeout_seconds)
        except (CommandFailed, CommandTimedOut) as error:
            raise HostError(
                f"{step.name}: it was not possible to {step.what}: {error.summary}",
                id="setup.command-failed",
                details=error.details,
            ) from error
