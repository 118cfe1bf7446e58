"""The guest entrypoint's report about its data root, read with the distrust that a guest deserves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXIT_BAD_INPUT = 64
"""The entrypoint's exit code when a value that it was given is wrong."""

EXIT_NO_DATA_ROOT = 78
"""The entrypoint's exit code when it finds no working data root; any other code is that of the command that it ran."""

_LONGEST = 4096
_MOST_STEPS = 32


def parse_status(spoken: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields of the entrypoint's status with the right types; a value that is absent or odd is empty.

    kind, path, filesystem, device, storage_driver: text; size_bytes: whole number; direct_io: bool, None where it means
    nothing; proof: each step's outcome (passed, failed, untested); reasons: why a kind was not taken.
    """
    size_bytes, direct_io = spoken.get("size_bytes"), spoken.get("direct_io")
    return {
        **{key: _text(spoken.get(key)) for key in ("kind", "path", "filesystem", "device", "storage_driver")},
        "size_bytes": size_bytes if type(size_bytes) is int and size_bytes >= 0 else 0,
        "direct_io": direct_io if isinstance(direct_io, bool) else None,
        **{key: _texts(spoken.get(key)) for key in ("proof", "reasons")},
    }


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {_text(key): _text(text) for key, text in list(value.items())[:_MOST_STEPS]}
