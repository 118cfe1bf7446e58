"""docs/containerd.md quotes what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kata_dind

_PAGE = Path(__file__).parents[4] / "docs" / "containerd.md"
_SOURCE = Path(kata_dind.__file__).parent
_QUOTED = re.findall(r"^\| `([^`]+)` \|", _PAGE.read_text().partition("## When something fails")[2], re.MULTILINE)


def said() -> str:
    """Return all sentences of the code, those that are on two lines as one."""
    files = [*(_SOURCE / "backend" / "containerd").glob("*.py"), *(_SOURCE / "life").glob("*.py")]
    return re.sub(r'"\s+f?"', "", "\n".join(file.read_text() for file in files))


def test_the_page_quotes_some_messages() -> None:
    assert len(_QUOTED) > 5


@pytest.mark.parametrize("message", _QUOTED)
def test_a_message_that_the_page_quotes_is_one_of_the_codes(message: str) -> None:
    parts = [part.strip(" ,") for part in message.split("…")]
    assert [part for part in parts if part not in said()] == []
