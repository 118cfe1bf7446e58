from __future__ import annotations

import json
from pathlib import Path

import pytest

from kata_dind.image.store import DindImage, add_image, list_images
from tests.unit.cli.conftest import CommandLine

RECORD = DindImage(
    "docker:28-dind", "", Path(), ("dockerd-entrypoint.sh",), (), (), "28.5.2", "2025-11-01T12:00:00Z", 0, "pulled"
)


@pytest.fixture
def image(home: Path) -> DindImage:
    """A dind image in the cache."""
    cache = home / "cache" / "kata-dind"
    directory = cache / "new"
    directory.mkdir(parents=True)
    (directory / "disk.erofs").write_bytes(b"x" * 2048)
    return add_image(directory, RECORD, cache=cache)


def test_image_ls(cli: CommandLine, image: DindImage) -> None:
    assert cli("image", "ls").stdout == (
        f"IMAGE           ID            DOCKER  SIZE  CREATED     FROM\n"
        f"docker:28-dind  {image.image_id[:12]}  28.5.2  2.0K  2025-11-01  pulled\n"
    )
    assert cli("image", "ls", "-q").stdout == "docker:28-dind\n"
    assert json.loads(cli("image", "ls", "--json").stdout)[0]["docker_version"] == "28.5.2"


def test_image_rm(cli: CommandLine, image: DindImage) -> None:
    outcome = cli("image", "rm", "docker:28-dind", "docker:29-dind")
    assert outcome.exit_code == 2
    assert outcome.stderr == "kata-dind: IMAGE: there is no image docker:29-dind; known are: docker:28-dind\n"
    assert cli("image", "rm", "docker:28-dind").exit_code == 0
    assert list_images() == []


def test_image_without_a_verb_is_a_question_for_help(cli: CommandLine) -> None:
    assert cli("image").stdout == cli("image", "--help").stdout
