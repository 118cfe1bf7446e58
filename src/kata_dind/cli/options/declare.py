"""How options are declared: their names, their help, and the default that the help shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import typer

from kata_dind.cli import completion
from kata_dind.errors import SpecError


def option(*names: str, variable: str, help_text: str, **more: Any) -> Any:
    """Declare an option. Its help does not show the variable: the help of `kata-dind` states the rule for all."""
    return typer.Option(*names, envvar=f"KATA_DIND_{variable}", help=help_text, show_envvar=False, **more)


def flag(*names: str, variable: str, help_text: str, **more: Any) -> Any:
    """Declare an option without a value."""
    return option(*names, variable=variable, help_text=help_text, **{"show_default": False, **more})


def require_word(name: str, word: str, allowed: Iterable[str]) -> None:
    """Raise SpecError for a word that an option, which no spec reads, does not take."""
    if word not in [*allowed]:
        raise SpecError(f"{name}: {word!r} is not one of {', '.join(allowed)}", id="spec.wrong-value")


def whole_number(value: Any) -> int:
    """Parse an option's whole number, above zero."""
    number = int(text) if (text := str(value)).isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 1:
        raise ValueError(f"{text!r} is not a whole number above zero")
    return number


def seconds(value: Any) -> float:
    """Parse an option's number of seconds, above zero."""
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{str(value)!r} is not a number of seconds above zero")
    return number


@dataclass(frozen=True)
class Declared:
    """An option that belongs to a group: its type, and how typer is to read it. Without a given value it is absent."""

    kind: Any
    info: Any
    of_one_start: bool = False
    """Whether the option describes one start, and not the machine that is started."""


def word(
    name: str, metavar: str, help_text: str, *, default: str = "", of_one_start: bool = False, **more: Any
) -> Declared:
    """Declare an option with a value; `default` is the text that the help shows for a value that is not given."""
    info = option(
        name, variable=_variable(name), metavar=metavar, help_text=help_text, show_default=default or False, **more
    )
    return Declared(str | None, info, of_one_start)


def number(name: str, metavar: str, help_text: str, *, default: str) -> Declared:
    """Declare an option whose value is a whole number."""
    return Declared(int | None, word(name, metavar, help_text, default=default, parser=whole_number).info)


def duration(name: str, help_text: str, *, default: str) -> Declared:
    """Declare an option whose value is a number of seconds."""
    return Declared(float | None, word(name, "SECONDS", help_text, default=default, parser=seconds).info)


def choice(name: str, allowed: Iterable[str], help_text: str, *, default: str) -> Declared:
    """Declare an option whose value is a word of a closed set."""
    words = [str(each) for each in allowed]
    return word(name, "|".join(words), help_text, default=default, autocompletion=completion.words(words))


def several(name: str, metavar: str, help_text: str, *, of_one_start: bool = False) -> Declared:
    """Declare an option that may be repeated."""
    return Declared(list[str] | None, word(name, metavar, help_text).info, of_one_start)


def switch(name: str, help_text: str, *, default: bool, of_one_start: bool = False) -> Declared:
    """Declare a flag `--name` with its opposite, `--no-name`; neither need be given."""
    opposite = name.replace("--", "--no-", 1)
    shown = name if default else opposite
    info = flag(f"{name}/{opposite}", variable=_variable(name), help_text=help_text, show_default=shown)
    return Declared(bool | None, info, of_one_start)


def _variable(name: str) -> str:
    return name.removeprefix("--").replace("-", "_").upper()
