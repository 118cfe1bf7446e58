"""`kata-dind env`: the variables that a shell needs to use a sandbox's Docker daemon."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options import DEFAULT_NAME, Json, NameOrDefault, option, takes_session
from kata_dind.cli.output import print_json
from kata_dind.cli.session import Session
from kata_dind.errors import GuestNotReady, SpecError


class Shell(StrEnum):
    """A shell that we can write exports for."""

    BASH = "bash"
    ZSH = "zsh"
    SH = "sh"
    FISH = "fish"


ShellOption = Annotated[
    str,
    option(
        "--shell",
        variable="ENV_SHELL",
        metavar="|".join(Shell),
        autocompletion=completion.words(Shell),
        help_text="The shell that the commands are for.",
    ),
]


@takes_session
def env(
    session: Session, name: NameOrDefault = DEFAULT_NAME, *, shell: ShellOption = Shell.BASH, json: Json = False
) -> None:
    """Print shell commands that point Docker at a sandbox.

    Use it like this: eval "$(kata-dind env NAME)"
    """
    if shell not in set(Shell):
        raise SpecError(f"--shell: {shell!r} is unknown; use {', '.join(Shell)}", id="spec.wrong-value")
    sandbox = session.sandboxes.require_sandbox(name)
    if sandbox.state not in ("running", "unknown"):
        raise GuestNotReady(
            f"the sandbox {name!r} is {sandbox.state}", id="sandbox.not-running", hint=f"kata-dind start {name}"
        )
    variables = sandbox.environment()
    if json:
        print_json(variables)
    else:
        print(exports(variables, shell=Shell(shell)))


def exports(variables: Mapping[str, str], *, shell: Shell) -> str:
    """Write variables as exports, a line each, quoted for the shell."""
    if shell is Shell.FISH:
        return "\n".join(f"set -gx {name} {_fish_quoted(value)};" for name, value in variables.items())
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
