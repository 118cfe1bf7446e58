"""The programs that kata-dind runs, and the distribution packages that have them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

WITH_APT = frozenset(("debian", "ubuntu"))
"""Distributions whose packages we know and install; the ID in os-release(5)."""


class Program(NamedTuple):
    """A program, the Debian package that has it, and its only use, if most users can do without it."""

    name: str
    package: str
    only_for: str = ""


def programs(machine: str) -> tuple[Program, ...]:
    """Return the programs for a host with this kind of processor, in uname's words."""
    qemu = "qemu-system-arm" if machine == "aarch64" else "qemu-system-x86"
    return (
        Program("ip", "iproute2"),
        Program("mke2fs", "e2fsprogs"),
        Program("mkfs.erofs", "erofs-utils"),
        Program("mmdebstrap", "mmdebstrap"),
        Program("modprobe", "kmod"),
        Program("mount", "mount"),
        Program("newuidmap", "uidmap"),
        Program("qemu-img", "qemu-utils"),
        Program(f"qemu-system-{machine}", qemu),
        Program("setpriv", "util-linux"),
        Program("skopeo", "skopeo", only_for="kata-dind image pull"),
        Program("slirp4netns", "slirp4netns"),
        Program("umoci", "umoci", only_for="kata-dind image pull"),
        Program("unshare", "util-linux"),
        Program("virtiofsd", "virtiofsd", only_for="--share and the data roots loop and virtiofs"),
        Program("zstd", "zstd"),
    )


def apt_packages(distribution: str, version: str, *, machine: str) -> list[str]:
    """Return the packages to install on Debian or Ubuntu, in the alphabet's order."""
    wanted = {"ca-certificates", *(program.package for program in programs(machine))}
    if (distribution, version) == ("debian", "12"):
        wanted.remove("virtiofsd")  # qemu-system-common has it there
    if distribution != "debian":
        wanted.add("debian-archive-keyring")
    return sorted(wanted)


def missing_programs(found: Collection[str], *, machine: str) -> list[Program]:
    """Return the programs that are not among those that were found."""
    return [program for program in programs(machine) if program.name not in found]
