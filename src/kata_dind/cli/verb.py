"""How a command's help looks: usage as people write it, and arguments without Python's types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperArgument, TyperCommand

if TYPE_CHECKING:
    from typer._click.core import Context  # for types alone: typer has no public name for these two
    from typer._click.formatting import HelpFormatter


class Verb(TyperCommand):
    """A command of ours."""

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Name the arguments as their metavars do, in brackets when they may be left out."""
        names = [(str(argument.metavar), argument.required) for argument in self._arguments()]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments that have something to say, and the options."""
        arguments = [(str(argument.metavar), argument.help) for argument in self._arguments() if argument.help]
        records: list[Any] = [option.get_help_record(ctx) for option in self.get_params(ctx)]
        kinds = [parameter.param_type_name for parameter in self.get_params(ctx)]
        options = [record for kind, record in zip(kinds, records, strict=True) if kind == "option" and record]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _arguments(self) -> list[TyperArgument]:
        return [parameter for parameter in self.params if isinstance(parameter, TyperArgument)]
