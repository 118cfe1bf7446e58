"""The options of every command, and the names that most commands take."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from kata_dind.cli import completion
from kata_dind.cli.options.declare import flag
from kata_dind.cli.session import session_of

DEFAULT_NAME = "default"
TITLE = "Options of every command"


def _remember_json(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).json = value
    return value


def _remember_quiet(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).quiet = value
    return value


def _remember_verbose(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).verbose = value
        if value:
            logging.getLogger("kata_dind").setLevel(logging.DEBUG)
    return value


# Eager, so that an error in another option is reported in the way that was asked for.
Json = Annotated[
    bool,
    flag(
        "--json",
        variable="JSON",
        help_text="Print the answer, and errors, as JSON.",
        is_eager=True,
        callback=_remember_json,
    ),
]
Quiet = Annotated[
    bool,
    flag(
        "--quiet",
        "-q",
        variable="QUIET",
        help_text="Print only the answer, and no progress.",
        is_eager=True,
        callback=_remember_quiet,
    ),
]
Verbose = Annotated[
    bool,
    flag(
        "--verbose",
        "-v",
        variable="VERBOSE",
        help_text="Show each step, and each program that is run.",
        is_eager=True,
        callback=_remember_verbose,
    ),
]

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.sandbox_names)]
NameOrDefault = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        autocompletion=completion.sandbox_names,
        help=f"The name of the sandbox; {DEFAULT_NAME!r} if none is given.",
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=completion.sandbox_names)]
