"""What we say, anywhere: an installed wheel has no checkout around it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kata_dind

_SOURCES = Path(kata_dind.__file__).parent
_OF_A_CHECKOUT = re.compile(
    r"\bmake (help|run|test|test-all|test-matrix|lint|format|setup|clean)\b|(?<!kata-dind\.io/)\b(docs|scripts|tests)/"
    r"|\b[\w-]+\.md\b|\.venv\b"
)


def texts(path: Path) -> list[str]:
    """Return what a module may say: its strings. Docstrings are not said, but for those of commands, which are help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unsaid = (ast.Module, ast.ClassDef, *(() if path.parent.name == "cli" else (ast.FunctionDef,)))
    for node in ast.walk(tree):
        if isinstance(node, unsaid) and ast.get_docstring(node):
            node.body = node.body[1:]
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("path", sorted(_SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(_SOURCES)))
def test_no_text_names_what_an_installed_wheel_lacks(path: Path) -> None:
    assert [text for text in texts(path) if _OF_A_CHECKOUT.search(text)] == []


@pytest.mark.parametrize("path", sorted(_SOURCES.rglob("*.sh")), ids=lambda path: path.name)
def test_no_shell_script_says_what_an_installed_wheel_lacks(path: Path) -> None:
    said = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in said if _OF_A_CHECKOUT.search(line)] == []


@pytest.mark.parametrize(
    "text", ["run `make setup`", "see docs/troubleshooting.md", "scripts/test", "see seeds.md", ".venv/bin/kata-dind"]
)
def test_a_checkout_is_recognized(text: str) -> None:
    assert _OF_A_CHECKOUT.search(text)


@pytest.mark.parametrize("text", ["may not make network namespaces", "https://kata-dind.io/docs/troubleshooting"])
def test_what_a_wheel_may_name_is_recognized(text: str) -> None:
    assert not _OF_A_CHECKOUT.search(text)
