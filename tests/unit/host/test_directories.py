from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kata_dind.errors import HostError
from kata_dind.host.directories import cache_directory, state_directory


def test_variables_win_and_are_read_at_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / name / "state"))
        monkeypatch.setenv("KATA_DIND_CACHE_DIR", str(tmp_path / name / "cache"))
        assert state_directory() == tmp_path / name / "state"
        assert cache_directory() == tmp_path / name / "cache"


def test_xdg_directories_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KATA_DIND_STATE_DIR", raising=False)
    monkeypatch.delenv("KATA_DIND_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert state_directory() == tmp_path / "state" / "kata-dind"
    assert cache_directory() == tmp_path / "cache" / "kata-dind"


def test_directories_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))
    assert stat.S_IMODE(state_directory().stat().st_mode) == 0o700


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KATA_DIND_CACHE_DIR", "cache")
    assert cache_directory() == tmp_path / "cache"


def test_a_directory_that_cannot_be_made_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KATA_DIND_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(HostError) as caught:
        cache_directory()
    assert "KATA_DIND_CACHE_DIR" in caught.value.hint
