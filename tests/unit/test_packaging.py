"""The lock and the wheel: what `make run` installs, and what somebody without a checkout gets."""

from __future__ import annotations

import email
import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.pins import constraints

_REPOSITORY = Path(__file__).parents[2]
_PROJECT: dict[str, Any] = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_LOCK: dict[str, Any] = tomllib.loads((_REPOSITORY / "uv.lock").read_text(encoding="utf-8"))
_TEXTS = [*_PROJECT["dependencies"], *itertools.chain(*_PROJECT["optional-dependencies"].values())]
# An extra may ask for another one of ours.
_REQUIREMENTS = [wanted for wanted in map(Requirement, _TEXTS) if wanted.name != _PROJECT["name"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    # As `python -m build --no-isolation` does, without building an sdist first.
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    argv = [sys.executable, "-c", code, str(directory)]
    done = subprocess.run(argv, cwd=_REPOSITORY, check=True, capture_output=True, text=True)
    return directory / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """What PyPI shows of it."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode())


def test_the_lock_is_of_what_pyproject_asks_for() -> None:
    [ours] = [package for package in _LOCK["package"] if package["name"] == _PROJECT["name"]]
    required = [each for each in ours["metadata"]["requires-dist"] if each["name"] != _PROJECT["name"]]
    locked = {(wanted["name"], wanted["specifier"]) for wanted in required}
    asked = {(canonicalize_name(wanted.name), str(wanted.specifier)) for wanted in _REQUIREMENTS}
    assert locked == asked, "run `.venv/bin/uv lock`"
    assert _LOCK["requires-python"] == _PROJECT["requires-python"]


def test_the_lock_names_the_public_index_alone() -> None:
    sources = {package["source"].get("registry", "ours") for package in _LOCK["package"]}
    assert sources == {"https://pypi.org/simple", "ours"}


def test_a_pin_is_a_version_that_pyproject_allows() -> None:
    pins = {pin.name: pin for pin in map(Requirement, constraints(_LOCK))}
    for wanted in _REQUIREMENTS:
        [pinned] = pins[canonicalize_name(wanted.name)].specifier
        assert pinned.operator == "=="
        assert pinned.version in wanted.specifier, wanted


def test_constraints_leave_ourselves_out_and_keep_markers() -> None:
    registry = {"registry": "https://pypi.org/simple"}
    lock = {
        "package": [
            {"name": "kata-dind", "version": "0.1.0", "source": {"editable": "."}},
            {"name": "rich", "version": "15.0.0", "source": registry},
            {
                "name": "numpy",
                "version": "2.0",
                "source": registry,
                "resolution-markers": ["python_full_version < '3.12'", "python_full_version >= '3.15'"],
            },
        ]
    }
    assert constraints(lock) == [
        "rich==15.0.0",
        "numpy==2.0 ; (python_full_version < '3.12') or (python_full_version >= '3.15')",
    ]


def test_the_wheel_has_all_that_is_in_the_sources(wheel: Path) -> None:
    sources = _REPOSITORY / "src"
    ours = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("kata_dind/")} == ours


def test_links_are_absolute_where_pypi_shows_the_readme(metadata: Message) -> None:
    text = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    assert "[seeds](https://kata-dind.io/docs/seeds)" in text
    assert "(https://kata-dind.io/docs/seeds#stopping-with-all-that-runs)" in text
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_wheel_names_its_site(metadata: Message) -> None:
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Homepage"] == "https://kata-dind.io"
