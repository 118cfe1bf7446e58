from __future__ import annotations

import re
from pathlib import Path

import pytest

from kata_dind import errors
from kata_dind.errors import BootFailed, KataDindError, SpecError, error_from_fields

_README = Path(__file__).parents[2] / "README.md"


def descendants(cls: type[KataDindError]) -> list[type[KataDindError]]:
    return [found for child in cls.__subclasses__() for found in (child, *descendants(child))]


ALL: list[type[KataDindError]] = [KataDindError, *descendants(KataDindError)]


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("KataDindError", 1),
        ("SpecError", 2),
        ("HostError", 3),
        ("SandboxError", 4),
        ("DataRootError", 5),
        ("BackendError", 6),
        ("ImageError", 7),
        ("ProcessError", 1),
    ],
)
def test_a_branch_of_the_tree_has_one_exit_code(name: str, exit_code: int) -> None:
    branch = getattr(errors, name)
    assert branch.exit_code == exit_code
    if branch is not KataDindError:
        assert {cls.exit_code for cls in descendants(branch)} <= {exit_code}


@pytest.mark.parametrize("cls", ALL)
def test_the_module_draws_every_class(cls: type[KataDindError]) -> None:
    assert re.search(rf"\b{cls.__name__}\b", errors.__doc__ or "")


@pytest.mark.parametrize("cls", ALL)
def test_an_error_crosses_a_process_border_as_fields(cls: type[KataDindError]) -> None:
    error = cls("the disk is away", id="test.away", details="status: exit 1", hint="kata-dind rm ci")
    rebuilt = error_from_fields(error.as_fields())
    assert type(rebuilt) is cls
    assert (rebuilt.id, rebuilt.summary, rebuilt.details, rebuilt.hint) == (
        "test.away",
        error.summary,
        error.details,
        error.hint,
    )
    assert str(rebuilt) == "the disk is away"


def test_fields_name_class_exit_code_and_later_evidence() -> None:
    error = BootFailed("no guest", id="vm.boot-failed", details="qemu: exit 1")
    error.add_note("console: Kernel panic")
    assert error.as_fields() == {
        "error": "BootFailed",
        "id": "vm.boot-failed",
        "summary": "no guest",
        "details": "qemu: exit 1\nnote: console: Kernel panic",
        "hint": "",
        "exit_code": 4,
    }


def test_an_error_of_a_later_version_keeps_its_words() -> None:
    rebuilt = error_from_fields({"error": "FromTheFuture", "summary": "new trouble", "exit_code": 9})
    assert type(rebuilt) is KataDindError
    assert rebuilt.summary == "new trouble"


def test_only_wrong_input_exits_as_wrong_input() -> None:
    assert [cls for cls in ALL if cls.exit_code == 2] == [SpecError]


def test_the_readme_lists_every_exit_code() -> None:
    table = _README.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) ", table, flags=re.MULTILINE)}
    assert listed == {0, *(cls.exit_code for cls in ALL), 129, 130, 143}
