"""The decorators that give a command the options that it shares with others."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from kata_dind.cli.options.declare import Declared
from kata_dind.cli.options.general import Quiet, Verbose
from kata_dind.cli.options.groups import Group, machine_groups, package_groups, sandbox_groups
from kata_dind.cli.session import session_of

Command = Callable[..., None]


def takes_session(command: Command) -> Command:
    """Give a command `--quiet` and `--verbose`, and the invocation's Session as its first argument."""
    own = _signature(command, without="session")
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    def wrapper(context: typer.Context, **arguments: Any) -> None:
        session = session_of(context)
        session.context = context
        command(session, **{name: value for name, value in arguments.items() if name not in {"quiet", "verbose"}})

    added = [_keyword("quiet", Quiet, default=False), _keyword("verbose", Verbose, default=False)]
    return _with_parameters(wrapper, command, [context, *own, *added])


def takes_sandbox_options(command: Command) -> Command:
    """Give a command the options that describe a sandbox; those that were given arrive as `fields` of a SandboxSpec."""
    return _takes(command, sandbox_groups(), argument="fields")


def takes_machine_options(command: Command) -> Command:
    """Give a command, as `fields`, the options that describe a machine, without those of a single start."""
    return _takes(command, machine_groups(), argument="fields")


def takes_package_options(command: Command) -> Command:
    """Give a command the options that say where packages come from; those that were given arrive as `packages`."""
    return _takes(command, package_groups(), argument="packages")


def _takes(command: Command, groups: Mapping[str, Group], *, argument: str) -> Command:
    own = _signature(command, without=argument)
    added = [
        _keyword(name, _annotation(declared, title), default=None)
        for title, group in groups.items()
        for name, declared in group.items()
    ]

    def wrapper(*positional: Any, **arguments: Any) -> None:
        values = {parameter.name: arguments.pop(parameter.name) for parameter in added}
        given = {name: value for name, value in values.items() if value is not None}
        command(*positional, **arguments, **{argument: given})

    return _with_parameters(wrapper, command, [*own, *added])


def _annotation(declared: Declared, title: str) -> Any:
    info = copy.copy(declared.info)
    info.rich_help_panel = title
    return Annotated[declared.kind, info]


def _keyword(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _signature(command: Command, *, without: str) -> list[inspect.Parameter]:
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.name != without]


def _with_parameters(wrapper: Command, command: Command, parameters: list[inspect.Parameter]) -> Command:
    """Name a wrapper as the command, and let typer see these parameters."""
    functools.update_wrapper(wrapper, command)
    del wrapper.__wrapped__  # type: ignore[attr-defined]  # else typer would look through to the command's own
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
