"""The guest entrypoint: one POSIX sh script, joined from its parts, always the same bytes.

Everything that hands the script out or reads it (the guest OS, `kata-dind entrypoint`, the tests) gets it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_DIRECTORY = Path(__file__).parents[1] / "guest" / "entrypoint"

PARTS = (
    "head",
    "speak",
    "parse",
    "command",
    "detect",
    "choose",
    "prepare",
    "block",
    "loop",
    "filesystem",
    "check",
    "verify",
    "settle",
    "tune",
    "report",
    "hand_over",
    "main",
)
"""In the order of the script: what it is, the functions of each step in the order of the steps, and the steps."""


def entrypoint_script() -> str:
    """Return the script that is shipped."""
    return assemble(read_parts())


def read_parts() -> dict[str, str]:
    """Return the text of each part by its name, in the script's order."""
    return {name: (_DIRECTORY / f"{name}.sh").read_text(encoding="utf-8") for name in PARTS}


def assemble(parts: Mapping[str, str]) -> str:
    """Join parts in the order that they have, with a blank line between two; no line is added, left out or changed."""
    return "\n".join(parts.values())
