from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_PAGES = sorted([*_REPOSITORY.glob("*.md"), *(_REPOSITORY / "docs").rglob("*.md")])
_PYPROJECT = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    text = (_REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\$ (make \w+)", text, flags=re.MULTILINE) == ["make run", "make test"]
    introduction = " ".join(text.partition("```")[0].splitlines()[2:]).strip()
    assert len(re.findall(r"\.(?: |$)", introduction)) == 2, "two sentences of what it is, then the commands"


def test_the_readme_leads_with_the_way_without_a_checkout_as_well() -> None:
    introduction = (_REPOSITORY / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    commands = re.findall(r"^\$ (?!make)([\w/ -]*\w)", introduction, flags=re.MULTILINE)
    assert commands == ["pipx install kata-dind", "kata-dind setup", "kata-dind run kata-dind/hello"]


def test_every_dependency_has_its_reason() -> None:
    page = (_REPOSITORY / "docs" / "decisions" / "dependencies.md").read_text(encoding="utf-8")
    names = [re.split(r"[><=~ ]", wanted, maxsplit=1)[0] for wanted in _PYPROJECT["project"]["dependencies"]]
    assert [name for name in names if f"| {name} |" not in page] == []


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=_REPOSITORY, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make ([a-z-]+) ", done.stdout, flags=re.MULTILINE))
    assert listed == {"help", "run", "test", "test-all", "test-matrix", "lint", "format", "setup", "clean"}
