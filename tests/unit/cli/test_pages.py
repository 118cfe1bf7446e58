"""The pages about pods: their examples are run, and what they list is all that there is."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import kata_dind
from kata_dind.fixing.formats import as_json
from kata_dind.vocabulary import FixOutput
from tests.unit.cli.conftest import CommandLine

_SOURCE = Path(kata_dind.__file__).parent
_DOCS = Path(__file__).parents[3] / "docs"
_PODS = (_DOCS / "pods.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Example:
    """A command of a page, and what the page shows of its answer."""

    words: tuple[str, ...]
    shown: str


def examples(page: str) -> Iterator[Example]:
    for block in re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL):
        for command in re.split(r"(?m)^\$ ", block)[1:]:
            line, _, shown = command.partition("\n")
            yield Example(tuple(shlex.split(line, comments=True)), shown)


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a reader who has saved the page's example."""
    found = re.search(r"`runner.yaml`:\n\n```yaml\n(.*?)```", _PODS, flags=re.DOTALL)
    assert found is not None
    (home / "runner.yaml").write_text(found[1])
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "100")
    return home


@pytest.mark.parametrize("example", [*examples(_PODS)], ids=lambda example: " ".join(example.words))
@pytest.mark.usefixtures("here")
def test_an_example_of_the_page_gives_what_the_page_shows(cli: CommandLine, example: Example) -> None:
    assert example.words[0] == "kata-dind"
    outcome = cli(*example.words[1:])
    assert outcome.exit_code == (1 if "--check" in example.words else 0), outcome.stderr
    assert outcome.stdout
    assert example.shown in ("", outcome.stdout)


def test_the_page_has_examples_with_answers() -> None:
    assert len([example for example in examples(_PODS) if example.shown]) >= 2


def test_every_id_of_a_finding_is_in_the_page() -> None:
    files = [*(_SOURCE / "pod").glob("*.py"), *(_SOURCE / "fixing").rglob("*.py"), *(_SOURCE / "webhook").glob("*.py")]
    pattern = re.compile(r'"((?:pod|root|class|annotation|guard)\.[a-z][a-z-]*)"')
    known = {found for file in files for found in pattern.findall(file.read_text(encoding="utf-8"))}
    listed = set(re.findall(r"`((?:pod|root|class|annotation|guard)\.[a-z-]+)`", _PODS))
    # Those of annotations are put together from the annotation's name.
    assert known - listed == set()
    assert {id for id in listed - known if not id.startswith("annotation.")} == set()


def test_every_format_and_field_is_in_the_page(cli: CommandLine, here: Path) -> None:
    assert [output for output in FixOutput if f"| `{output}` |" not in _PODS] == []
    answer = json.loads(cli("fix", "runner.yaml", "--json").stdout)
    [pod] = answer["pods"]
    [engine] = pod["engines"]
    parts = [answer["summary"], pod, engine, engine["data_roots"][0], pod["findings"][0], pod["repair"]]
    fields = {field for part in parts for field in part}
    quoted = set(re.findall(r"`([a-z_]+)`", _PODS))
    assert fields - quoted == set()
    assert answer["format"] == as_json.FORMAT
