from __future__ import annotations

import pytest

from kata_dind.dataroot.compatibility import asked_driver, asked_store, why_incompatible
from kata_dind.vocabulary import Fallback

# docs/decisions/docker-versions.md: the writer's version, the verdict's storage, the setting for the containerd store.
_DAEMONS = {
    "20.10": ("20.10.24+dfsg1", "overlay2 on extfs", None),
    "26.1": ("26.1.5+dfsg1", "overlay2 on extfs", None),
    "28.5": ("28.5.2+dfsg4", "overlay2 on extfs", None),
    "29": ("29.8.0", "overlayfs", None),
    "26.1 containerd": ("26.1.5", "overlayfs", True),
    "28.5 containerd": ("28.5.2", "overlayfs", True),
    "29 overlay2": ("29.8.0", "overlay2 on extfs", False),
}
_SEEN_BY = {
    "20.10": {"20.10", "26.1", "28.5", "29", "29 overlay2"},
    "26.1": {"20.10", "26.1", "28.5", "29", "29 overlay2"},
    "28.5": {"20.10", "26.1", "28.5", "29", "29 overlay2"},
    "29": {"29", "26.1 containerd", "28.5 containerd"},
    "26.1 containerd": {"29", "26.1 containerd", "28.5 containerd"},
    "28.5 containerd": {"29", "26.1 containerd", "28.5 containerd"},
    "29 overlay2": {"20.10", "26.1", "28.5", "29", "29 overlay2"},
}


@pytest.mark.parametrize("opener", _DAEMONS)
@pytest.mark.parametrize("writer", _DAEMONS)
def test_a_docker_that_would_not_see_everything_is_refused(writer: str, opener: str) -> None:
    written_by, storage, _ = _DAEMONS[writer]
    docker_version, _, told = _DAEMONS[opener]
    why = why_incompatible(written_by=written_by, storage=storage, docker_version=docker_version, containerd_store=told)
    # Of the same release its image may tell the opener what it has told the writer.
    same_release = written_by.split(".")[0] == docker_version.split(".")[0] and told is None
    assert (why == "") == (opener in _SEEN_BY[writer] or same_release), why


def test_a_root_with_a_containerd_store_is_refused_to_a_storage_driver_with_the_ways_out() -> None:
    assert why_incompatible(written_by="29.8.0", storage="overlayfs", docker_version="28.5.2") == (
        "Docker 28.5.2 would not see the images and containers that Docker 29.8.0 wrote with containerd's snapshotter "
        "overlayfs, and would hide them from Docker 29 as well; open it with Docker 29 or newer, or turn "
        "features.containerd-snapshotter on"
    )


def test_docker_29_with_a_storage_driver_named_is_told_to_leave_it() -> None:
    why = why_incompatible(written_by="29.8.0", storage="overlayfs", docker_version="29.8.1", containerd_store=False)
    assert why.endswith("; leave features.containerd-snapshotter on, and name no storage driver")


@pytest.mark.parametrize("told", [None, True])
def test_docker_20_is_not_told_to_turn_on_what_it_lacks(told: bool | None) -> None:
    why = why_incompatible(
        written_by="29.8.0", storage="overlayfs", docker_version="20.10.24+dfsg1", containerd_store=told
    )
    assert why.endswith("; open it with Docker 29 or newer")


def test_a_storage_drivers_root_is_refused_to_a_containerd_store() -> None:
    told = why_incompatible(
        written_by="20.10.24", storage="overlay2 on extfs", docker_version="29.8.0", containerd_store=True
    )
    assert told == (
        "Docker 29.8.0 with the containerd image store would not see the images and containers that Docker 20.10.24 "
        "wrote with the storage driver overlay2; leave features.containerd-snapshotter off"
    )


def test_a_storage_driver_that_was_removed_is_refused() -> None:
    assert why_incompatible(written_by="20.10.24", storage="overlay on extfs", docker_version="28.5.2") == (
        "Docker 28.5.2 no longer has the storage driver overlay, with which Docker 20.10.24 wrote this data root; "
        "open it with a Docker before 24"
    )
    assert why_incompatible(written_by="20.10.24", storage="overlay on extfs", docker_version="23.0.6") == ""
    assert why_incompatible(written_by="20.10.24", storage="devicemapper", docker_version="24.0.9") == ""
    assert why_incompatible(written_by="20.10.24", storage="devicemapper", docker_version="25.0.0")


# The second table there: a storage driver is named to dockerd.
_DRIVERS = {
    "20.10": ("20.10.24+dfsg1", ""),
    "26.1": ("26.1.5+dfsg1", ""),
    "28.5": ("28.5.2+dfsg4", ""),
    "29": ("29.8.0", ""),
    "20.10 vfs": ("20.10.24+dfsg1", "vfs"),
    "28.5 vfs": ("28.5.2+dfsg4", "vfs"),
    "29 vfs": ("29.8.0", "vfs"),
}
_VFS = {"20.10 vfs", "28.5 vfs", "29 vfs"}


