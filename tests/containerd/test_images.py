"""Images of pods: pulled by containerd, with credentials where a registry wants some, or imported."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.backend.containerd.images import require_image
from kata_dind.errors import ImageError
from kata_dind.progress import Event, silent
from tests.image.registries import PASSWORD, USER, make_layout, push, running_registry
from tests.kube.node import Host

pytestmark = pytest.mark.requires("containerd", "mmdebstrap", "registry")


@pytest.fixture
def containerd(host: Host) -> Iterator[Containerd]:
    with connected(host.address) as containerd, host.namespaces.entered_network():
        yield containerd


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return make_layout(tmp_path, "entrypoint=dockerd-entrypoint.sh", "cmd=--debug", "env=DOCKER_VERSION=28.5.1")


def test_an_image_is_pulled_once_and_tells_how_it_starts(containerd: Containerd, layout: Path, tmp_path: Path) -> None:
    with running_registry(tmp_path) as host:
        push(layout, f"{host}/team/dind:1")
        image = require_image(containerd, f"{host}/team/dind:1", report=silent)
    assert (image.entrypoint, image.command) == (("dockerd-entrypoint.sh",), ("--debug",))
    assert (image.docker_version, image.reference) == ("28.5.1", f"{host}/team/dind:1")
    again = require_image(containerd, image.image_id, earlier=image.reference, report=silent)
    assert again == image, "the registry is gone by now"


def test_the_credentials_of_docker_login_are_used(
    containerd: Containerd, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with running_registry(tmp_path, with_password=True) as host:
        reference = f"{host}/team/dind:2"
        push(layout, reference, "--dest-creds", f"{USER}:{PASSWORD}")
        with pytest.raises(ImageError) as caught:
            require_image(containerd, reference, report=silent)
        assert (caught.value.id, caught.value.hint) == (
            "containerd.pull-failed", "log in with `docker login`, whose credentials are used"
        )  # fmt: skip
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": word}}}))
        assert require_image(containerd, reference, report=silent).docker_version == "28.5.1"


def test_an_image_of_ours_is_imported_once(containerd: Containerd, dind: str) -> None:
    first = require_image(containerd, dind, report=silent)
    events: list[Event] = []
    again = require_image(containerd, dind, report=events.append)
    assert (again, events) == (first, [])
    assert (first.reference, first.command) == (dind, ("dockerd",))
    assert first.docker_version
