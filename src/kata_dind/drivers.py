"""dockerd's storage drivers and containerd's snapshotters, and the facts about each. Pure.

The lists in the guest entrypoint come from here, when its parts are joined; pods, plans and proofs ask here as well.
"""

from __future__ import annotations

from kata_dind.vocabulary import Fallback

UNFIT_DRIVERS = {
    "vfs": "copies every layer",
    "native": "copies every layer",
    "fuse-overlayfs": "serves every file through a program in user space",
}
"""Those that need no overlay, and why each is unfit unless the user has asked for it."""

FIRST_WITHOUT = {"aufs": 24, "overlay": 24, "devicemapper": 25}
"""The storage drivers that Docker has removed, and the first Docker without each."""

FILESYSTEM_DRIVERS = ("btrfs", "zfs")
"""Each works only on the file system of its name."""

STORAGE_DRIVERS = frozenset({"overlay2", *FILESYSTEM_DRIVERS, *FIRST_WITHOUT, *UNFIT_DRIVERS} - {"native"})
"""dockerd's own drivers. Any other name is that of a containerd snapshotter; `native` is containerd's name for vfs."""

FALLBACK_DRIVERS: dict[Fallback, frozenset[str]] = {
    Fallback.NONE: frozenset(),
    Fallback.VFS: frozenset({"vfs", "native"}),  # the same for graph drivers and for the containerd store
    Fallback.FUSE_OVERLAYFS: frozenset({"fuse-overlayfs"}),
}
"""The drivers of each fallback. No Docker uses one of these by itself, even where it has stored data with it."""

UNPROVEN_DRIVERS = (*UNFIT_DRIVERS, *FIRST_WITHOUT)
"""Those about which a working overlay proves nothing, whatever the file system."""
