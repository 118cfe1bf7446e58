"""Settings in TOML files of which later ones overrule earlier ones, and the line in which each stands. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*(\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)\s*=")
_PART = re.compile(r"\s*(\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)\s*(?:\.|$)")

Table = tuple[str, ...]


class Setting(NamedTuple):
    """A setting: its value, and where it stands."""

    value: Any
    place: str
    """`FILE:LINE`; the file alone where it isn't written as a line of its own."""


@dataclass(frozen=True)
class TomlFile:
    """A file, which may be damaged: then it has no settings."""

    path: Path
    text: str

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Its settings."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def is_damaged(self) -> bool:
        """Whether it is not TOML."""
        return bool(self.text.strip()) and not self.values

    def line_of(self, table: Table, key: str = "") -> int:
        """Return the line in which a key of a table stands, or the table's own without a key; 0 for none."""
        inside: Table = ()
        for number, line in enumerate(self.text.splitlines(), start=1):
            if header := _HEADER.match(line):
                inside = parse_name(header[1])
                if not key and inside == table:
                    return number
            elif key and inside == table and (found := _KEY.match(line)) and found[1].strip("\"'") == key:
                return number
        return 0

    def place(self, table: Table, key: str = "") -> str:
        """Return where a setting stands, or would stand."""
        line = self.line_of(table, key) or self.line_of(table)
        return f"{self.path}:{line}" if line else str(self.path)


def parse_name(text: str) -> Table:
    """Return the parts of a table's name: `plugins."io.containerd.grpc.v1.cri".cni` has three."""
    return tuple(part.strip("\"'") for part in _PART.findall(text))


def table_of(values: Mapping[str, Any], table: Table) -> Mapping[str, Any]:
    """Return a table's settings; empty where there is none."""
    found: Any = values
    for name in table:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def find_setting(files: Sequence[TomlFile], table: Table, key: str) -> Setting | None:
    """Return a setting as the last of some files has it; None where none has it."""
    for file in reversed(files):
        values = table_of(file.values, table)
        if key in values:
            return Setting(values[key], file.place(table, key))
    return None


def place_of(files: Sequence[TomlFile], table: Table, key: str) -> str:
    """Return where a setting stands, or where its line is to be added: in the last file that has its table."""
    if found := find_setting(files, table, key):
        return found.place
    having = [file for file in files if table_of(file.values, table)]
    chosen = having[-1] if having else next(iter(files), None)
    return chosen.place(table) if chosen else ""
