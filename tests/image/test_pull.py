"""Pulling, against Debian's own registry on loopback, from an OCI layout and from a docker archive."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.errors import ImageError
from kata_dind.image import store
from kata_dind.image.oci import pull_image
from kata_dind.progress import silent
from tests.image.registries import running_registry
from tests.users import OrdinaryUser

pytestmark = [pytest.mark.requires("registry"), pytest.mark.timeout(300)]

_PULL = """
import sys
from kata_dind.progress import silent
from kata_dind.image.oci import pull_image
print(pull_image(sys.argv[1], report=silent).disk)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DIND_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with two small images: `dind`, whose dockerd is a script, and `plain`, without one."""
    directory = tmp_path_factory.mktemp("layout")
    root = directory / "root"
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/secret").write_text("for root\n")
    (root / "etc/secret").chmod(0o600)
    dockerd = root / "usr/local/bin/dockerd"
    dockerd.write_text("#!/bin/sh\n")
    dockerd.chmod(0o755)
    images = directory / "images"
    _umoci("init", "--layout", str(images))
    for tag, top in (("dind", root), ("plain", root / "etc")):
        _umoci("new", "--image", f"{images}:{tag}")
        rootless = ["--rootless"] if not _is_root() else []
        _umoci("insert", *rootless, "--image", f"{images}:{tag}", str(top), "/")
    environment = ("PATH=/usr/local/bin:/bin", "DOCKER_VERSION=28.5.2")
    config = [f"--config.env={entry}" for entry in environment]
    _umoci("config", "--image", f"{images}:dind", "--config.entrypoint=dockerd-entrypoint.sh", *config)
    return images


@pytest.fixture(scope="module")
def registry(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback that has both images under `team/`; its host and port."""
    with running_registry(tmp_path_factory.mktemp("registry")) as host:
        for tag in ("dind", "plain"):
            _skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:{tag}", f"docker://{host}/team/{tag}:1")
        yield host


def test_an_image_comes_from_a_registry(registry: str) -> None:
    image = pull_image(f"{registry}/team/dind:1", report=silent)
    assert image.reference == f"{registry}/team/dind:1"
    assert image.entrypoint == ("dockerd-entrypoint.sh",)
    assert image.command == ()
    assert "PATH=/usr/local/bin:/bin" in image.environment
    assert image.docker_version == "28.5.2"
    assert image.origin == f"docker://{registry}/team/dind:1"
    assert store.find_image(image.reference) == image
    assert _stat(image.disk, "/usr/local/bin/dockerd") == ("0", "0", "0755")


def test_an_image_comes_from_an_oci_layout_and_from_an_archive(layout: Path, tmp_path: Path) -> None:
    from_layout = pull_image(f"oci:{layout}:dind", report=silent)
    archive = tmp_path / "saved.tar"
    _skopeo("copy", f"oci:{layout}:dind", f"docker-archive:{archive}:team/dind:1")
    from_archive = pull_image(f"docker-archive:{archive}", report=silent)
    assert from_layout.image_id == from_archive.image_id
    assert [image.reference for image in store.list_images()] == [f"docker-archive:{archive}", f"oci:{layout}:dind"]


def test_pulling_again_moves_the_name_and_keeps_the_older_image(layout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    old = pull_image(f"oci:{copy}:dind", report=silent)
    assert pull_image(f"oci:{copy}:dind", report=silent).image_id == old.image_id
    _umoci("config", "--image", f"{copy}:dind", "--config.cmd=--debug")
    new = pull_image(f"oci:{copy}:dind", report=silent)
    assert new.command == ("--debug",)
    assert [(image.reference, image.image_id) for image in store.list_images()] == [
        (new.reference, new.image_id),
        ("", old.image_id),
    ]


def test_an_image_without_dockerd_is_refused(registry: str, own_cache: Path) -> None:
    with pytest.raises(ImageError, match="team/plain:1 has no dockerd") as caught:
        pull_image(f"{registry}/team/plain:1", report=silent)
    assert caught.value.hint
    assert store.list_images() == []
    assert [path.name for path in (own_cache / "tmp").iterdir()] == ["sweep.lock"]


def test_an_image_that_is_not_there_is_an_error_with_the_registrys_words(registry: str) -> None:
    with pytest.raises(ImageError, match="could not pull") as caught:
        pull_image(f"{registry}/team/none:1", report=silent)
    assert "manifest unknown" in caught.value.details


def test_a_registry_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"could not pull 127\.0\.0\.1:9/dind:1") as caught:
        pull_image("127.0.0.1:9/dind:1", report=silent)
    assert "connection refused" in caught.value.details


@pytest.mark.thorough
@pytest.mark.requires("ordinary-user")
def test_an_ordinary_user_pulls_with_the_owners_of_the_image(registry: str, ordinary_user: OrdinaryUser) -> None:
    disk = Path(ordinary_user.run(_PULL, f"{registry}/team/dind:1").strip())
    assert disk.stat().st_uid == ordinary_user.uid
    assert _stat(disk, "/etc/secret") == ("0", "0", "0600")


def _stat(disk: Path, path: str) -> tuple[str, str, str]:
    """Return a file's owner, group and permissions on a disk."""
    done = subprocess.run(["dump.erofs", f"--path={path}", disk], check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("Uid:"))
    words = line.replace(":", ": ").split()
    return words[1], words[3], words[5].partition("/")[0]


def _is_root() -> bool:
    done = subprocess.run(["id", "--user"], check=True, capture_output=True, text=True)
    return done.stdout.strip() == "0"


def _umoci(*arguments: str) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)


def _skopeo(*arguments: str) -> None:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, json.dumps(done.stderr)
