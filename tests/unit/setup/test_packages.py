from __future__ import annotations

import pytest

from kata_dind.setup.packages import apt_packages, missing_programs, programs

_DEBIAN_12 = [
    "ca-certificates",
    "e2fsprogs",
    "erofs-utils",
    "iproute2",
    "kmod",
    "mmdebstrap",
    "mount",
    "qemu-system-x86",
    "qemu-utils",
    "skopeo",
    "slirp4netns",
    "uidmap",
    "umoci",
    "util-linux",
    "zstd",
]


@pytest.mark.parametrize(
    ("distribution", "version", "also"),
    [
        ("debian", "12", set()),
        ("debian", "13", {"virtiofsd"}),
        ("debian", "", {"virtiofsd"}),
        ("ubuntu", "24.04", {"virtiofsd", "debian-archive-keyring"}),
    ],
)
def test_packages_of_a_release(distribution: str, version: str, also: set[str]) -> None:
    assert apt_packages(distribution, version, machine="x86_64") == sorted({*_DEBIAN_12, *also})


def test_qemu_is_that_of_the_processor() -> None:
    assert "qemu-system-arm" in apt_packages("debian", "12", machine="aarch64")
    assert "qemu-system-aarch64" in {program.name for program in programs("aarch64")}


def test_a_program_that_was_found_is_not_missing() -> None:
    every = {program.name for program in programs("x86_64")}
    assert missing_programs(every, machine="x86_64") == []
    [umoci] = missing_programs(every - {"umoci"}, machine="x86_64")
    assert (umoci.name, umoci.package, umoci.only_for) == ("umoci", "umoci", "kata-dind image pull")
