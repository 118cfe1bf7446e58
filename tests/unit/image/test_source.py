from __future__ import annotations

import pytest

from kata_dind.errors import HostError
from kata_dind.image.source import PackageSource, debian_architecture, host_suite


@pytest.mark.parametrize(
    ("release", "suite"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "bookworm"),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble", "ID_LIKE": "debian"}, "noble"),
    ],
)
def test_the_hosts_own_release_is_the_default(release: dict[str, str], suite: str) -> None:
    assert host_suite(release) == suite


@pytest.mark.parametrize(
    "release",
    [{}, {"ID": "fedora", "PRETTY_NAME": "Fedora 43"}, {"ID": "linuxmint", "VERSION_CODENAME": "wilma"}],
)
def test_other_hosts_are_told_how_to_name_a_release(release: dict[str, str]) -> None:
    with pytest.raises(HostError) as caught:
        host_suite(release)
    assert caught.value.hint == "name a release: --suite trixie"


def test_ubuntu_is_known_by_its_suites() -> None:
    assert PackageSource("noble").is_ubuntu
    assert not PackageSource("trixie").is_ubuntu


def test_machines_have_debian_names() -> None:
    assert [debian_architecture(machine) for machine in ("x86_64", "aarch64")] == ["amd64", "arm64"]
    with pytest.raises(HostError, match="riscv64"):
        debian_architecture("riscv64")
