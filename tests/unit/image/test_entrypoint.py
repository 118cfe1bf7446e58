from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind.dataroot.status import EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT
from kata_dind.guest.agent import container
from kata_dind.image import guestos
from kata_dind.image.entrypoint import PARTS, WHOLE, WORDS, assemble, entrypoint_script, read_parts

_REPOSITORY = Path(__file__).parents[3]
_PRINT = "import sys; from kata_dind.image.entrypoint import entrypoint_script; sys.stdout.write(entrypoint_script())"


def test_every_part_is_in_the_script_once() -> None:
    names = [path.stem for path in (guestos.GUEST_CODE / "entrypoint").glob("*.sh")]
    assert sorted(names) == sorted(PARTS)
    assert [*read_parts()] == [name for name, feature in PARTS.items() if not feature or feature in WHOLE]


def test_parts_are_joined_in_their_order_with_a_blank_line_between_two() -> None:
    assert assemble({"b": "#!/bin/sh\n", "a": "first\nsecond\n"}, {}) == "#!/bin/sh\n\nfirst\nsecond\n"


def test_words_take_the_place_of_their_names() -> None:
    assert assemble({"a": 'exit @CODE@ "$@" @here@\n'}, {"CODE": "64"}) == 'exit 64 "$@" @here@\n'
    with pytest.raises(KeyError, match="UNKNOWN"):
        assemble({"a": "exit @UNKNOWN@\n"}, {"CODE": "64"})


def test_each_word_is_used_and_each_placeholder_filled() -> None:
    named = {name for text in read_parts().values() for name in re.findall("@([A-Z0-9_]+)@", text)}
    assert named == set(WORDS)
    assert not re.search("@[A-Z0-9_]+@", entrypoint_script())


def test_each_line_of_the_script_has_its_place_in_a_part() -> None:
    lines, parts = entrypoint_script().splitlines(), read_parts()
    assert len(lines) == sum(len(text.splitlines()) + 1 for text in parts.values()) - 1
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in parts.values())


def test_the_script_ends_with_the_exit_codes_that_the_host_reads() -> None:
    assert (EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT, container.NO_CONTAINER) == (64, 78, 78)
    script = entrypoint_script()
    assert [line.strip() for line in script.splitlines() if re.match(r"\s*exit [0-9]", line)] == ["exit 78", "exit 64"]


def test_the_script_begins_as_a_program_and_ends_as_the_command() -> None:
    lines = entrypoint_script().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[-1] == 'hand_over "$@"'
    assert read_parts()["hand_over"].count('\n\texec "$@"\n}\n') == 1


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "TZ": "UTC"}, {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}]
)
def test_the_script_is_the_same_wherever_it_is_joined(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PRINT], env={**os.environ, **environment}, cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == entrypoint_script().encode()


def test_the_guest_os_gets_the_script() -> None:
    code = guestos.guest_code()
    assert code["entrypoint.sh"] == entrypoint_script().encode()
    assert {name.partition("/")[0] for name in code} == {"agent", "entrypoint.sh", "published_port.sh"}


def test_a_finding_names_the_part_and_the_line_there(tmp_path: Path) -> None:
    """The linter runs over a copy in which one line of a part in the middle has a fault."""
    copy = tmp_path / "kata_dind"
    subprocess.run(["cp", "-r", _REPOSITORY / "src" / "kata_dind", copy], check=True)
    part = copy / "guest" / "entrypoint" / "tune.sh"
    line = part.read_text().splitlines().index("tune() {") + 2
    part.write_text(part.read_text().replace("tune() {\n", "tune() {\n\tcd $nowhere\n"))
    done = subprocess.run(
        [sys.executable, _REPOSITORY / "scripts" / "lint_entrypoint.py"],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert f"guest/entrypoint/tune.sh:{line}: SC2086 (dash) " in done.stdout
