"""Files that users name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.errors import SpecError
from kata_dind.host.small_files import read_small_file


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "a policy is in no file: its name is empty"), (".", ".: it cannot be read: Is a directory")],
)
def test_what_is_no_file_is_said(name: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_small_file(name, most_bytes=1, what="a policy")
    assert caught.value.summary == said


def test_a_file_has_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12")
    assert read_small_file(str(tmp_path / "file"), most_bytes=2, what="a policy") == b"12"
    with pytest.raises(SpecError, match="too large for a policy"):
        read_small_file(str(tmp_path / "file"), most_bytes=1, what="a policy")
