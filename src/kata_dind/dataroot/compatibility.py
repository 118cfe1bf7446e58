"""Which Docker may open which data root. Pure.

The rules follow from docs/decisions/docker-versions.md. Any Docker sees the volumes and networks of a data root. Older
and newer ones alike see the images and containers, unless these lie in the other store: storage driver or containerd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kata_dind.drivers import FALLBACK_DRIVERS, FIRST_WITHOUT, STORAGE_DRIVERS
from kata_dind.vocabulary import Fallback

_CONTAINERD_ON_DEMAND = 24
_CONTAINERD_BY_DEFAULT = 29


def why_incompatible(
    *,
    written_by: str,
    storage: str,
    docker_version: str,
    containerd_store: bool | None = None,
    storage_driver: str = "",
    fallback: Fallback = Fallback.NONE,
) -> str:
    """Say why a Docker must not open a data root, and what to do, in a sentence; "" when it may.

    `written_by` is the version that wrote last, and `storage` that of its verdict: `overlay2 on extfs`, or a
    snapshotter's name. `containerd_store` is the value of features.containerd-snapshotter that dockerd is given, None
    when it is given none; `storage_driver` is the driver that it is told to use, empty for none. A version that can't
    be read may open any data root.
    """
    writer, opener = _major(written_by), _major(docker_version)
    name = storage.partition(" on ")[0]
    if writer is None or opener is None or not name:
        return ""
    if name not in STORAGE_DRIVERS:
        if _opens_containerd_store(writer, opener, containerd_store):
            return _why_not_named(name, written_by, docker_version, storage_driver, fallback)
        hidden = f"the images and containers that Docker {written_by} wrote with containerd's snapshotter {name}"
        return (
            f"Docker {docker_version} would not see {hidden}, "
            f"and would hide them from Docker {_CONTAINERD_BY_DEFAULT} as well; {_way_to_containerd_store(opener)}"
        )
    if opener >= FIRST_WITHOUT.get(name, opener + 1):
        return (
            f"Docker {docker_version} no longer has the storage driver {name}, with which Docker {written_by} wrote "
            f"this data root; open it with a Docker before {FIRST_WITHOUT[name]}"
        )
    if containerd_store and opener >= _CONTAINERD_ON_DEMAND:
        return (
            f"Docker {docker_version} with the containerd image store would not see the images and containers that "
            f"Docker {written_by} wrote with the storage driver {name}; leave features.containerd-snapshotter off"
        )
    return _why_not_named(name, written_by, docker_version, storage_driver, fallback)


def _why_not_named(name: str, written_by: str, docker_version: str, storage_driver: str, fallback: Fallback) -> str:
    hidden = f"Docker {docker_version} would not see the images and containers that Docker {written_by} wrote with"
    needed_by = [word for word, drivers in FALLBACK_DRIVERS.items() if name in drivers]
    if storage_driver and storage_driver != name:
        return f"{hidden} {name}, because it is told to use {storage_driver}; leave --storage-driver out"
    if needed_by and fallback not in needed_by and not storage_driver:
        return f"{hidden} {name}, which no Docker uses unless told to; use --fallback {needed_by[0]}"
    return ""


def asked_store(dockerd_args: Sequence[str]) -> bool | None:
    """Tell whether dockerd's flags ask for containerd's image store; None when they say nothing about it."""
    for argument in reversed(dockerd_args):
        flag, _, value = argument.partition("=")
        feature, _, state = value.partition("=")
        if flag == "--feature" and feature == "containerd-snapshotter":
            return state in ("", "true", "1")
        if flag == "--storage-driver" and value in STORAGE_DRIVERS:
            return False
    return None


def asked_driver(dockerd_args: Sequence[str]) -> str:
    """Return the storage driver that dockerd's flags name; empty for none."""
    named = [argument.partition("=")[2] for argument in dockerd_args if argument.startswith("--storage-driver=")]
    return named[-1] if named else ""


def _opens_containerd_store(writer: int, opener: int, containerd_store: bool | None) -> bool:
    if containerd_store is None:
        # Before 29, something has set this for the writer: maybe the daemon.json of its image, which the same release
        # reads again.
        return opener >= _CONTAINERD_BY_DEFAULT or opener == writer
    return containerd_store and opener >= _CONTAINERD_ON_DEMAND


def _way_to_containerd_store(opener: int) -> str:
    if opener >= _CONTAINERD_BY_DEFAULT:
        return "leave features.containerd-snapshotter on, and name no storage driver"
    way = f"open it with Docker {_CONTAINERD_BY_DEFAULT} or newer"
    return f"{way}, or turn features.containerd-snapshotter on" if opener >= _CONTAINERD_ON_DEMAND else way


def _major(version: str) -> int | None:
    # A Debian version may begin with an epoch: docker-ce's version is 5:28.5.2-1~debian.13~trixie.
    match = re.match(r"(?:[0-9]+:)?([0-9]+)\b", version, re.ASCII)
    return int(match[1]) if match else None
