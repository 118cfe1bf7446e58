"""The configuration file: TOML that gives options their defaults, below the environment and the command line.

A key at the top is an option's name and applies to every command that has it (`data_root = "loop"`); a table named as a
verb applies to that verb alone (`[up]`, `[image.build]`). Unknown keys and values of the wrong type are refused.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperGroup, TyperOption

from kata_dind.errors import SpecError

Defaults = dict[str, Any]
"""Options' defaults by parameter name, in a mapping per command; click calls this a default map."""

_Options = dict[str, TyperOption]


def find_config_file() -> Path | None:
    """Return $KATA_DIND_CONFIG, or config.toml in the user's configuration directory where there is one.

    An empty $KATA_DIND_CONFIG means no file at all. Raises SpecError when the file that it names does not exist.
    """
    named = os.environ.get("KATA_DIND_CONFIG")
    if named is None:
        path = _user_config_file()
        return path if path.is_file() else None
    if named and not Path(named).is_file():
        raise SpecError(f"KATA_DIND_CONFIG: there is no file {named!r}", id="config.no-file")
    return Path(named) if named else None


def read_defaults(path: Path, *, command: TyperGroup) -> Defaults:
    """Read a configuration file for a command tree. Raises SpecError, which names the file and the key."""
    content = _load(path)
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    options = {key: value for key, value in content.items() if key not in tables}
    defaults = _defaults_for_all(options, command=command, path=path)
    for key, table in tables.items():
        _add_table(
            table, key=key, command=_require_command(command, key, key=key, path=path), defaults=defaults, path=path
        )
    return defaults


def option_key(option: TyperOption) -> str:
    """Return the key under which an option stands in a verb's table: `data_root` for `--data-root`; empty for none."""
    return next((name[2:].replace("-", "_") for name in option.opts if name.startswith("--")), "")


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: it cannot be read: {error.strerror}", id="config.unreadable") from error
    except ValueError as error:  # tomllib's, and UTF-8's
        raise SpecError(f"{path}: it is not TOML: {error}", id="config.not-toml") from error


def _defaults_for_all(content: Mapping[str, Any], *, command: TyperGroup, path: Path) -> Defaults:
    defaults: Defaults = {}
    known = _options_by_variable(command)
    for key, value in content.items():
        variable = _variable(key)
        if variable not in known:
            raise SpecError(
                f"{path}: {key}: {_unknown('option or command', key, [_key(name) for name in known])}",
                id="config.unknown-key",
            )
        for verbs, option in known[variable]:
            table = defaults
            for verb in verbs:
                table = table.setdefault(verb, {})
            table[option.name] = _checked(value, option, key=key, path=path)
    return defaults


def _add_table(table: Mapping[str, Any], *, key: str, command: Any, defaults: Defaults, path: Path) -> None:
    """Add a verb's table to the defaults, and the tables in it."""
    of_verb = defaults.setdefault(command.name, {})
    options = _options(command)
    for name, value in table.items():
        full_key = f"{key}.{name}"
        if isinstance(value, dict):
            inner = _require_command(command, name, key=full_key, path=path)
            _add_table(value, key=full_key, command=inner, defaults=of_verb, path=path)
        elif (plain := name.replace("-", "_")) not in options:
            raise SpecError(f"{path}: {full_key}: {_unknown('option', name, list(options))}", id="config.unknown-key")
        else:
            of_verb[options[plain].name] = _checked(value, options[plain], key=full_key, path=path)


def _require_command(parent: Any, name: str, *, key: str, path: Path) -> Any:
    commands = parent.commands if isinstance(parent, TyperGroup) else {}
    command = commands.get(_dashed(name))
    if command is None:
        known = [_underscored(known) for known in commands]
        raise SpecError(f"{path}: {key}: {_unknown('command', name, known)}", id="config.unknown-key")
    return command


def _checked(value: Any, option: TyperOption, *, key: str, path: Path) -> Any:
    """Return a value for an option as it is. Raises SpecError when TOML's type is not the option's."""
    wanted, fits = _expectation(option, value)
    if not fits:
        raise SpecError(f"{path}: {key}: {value!r} is not allowed; use {wanted}", id="config.wrong-type")
    return value


def _expectation(option: TyperOption, value: Any) -> tuple[str, bool]:
    annotation = option.type_descriptor.annotation
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.is_flag:
        return "true or false", isinstance(value, bool)
    if option.multiple:
        return "a list of strings", isinstance(value, list) and all(isinstance(item, str) for item in value)
    if annotation is int:
        return "a whole number", is_number and isinstance(value, int)
    if annotation is float:
        return "a number", is_number
    return 'a string, in quotes, like "20G"' if is_number else "a string", isinstance(value, str)


def _options_by_variable(command: TyperGroup) -> dict[str, list[tuple[tuple[str, ...], TyperOption]]]:
    found: dict[str, list[tuple[tuple[str, ...], TyperOption]]] = {}
    for verbs, options in _all_options(command):
        for option in options.values():
            if isinstance(option.envvar, str):
                found.setdefault(option.envvar, []).append((verbs, option))
    return found


def _all_options(command: Any, verbs: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], _Options]]:
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _all_options(inner, (*verbs, name))
    else:
        yield verbs, _options(command)


def _options(command: Any) -> _Options:
    options = (parameter for parameter in command.params if isinstance(parameter, TyperOption))
    return {key: option for option in options if option.envvar and (key := option_key(option))}


def _unknown(what: str, key: str, known: list[str]) -> str:
    close = get_close_matches(key.replace("-", "_"), known)
    if close:
        return f"there is no such {what}; did you mean {' or '.join(close)}?"
    return f"there is no such {what}" + (f" (there are: {', '.join(sorted(known))})" if known else "")


def _variable(key: str) -> str:
    return f"KATA_DIND_{_underscored(key).upper()}"


def _key(variable: str) -> str:
    return variable.removeprefix("KATA_DIND_").lower()


def _underscored(key: str) -> str:
    return key.replace("-", "_")


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _user_config_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("kata-dind") / "config.toml"
