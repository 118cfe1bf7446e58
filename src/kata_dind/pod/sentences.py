"""Names of others in our sentences: on one line, without control characters, and not all of a long one."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 100


def plain(text: str) -> str:
    """Return a text that a terminal and a line of a log can take."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def quoted(text: str) -> str:
    """Return a name in backquotes."""
    return f"`{plain(text)}`"


def listed(names: Sequence[str]) -> str:
    """Return the first three names in backquotes, and how many more there are."""
    shown = ", ".join(map(quoted, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
