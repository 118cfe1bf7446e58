"""The hooks for pre-commit: their entries are run as pre-commit runs them, with the names of files behind."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from kata_dind.manifest import parse_yaml
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.manifests import DIND, PLAIN

_FILE = Path(__file__).parents[3] / ".pre-commit-hooks.yaml"


def hook(id: str) -> dict[str, Any]:
    [hooks] = parse_yaml(_FILE.read_text(encoding="utf-8"))
    [found] = [each for each in hooks if each["id"] == id]
    assert isinstance(found, dict)
    return found


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with two manifests."""
    monkeypatch.chdir(home)
    (home / "pod.yaml").write_text(DIND)
    (home / "web.yaml").write_text(PLAIN)
    return home


def run(cli: CommandLine, id: str, *files: str) -> int:
    program, *words = shlex.split(hook(id)["entry"])
    assert program == "kata-dind"
    return cli(*words, *files).exit_code


def test_the_check_fails_for_what_needs_a_repair(cli: CommandLine) -> None:
    assert run(cli, "kata-dind-check", "web.yaml", "pod.yaml") == 1
    assert run(cli, "kata-dind-check", "web.yaml") == 0


def test_the_fix_changes_the_file_and_then_nothing(cli: CommandLine, here: Path) -> None:
    assert run(cli, "kata-dind-fix", "web.yaml", "pod.yaml") == 0
    after = (here / "pod.yaml").read_text()
    assert after != DIND, "pre-commit sees that the file has changed, and fails"
    assert (here / "web.yaml").read_text() == PLAIN
    assert run(cli, "kata-dind-fix", "pod.yaml") == 0
    assert (here / "pod.yaml").read_text() == after
    assert run(cli, "kata-dind-check", "pod.yaml") == 0


@pytest.mark.parametrize("id", ["kata-dind-fix", "kata-dind-check"])
def test_manifests_are_seen_and_templates_are_not(id: str) -> None:
    seen = hook(id)
    for name, expected in {
        "a/pod.yaml": True,
        "x.yml": True,
        "gitlab/config.toml": True,
        "pyproject.toml": False,
        "chart/templates/pod.yaml": False,
        "readme.md": False,
    }.items():
        is_seen = re.search(seen["files"], name) is not None and re.search(seen["exclude"], name) is None
        assert (name, is_seen) == (name, expected)
    assert seen["types_or"] == ["yaml", "toml"]
