"""What the guest entrypoint reports of its data root, read with the distrust that a guest deserves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXIT_BAD_INPUT = 64
"""The entrypoint's exit code when it was told something wrong."""

EXIT_NO_DATA_ROOT = 78
"""Its exit code when no working data root can be had; every other one is that of the command behind it."""

_LONGEST = 4096
_MOST_STEPS = 32


def parse_status(spoken: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields of the entrypoint's status, each of its type; what is absent or odd becomes empty.

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
