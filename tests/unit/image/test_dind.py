from __future__ import annotations

import pytest

from kata_dind.errors import ImageError
from kata_dind.image.dind import default_reference, docker_version
from kata_dind.image.source import PackageSource

_STATUS = """\
Package: docker-cli
Version: 1.2.3

Package: docker.io
Status: install ok installed
Version: {}
Description: Linux container runtime
 Version: 9.9.9 is not it

Package: containerd
Version: 1.6.20~ds1-1+deb12u1+b2
"""


@pytest.mark.parametrize(
    ("package", "docker"),
    [
        ("20.10.24+dfsg1-1+deb12u1+b6", "20.10.24"),
        ("26.1.5+dfsg1-9+b9", "26.1.5"),
        ("28.5.2-1", "28.5.2"),
        ("1:24.0.7-0ubuntu4", "24.0.7"),
    ],
)
def test_dockers_version_is_the_upstream_part(package: str, docker: str) -> None:
    assert docker_version(_STATUS.format(package)) == docker


def test_a_root_without_docker_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"docker\.io"):
        docker_version("Package: containerd\nVersion: 1\n")


def test_built_images_are_called_by_their_suite() -> None:
    assert default_reference(PackageSource("forky")) == "dind:forky"
