from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.image.rootfs import Recipe, apt_hint, disk_argv, extract_argv, recipe_key, rootfs_argv
from kata_dind.image.source import PackageSource

_RECIPE = Recipe("essential", ("python3", "kmod"), ('rm -rf "$1"/usr/share/doc',))


def test_the_guest_os_is_built_by_this_call() -> None:
    assert rootfs_argv(_RECIPE, PackageSource("bookworm"), output=Path("/c/rootfs.tar")) == [
        "mmdebstrap",
        "--mode=unshare",
        "--format=tar",
        "--variant=essential",
        "--include=python3,kmod",
        "--skip=output/dev",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        '--customize-hook=rm -rf "$1"/usr/share/doc',
        "bookworm",
        "/c/rootfs.tar",
    ]


def test_a_kernel_is_unpacked_and_not_installed() -> None:
    recipe = Recipe("extract", ("linux-image-cloud-amd64",))
    assert rootfs_argv(recipe, PackageSource("trixie"), output=Path("k.tar")) == [
        "mmdebstrap",
        "--mode=unshare",
        "--format=tar",
        "--variant=extract",
        "--include=linux-image-cloud-amd64",
        "--skip=output/dev",
        '--aptopt=APT::Install-Recommends "false"',
        "trixie",
        "k.tar",
    ]


def test_a_mirror_and_apt_options_are_passed_on_and_ubuntu_gets_universe() -> None:
    source = PackageSource("noble", mirror="http://mirror.test/ubuntu", apt_options=("Acquire::Retries 3",))
    assert rootfs_argv(_RECIPE, source, output=Path("tree"), form="directory") == [
        "mmdebstrap",
        "--mode=unshare",
        "--format=directory",
        "--variant=essential",
        "--include=python3,kmod",
        "--skip=output/dev",
        '--aptopt=APT::Install-Recommends "false"',
        "--aptopt=Acquire::Retries 3",
        "--components=main,universe",
        "--dpkgopt=force-unsafe-io",
        '--customize-hook=rm -rf "$1"/usr/share/doc',
        "noble",
        "tree",
        "http://mirror.test/ubuntu",
    ]


def test_the_key_follows_everything_that_shapes_the_result() -> None:
    keys = {
        recipe_key(recipe, source)
        for recipe in (_RECIPE, Recipe("minbase", _RECIPE.packages, _RECIPE.hooks), Recipe("essential", ("kmod",)))
        for source in (PackageSource("bookworm"), PackageSource("trixie"), PackageSource("bookworm", "http://m.test"))
    }
    assert len(keys) == 9
    assert recipe_key(_RECIPE, PackageSource("bookworm")) == recipe_key(_RECIPE, PackageSource("bookworm"))


def test_a_tree_is_unpacked_with_owners_and_without_devices() -> None:
    assert extract_argv(Path("a.tar"), Path("tree")) == [
        "tar",
        "--extract",
        "--file=a.tar",
        "--directory=tree",
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
        "--xattrs",
        "--xattrs-include=*",
        "--exclude=./dev/*",
    ]


def test_equal_trees_give_equal_disks_and_foreign_ones_keep_their_times() -> None:
    uuid = "-U6b617461-6469-6e64-8000-000000000000"
    disk, tree = Path("d.erofs"), Path("tree")
    assert disk_argv(tree, disk) == ["mkfs.erofs", "--quiet", uuid, "-T1577836800", "d.erofs", "tree"]
    assert disk_argv(tree, disk, options=()) == ["mkfs.erofs", "--quiet", uuid, "d.erofs", "tree"]


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("E: The repository 'http://m.test nosuch Release' does not have a Release file.", "--suite"),
        ("GPG error: NO_PUBKEY 0E98404D386FA1D9", "keyring"),
        ("Could not connect to m.test:80 (192.0.2.1), connection timed out", "--mirror"),
        ("Temporary failure resolving 'm.test'", "--mirror"),
        ("E: Release file for http://m.test/InRelease is expired (invalid since 18d)", "--apt-option"),
    ],
)
def test_the_words_of_apt_become_a_hint(output: str, hint: str) -> None:
    assert hint in apt_hint(f"Reading package lists...\n{output}\nE: mmdebstrap failed to run\n")


def test_other_failures_have_no_hint() -> None:
    assert apt_hint("dpkg: error processing package docker.io") == ""
