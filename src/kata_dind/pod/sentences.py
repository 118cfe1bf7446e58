"""What is said of pods: where a sentence begins and ends, and the names of others in it.

These are shown on one line, without control characters, and not all of a long one.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 100

_IN_LOWER_CASE = frozenset(("dockerd", "containerd", "buildkitd", "virtiofsd", "kata", "kubelet", "vfs", "emptyDir"))
"""Words that stay as they are at the beginning of a sentence."""

_NO_NAMES = frozenset(("A", "An", "It", "The", "What"))
"""The words with a capital that our sentences begin with, but for names."""


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


def sentence(text: str) -> str:
    """Return a text as a sentence: with a full stop, and a capital if it begins with an ordinary word."""
    text = text.strip()
    if not text:
        return ""
    first = text.partition(" ")[0].rstrip(",")
    if first.isalpha() and first.islower() and first not in _IN_LOWER_CASE:
        text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?:" else f"{text}."


def lowered(text: str) -> str:
    """Return a sentence for the place behind other words: its first word loses its capital unless it is a name."""
    first = text.partition(" ")[0]
    return text[0].lower() + text[1:] if first in _NO_NAMES else text
