"""Errors as the user meets them: what was wrong is named as it was given, on one border for spec and command line."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import typer
from typer.core import TyperArgument, TyperOption

from kata_dind.cli import config
from kata_dind.cli.output import printable
from kata_dind.cli.session import Session
from kata_dind.errors import KataDindError, SpecError


def usage_error(error: typer.TyperException, session: Session) -> SpecError:
    """Turn the command line parser's complaint into one line of ours."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if error.message and isinstance(parameter, TyperOption | TyperArgument):
        message = error.message.removeprefix("Value error, ").rstrip(".")
        return SpecError(f"{_given_name(parameter, context, session)}: {message}", id="spec.wrong-value")
    verbs = context.command_path.split()[1:] if context else []
    message = " ".join(error.format_message().split()).rstrip(".")
    summary = ": ".join(filter(None, [" ".join(verbs), message[:1].lower() + message[1:]]))
    return SpecError(f"{summary}; see {' '.join(['kata-dind', *verbs, '--help'])}", id="spec.wrong-usage")


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
    lines = [f"kata-dind: {fields['summary']}", fields["details"], fields["hint"] and f"hint: {fields['hint']}"]
    if session.verbose:
        lines.append(f"error id: {error.id}")
    say(json.dumps(fields) if as_json else printable("\n".join(filter(None, lines))))


def say(text: str) -> None:
    """Print on stderr, if there is anybody to read it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def _given_name(parameter: TyperOption | TyperArgument, context: Any, session: Session) -> str:
    source = context.get_parameter_source(parameter.name) if context else None
    if isinstance(parameter, TyperArgument):
        return str(parameter.metavar or parameter.name).removesuffix("...")
    # The name of the source, for its class is typer's own.
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    if source is not None and source.name == "DEFAULT_MAP":
        return f"{session.config_file}: {config.option_key(parameter)}"
    return max(parameter.opts, key=len)
