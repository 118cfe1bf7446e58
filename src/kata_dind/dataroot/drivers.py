"""dockerd's storage drivers and containerd's snapshotters: what is known of each. Pure.

The guest entrypoint has its lists from here, as it is joined.
"""

from __future__ import annotations

from kata_dind.vocabulary import Fallback

UNFIT_DRIVERS = {
    "vfs": "copies every layer",
    "native": "copies every layer",
    "fuse-overlayfs": "serves every file by a program of its own",
}
"""Those that need no overlay, and what makes them unfit unless they were asked for."""

FIRST_WITHOUT = {"aufs": 24, "overlay": 24, "devicemapper": 25}
"""The storage drivers that Docker has removed, and its first version without each."""

FILESYSTEM_DRIVERS = ("btrfs", "zfs")
"""Each works only on the file system of its name."""

STORAGE_DRIVERS = frozenset({"overlay2", *FILESYSTEM_DRIVERS, *FIRST_WITHOUT, *UNFIT_DRIVERS} - {"native"})
"""dockerd's own; any other name is a snapshotter of containerd's, and `native` is containerd's name for vfs."""

FALLBACK_DRIVERS: dict[Fallback, frozenset[str]] = {
    Fallback.NONE: frozenset(),
    Fallback.VFS: frozenset({"vfs", "native"}),  # the same for graph drivers and for the containerd store
    Fallback.FUSE_OVERLAYFS: frozenset({"fuse-overlayfs"}),
}
"""What each fallback means to dockerd. No Docker takes one of these by itself, even where it has stored data before."""

UNPROVEN_DRIVERS = (*UNFIT_DRIVERS, *FIRST_WITHOUT)
"""Those of which a working overlay proves nothing, whatever the file system."""
