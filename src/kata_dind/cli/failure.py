"""Errors as users see them: a wrong value is named after the option, variable or file that gave it."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from kata_dind.cli import config
from kata_dind.cli.output import printable
from kata_dind.cli.session import Session
from kata_dind.errors import KataDindError, SpecError

_LOG_BEGINS = "--- "
_NOTE_BEGINS = "note: "
_LOG_LINES = 8


def usage_error(error: typer.TyperException, session: Session) -> SpecError:
    """Turn the command line parser's complaint into one line of ours."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if error.message and isinstance(parameter, TyperOption | TyperArgument):
        message = error.message.removeprefix("Value error, ").rstrip(".")
        return SpecError(f"{_given_name(parameter, context, session)}: {message}", id="spec.wrong-value")
    verbs = context.command_path.removeprefix(session.program).split() if context else []
    message = " ".join(error.format_message().split()).rstrip(".")
    summary = ": ".join(filter(None, [" ".join(verbs), message[:1].lower() + message[1:]]))
    if context and isinstance(context.command, TyperGroup) and re.fullmatch("No such command '.*'", message):
        summary += f" (there are: {', '.join(context.command.commands)})"
    return SpecError(f"{summary}; see {' '.join([session.program, *verbs, '--help'])}", id="spec.wrong-usage")


def named_as_given(error: SpecError, session: Session) -> SpecError:
    """Name an option in a SpecError as the user gave it: by its variable or its place in the configuration file."""
    option, colon, complaint = error.summary.partition(": ")
    context = session.context
    if not colon or context is None:
        return error
    for parameter in context.command.params:
        if option in parameter.opts and isinstance(parameter, TyperOption):
            summary = f"{_given_name(parameter, context, session)}: {complaint}"
            return SpecError(summary, id=error.id, details=error.details, hint=error.hint)
    return error


def print_error(error: KataDindError, session: Session, *, as_json: bool) -> None:
    """Print an error on stderr: as fields, or as summary, evidence and hint, and with --verbose its id."""
    fields = error.as_fields()
    details = fields["details"] if session.verbose else with_short_logs(fields["details"])
    lines = [f"kata-dind: {fields['summary']}", details, fields["hint"] and f"hint: {fields['hint']}"]
    if session.verbose:
        lines.append(f"error id: {error.id}")
    say(json.dumps(fields) if as_json else printable("\n".join(filter(None, lines))))


def with_short_logs(details: str) -> str:
    """Return an error's details with only the last lines of each log; in them a log begins with `--- NAME`.

    Several whole logs would push the summary off the screen.
    """
    lines, shown = details.splitlines(), list[str]()
    begins = [index for index, line in enumerate(lines) if line.startswith((_LOG_BEGINS, _NOTE_BEGINS))]
    for begin, end in itertools.pairwise([0, *begins, len(lines)]):
        section = lines[begin:end]
        surplus = len(section) - 1 - _LOG_LINES
        if section and section[0].startswith(_LOG_BEGINS) and surplus > 1:
            section = [section[0], f"({surplus} earlier lines; --verbose shows them)", *section[1 + surplus :]]
        shown += section
    return "\n".join(shown)


def say(text: str) -> None:
    """Print on stderr, unless it is closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def _given_name(parameter: TyperOption | TyperArgument, context: Any, session: Session) -> str:
    source = context.get_parameter_source(parameter.name) if context else None
    if isinstance(parameter, TyperArgument):
        return str(parameter.metavar or parameter.name).removesuffix("...")
    # The source is compared by its name, since typer does not export its class.
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{session.config_file}: {config.option_key(parameter)}"
    return max(parameter.opts, key=len)