@pytest.mark.parametrize("opener", _DRIVERS)
@pytest.mark.parametrize(
    ("written_by", "storage", "seen_by"),
    [
        ("20.10.24+dfsg1", "vfs on extfs", _VFS),
        ("28.5.2+dfsg4", "vfs on extfs", _VFS),
        ("29.8.0", "vfs on extfs", _VFS),
        ("20.10.24+dfsg1", "overlay on extfs", {"20.10"}),
        ("28.5.2+dfsg4", "overlay2 on extfs", {"20.10", "26.1", "28.5", "29"}),
    ],
)
def test_a_docker_with_another_driver_or_without_a_driver_that_must_be_named_is_refused(
    written_by: str, storage: str, seen_by: set[str], opener: str
) -> None:
    docker_version, driver = _DRIVERS[opener]
    flags = [f"--storage-driver={driver}"] if driver else []
    why = why_incompatible(
        written_by=written_by,
        storage=storage,
        docker_version=docker_version,
        containerd_store=asked_store(flags),
        storage_driver=asked_driver(flags),
    )
    assert (why == "") == (opener in seen_by), why


@pytest.mark.parametrize(
    ("storage", "docker_version", "word"),
    [
        ("vfs on extfs", "28.5.2", Fallback.VFS),
        ("vfs on extfs", "29.8.0", Fallback.VFS),
        ("native", "29.8.0", Fallback.VFS),
        ("fuse-overlayfs on extfs", "28.5.2", Fallback.FUSE_OVERLAYFS),
    ],
)
def test_a_fallback_opens_what_was_written_with_it(storage: str, docker_version: str, word: Fallback) -> None:
    for fallback in Fallback:
        why = why_incompatible(written_by="28.5.2", storage=storage, docker_version=docker_version, fallback=fallback)
        assert (
            why == ""
            if fallback is word
            else why.endswith(f"which no Docker uses unless told to; use --fallback {word}")
        )


def test_a_driver_that_must_be_named_is_refused_with_the_way_out() -> None:
    assert why_incompatible(written_by="20.10.24", storage="vfs on extfs", docker_version="28.5.2") == (
        "Docker 28.5.2 would not see the images and containers that Docker 20.10.24 wrote with vfs, "
        "which no Docker uses unless told to; use --fallback vfs"
    )
    assert why_incompatible(
        written_by="20.10.24", storage="overlay2 on extfs", docker_version="28.5.2", storage_driver="vfs"
    ) == (
        "Docker 28.5.2 would not see the images and containers that Docker 20.10.24 wrote with overlay2, "
        "because it is told to use vfs; leave --storage-driver out"
    )


@pytest.mark.parametrize("version", ["28.5.2", "28.5.2+dfsg4", "28.5.2-1~debian.13~trixie", "5:28.5.2-1~debian", "28"])
def test_a_version_is_read_in_all_its_forms(version: str) -> None:
    assert why_incompatible(written_by="29.8.0", storage="overlayfs", docker_version=version)
    assert why_incompatible(written_by=version, storage="overlayfs", docker_version="28.0.1") == ""
    assert why_incompatible(written_by=version, storage="overlayfs", docker_version="26.1.5")


@pytest.mark.parametrize("unknown", ["", "unknown", "library-import", "v2.0.0-beta.24"])
def test_nothing_is_known_against_a_version_that_cannot_be_read(unknown: str) -> None:
    assert why_incompatible(written_by=unknown, storage="overlayfs", docker_version="28.5.2") == ""
    assert why_incompatible(written_by="29.8.0", storage="overlayfs", docker_version=unknown) == ""


def test_nothing_is_known_against_an_unnamed_storage() -> None:
    assert why_incompatible(written_by="29.8.0", storage="", docker_version="20.10.24") == ""


@pytest.mark.parametrize(
    ("arguments", "store"),
    [
        ([], None),
        (["--debug", "--label=containerd-snapshotter"], None),
        (["--feature=containerd-snapshotter=true"], True),
        (["--feature=containerd-snapshotter"], True),
        (["--feature=containerd-snapshotter=false"], False),
        (["--feature=other=true"], None),
        (["--storage-driver=overlay2"], False),
        (["--storage-driver=overlayfs"], None),
        (["--feature=containerd-snapshotter=true", "--feature=containerd-snapshotter=false"], False),
    ],
)
def test_flags_ask_for_a_store(arguments: list[str], store: bool | None) -> None:
    assert asked_store(arguments) is store
