"""The commands' own classes: help as people write it, and flags that are read quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer import TyperException
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:  # typer has no public names for these
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter


class Verb(TyperCommand):
    """A command."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Return the parameters, ready to be read quickly."""
        return _quickly_read(super().get_params(ctx))

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the words; a complaint knows of which command it is."""
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
        """Write the arguments that have something to say, without Python's types; and the options."""
        arguments = [(str(argument.metavar), argument.help) for argument in self._arguments() if argument.help]
        options = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx) if _is_option(parameter)]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if shown := [row for row in rows if row]:
                with formatter.section(title):
                    formatter.write_dl(shown)

    def _arguments(self) -> list[TyperArgument]:
        return [parameter for parameter in self.params if isinstance(parameter, TyperArgument)]


class Verbs(TyperGroup):
    """A command that has commands."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Return the parameters, ready to be read quickly."""
        return _quickly_read(super().get_params(ctx))


def _quickly_read(parameters: list[Parameter]) -> list[Parameter]:
    """Spare typer the import of pydantic (0.1 s), which it needs for a flag whose default is neither true nor false."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.default is None:
            parameter.default = False
    return parameters


def _is_option(parameter: Parameter) -> bool:
    return isinstance(parameter, TyperOption)
