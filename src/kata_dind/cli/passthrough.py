"""What `run`, `exec`, `docker` and `shell` share: streams, terminal, variables and exit code of a command inside."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from kata_dind.cli.options import flag, option
from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from kata_dind.sandbox.api import Sandbox

Guest = Annotated[
    bool,
    flag(
        "--guest", variable="GUEST", help_text="Run it in the guest OS, and not in the container that dockerd runs in."
    ),
]
Variables = Annotated[
    list[str] | None,
    option(
        "--env",
        "-e",
        variable="ENV",
        metavar="KEY[=VALUE]",
        show_default=False,
        help_text="Set a variable inside. Without =VALUE, it gets the value that it has outside. May be repeated.",
    ),
]


def after_dashes(arguments: Sequence[str] | None) -> list[str]:
    """Return the words after NAME, without the `--` that sets them apart from our own."""
    words = list(arguments or ())
    return words[1:] if words[:1] == ["--"] else words


def parse_variables(variables: Sequence[str] | None) -> dict[str, str]:
    """Parse `KEY=VALUE`, and `KEY` for our own value, left out when we have none. Raises SpecError."""
    parsed = {}
    for variable in variables or ():
        key, equals, value = variable.partition("=")
        if not key or not key.isprintable() or " " in key:
            raise SpecError(f"--env: {variable!r} is not a variable; use KEY=VALUE or KEY", id="spec.wrong-value")
        if equals:
            parsed[key] = value
        elif key in os.environ:
            parsed[key] = os.environ[key]
    return parsed


def has_terminal() -> bool:
    """Tell whether a command gets a terminal: when both our stdin and stdout are one."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def attach(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    guest: bool = False,
    environment: Mapping[str, str] | None = None,
    cwd: str = "",
) -> int:
    """Run a command inside a sandbox with our streams; return its exit code."""
    tty = has_terminal()
    terminal = {"TERM": os.environ["TERM"]} if tty and "TERM" in os.environ else {}
    return sandbox.attach(
        list(argv),
        where="guest" if guest else "container",
        tty=tty,
        environment={**terminal, **(environment or {})},
        cwd=cwd,
    )
