"""Which backend a supervisor gets ready for, before the command line is parsed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata_dind.life.early import probable_backend


@pytest.mark.parametrize(
    ("words", "variable", "backend"),
    [
        (["up"], "", ""),
        (["up", "--backend", "containerd", "web"], "", "containerd"),
        (["up", "--backend=containerd"], "vm", "containerd"),
        (["up", "--backend"], "", ""),
        (["up", "web"], "containerd", "containerd"),
        (["start", "--timeout=9", "web"], "", "containerd"),
        (["start", "other"], "vm", "vm"),
        (["start", "x" * 5000], "", ""),
        ([], "", ""),
    ],
)
def test_the_backend_is_read_off_the_words_the_plan_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], variable: str, backend: str
) -> None:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("KATA_DIND_BACKEND", variable)
    directory = tmp_path / "sandboxes" / "web"
    directory.mkdir(parents=True)
    (directory / "plan.json").write_text(json.dumps({"backend": "containerd"}))
    assert probable_backend(words) == backend
