#!/usr/bin/env python3
"""Write docs/cli.md from the command line itself; with --check, fail when the file is stale."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from kata_dind.cli.app import PROGRAM, build_command
from kata_dind.cli.verb import OWN_TITLE, group_title, shown_default

_TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
_HEAD = f"""\
# The command line

<!-- Written by scripts/generate_cli_docs.py; change the commands in src/kata_dind/cli instead. -->

`{PROGRAM} --help` and `{PROGRAM} COMMAND --help` say the same. How options get their values from the environment and a
file is described in [configuration.md](configuration.md). `{PROGRAM} --install-completion` lets your shell complete
commands, options, sandboxes and images.

Answers go to stdout; progress, warnings and errors to stderr. With `--json`, an error is one JSON object on stderr,
with the fields `error`, `summary`, `details`, `hint` and `exit_code`.

| exit code | means |
|---|---|
| 0 | done |
| 1 | a bug, or a tool that failed |
| 2 | what was asked is wrong; nothing was created |
| 3 | this host can't: a tool, a permission or KVM is missing |
| 4 | the sandbox failed |
| 5 | no usable data root |
| 6 | a backend's own service failed |
| 7 | an image, a guest OS or a kernel could not be built, pulled or read |
| 129, 130, 143 | ended by HUP, Ctrl-C, TERM |

`run`, `docker`, `exec` and `shell` exit as the command that they run.
"""


def main(argv: list[str]) -> int:
    text = _HEAD + "\n" + "\n".join(_sections())
    if argv == ["--check"]:
        if _TARGET.is_file() and _TARGET.read_text() == text:
            return 0
        print(f"{_TARGET} is stale: run {Path(__file__).name}", file=sys.stderr)
        return 1
    _TARGET.parent.mkdir(exist_ok=True)
    _TARGET.write_text(text)
    return 0


def _sections() -> Iterator[str]:
    for words, command in _commands(build_command(), PROGRAM):
        yield f"## {words}\n"
        yield f"    {words} {' '.join(_usage(command))}\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        if arguments := [argument for argument in _arguments(command) if argument.help]:
            yield "| argument | |\n|---|---|"
            yield "\n".join(f"| {_code(str(argument.metavar))} | {argument.help} |" for argument in arguments) + "\n"
        groups = _groups(command)
        for title, options in groups.items():
            if len(groups) > 1:
                yield f"{title}:\n"
            yield "| option | | default | environment |\n|---|---|---|---|"
            yield "\n".join(_option_row(option) for option in options) + "\n"


def _commands(group: TyperGroup, words: str) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{words} {name}")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{words} {name}", command


def _usage(command: TyperCommand) -> list[str]:
    names = [(str(argument.metavar), argument.required) for argument in _arguments(command)]
    return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]


def _arguments(command: TyperCommand) -> list[TyperArgument]:
    return [parameter for parameter in command.params if isinstance(parameter, TyperArgument)]


def _groups(command: TyperCommand) -> dict[str, list[TyperOption]]:
    """Return the visible options by the title of their group; the command's own come first, as in the help."""
    groups: dict[str, list[TyperOption]] = {OWN_TITLE: []}
    for parameter in command.params:
        if isinstance(parameter, TyperOption) and not parameter.hidden:
            groups.setdefault(group_title(parameter), []).append(parameter)
    return groups


def _option_row(option: TyperOption) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    shown = names if option.is_flag else f"{names} {option.metavar}"
    return f"| {_code(shown)} | {option.help} | {_default(option)} | {_code(str(option.envvar))} |"


def _default(option: TyperOption) -> str:
    """Return a value as code, and a description in words as it is."""
    default = shown_default(option)
    return default if " " in default else _code(default) if default else ""


def _code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
