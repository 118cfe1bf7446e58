from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kata_dind.errors import ImageError
from kata_dind.image.kernel import find_packaged_kernel, initramfs_entries, kernel_package
from kata_dind.image.source import PackageSource


def test_distributions_name_their_kernels() -> None:
    assert kernel_package(PackageSource("bookworm"), machine="x86_64") == "linux-image-cloud-amd64"
    assert kernel_package(PackageSource("trixie"), machine="aarch64") == "linux-image-cloud-arm64"
    assert kernel_package(PackageSource("noble"), machine="x86_64") == "linux-image-virtual"


def test_the_initramfs_lists_its_modules_in_order(tmp_path: Path) -> None:
    for name in ("kernel/b.ko", "kernel/a.ko"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    entries = initramfs_entries(
        tmp_path, "6.1.0", boot_modules=["kernel/b.ko", "kernel/a.ko"], busybox=b"ELF", script=b"#!/bin/busybox sh\n"
    )
    files = {entry.path: entry for entry in entries}
    assert stat.S_IMODE(files["init"].mode) == stat.S_IMODE(files["bin/busybox"].mode) == 0o755
    assert files["dev/console"].device == (5, 1)
    listed = files["lib/modules/6.1.0/boot-modules"].data.decode().splitlines()
    assert listed == ["/lib/modules/6.1.0/kernel/b.ko", "/lib/modules/6.1.0/kernel/a.ko"]
    assert all(path.removeprefix("/") in files for path in listed)


def test_an_initramfs_without_modules_has_an_empty_list(tmp_path: Path) -> None:
    entries = initramfs_entries(tmp_path, "6.12.117", boot_modules=[], busybox=b"ELF", script=b"")
    assert [entry.data for entry in entries if entry.path.endswith("/boot-modules")] == [b""]


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.1.0", "usr/lib/modules/6.1.0/vmlinuz"])
def test_a_packages_kernel_is_found_where_its_distribution_puts_it(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert find_packaged_kernel(tmp_path) == ("6.1.0", tmp_path / place)


def test_a_package_without_a_kernel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="has 0 kernels"):
        find_packaged_kernel(tmp_path)
