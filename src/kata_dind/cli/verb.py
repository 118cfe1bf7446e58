"""The commands' own classes: help as people write it, and flags that are read quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer import TyperException
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from kata_dind.cli.options.groups import own_title
from kata_dind.vocabulary import BACKEND_MODULES

if TYPE_CHECKING:  # typer has no public names for these
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

OWN_TITLE = "Options"
"""The title of the options that belong to no group: those of the command itself, and those of every command."""

_WORDS = "kata_dind.words"
"""Where a context keeps the command's words: help is asked for before any option has its value."""


class Verb(TyperCommand):
    """A command."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Return the parameters, ready to be read quickly."""
        return _quickly_read(super().get_params(ctx))

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the words; an error of the parser gets the command as its context."""
        ctx.meta[_WORDS] = list(args)
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # an option without its value: typer leaves it out
            raise

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Name the arguments as their metavars do, in brackets when they may be left out."""
        names = [(str(argument.metavar), argument.required) for argument in self._arguments()]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments that have a help text, without Python's types, and the options, group by group.

        If a backend is given in any of the ways to give an option, the options of other backends are left out.
        """
        arguments = [(str(argument.metavar), argument.help) for argument in self._arguments()]
        sections: dict[str, list[tuple[str, str | None]]] = {"Arguments": arguments, OWN_TITLE: []}
        for option in self.get_params(ctx):
            if isinstance(option, TyperOption) and (row := _help_row(option, ctx)):
                sections.setdefault(group_title(option), []).append(row)
        backend = self._backend(ctx)
        others = {own_title(other) for other in BACKEND_MODULES if backend and other != backend}
        for title, rows in sections.items():
            if (shown := [(names, said) for names, said in rows if said]) and title not in others:
                with formatter.section(title):
                    formatter.write_dl(shown)

    def _backend(self, ctx: Context) -> str:
        """Return the backend that was given; empty without one, or for one that this installation lacks."""
        option = next((parameter for parameter in self.params if parameter.name == "backend"), None)
        if option is None:
            return ""
        given, _, _ = self.make_parser(ctx).parse_args(list(ctx.meta.get(_WORDS, ())))
        value, _ = option.consume_value(ctx, given)
        return value if value in BACKEND_MODULES else ""

    def _arguments(self) -> list[TyperArgument]:
        return [parameter for parameter in self.params if isinstance(parameter, TyperArgument)]


class Verbs(TyperGroup):
    """A command that has commands."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Return the parameters, ready to be read quickly."""
        return _quickly_read(super().get_params(ctx))


def _quickly_read(parameters: list[Parameter]) -> list[Parameter]:
    """Spare typer the import of pydantic (0.1 s), which it needs for flags with a default other than true or false."""
    for parameter in parameters:
        # A flag with an opposite has three answers: yes, no, and not given.
        if isinstance(parameter, TyperOption) and parameter.is_flag and not parameter.secondary_opts:
            parameter.default = bool(parameter.default)
    return parameters


def group_title(option: TyperOption) -> str:
    """Return the title of the group that an option belongs to."""
    return option.rich_help_panel or OWN_TITLE


def shown_default(option: TyperOption, configured: object = None) -> str:
    """Return the text for an option's default; `configured` is the value that a configuration file gives it."""
    value = configured
    if value is None:
        value = option.show_default if isinstance(option.show_default, str) else option.show_default and option.default
    if isinstance(value, bool):
        return next(iter(option.opts if value else option.secondary_opts), "")
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _help_row(option: TyperOption, ctx: Context) -> tuple[str, str] | None:
    row = option.get_help_record(ctx)
    if row is None:
        return None
    default = shown_default(option, ctx.lookup_default(option.name))
    return row[0], f"{option.help or ''}  [default: {default}]" if default else option.help or ""
