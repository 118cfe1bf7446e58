"""What Docker meets in each version of Kata, and what a version needs for it; pure.

Source: the release notes and the trees of kata-containers/kata-containers at the tags that are named.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int, int]

NEWEST: Version = (4, 1, 0)
"""The newest of Kata's versions that we know."""

OLDEST: Version = (3, 0, 0)

BLOCK_PLAIN_SINCE: Version = (4, 0, 0)
SHIMS_AS_MAPPING_SINCE: Version = (3, 23, 0)
RUST_IS_DEFAULT_SINCE: Version = (4, 0, 0)


@dataclass(frozen=True, slots=True)
class Need:
    """What is to know of some versions."""

    since: Version
    before: Version | None
    """None: of all later ones."""
    what: str


NEEDS = (
    Need(
        BLOCK_PLAIN_SINCE,
        None,
        'with emptydir_mode = "block-plain" each emptyDir on a disk becomes an ext4 file system of the pod\'s own, '
        "which is the quickest data root. It takes 0.1 % of the node's file system at once, which counts against the "
        "emptyDir's sizeLimit, and it can grow as large as that file system.",
    ),
    Need(
        OLDEST,
        BLOCK_PLAIN_SINCE,
        "there is no block-plain (it came with 4.0), so a repaired pod gets a disk in a file, the kind loop.",
    ),
    Need(
        (3, 13, 0),
        (3, 14, 0),
        "the guest's kernel can't mount a disk in a file (kata-containers#10808), so only memory and block volumes "
        "work: use another version.",
    ),
    Need(
        OLDEST,
        (3, 31, 0),
        "with the Rust runtime, and QEMU or Cloud Hypervisor, root in a privileged container can reach the node "
        "through virtiofsd (GHSA-2gv2-cffp-j227). Nearly all dind pods are privileged, so use a later version, or the "
        "Go runtime.",
    ),
    Need(
        (3, 2, 0),
        (3, 31, 0),
        "whoever may make pods can share any directory of the node with a guest, by the annotation "
        "virtio_fs_extra_args (GHSA-rr59-xxvx-96qr): take it out of enable_annotations, or use a later version.",
    ),
    Need(
        OLDEST,
        (3, 27, 0),
        "with Cloud Hypervisor, a guest can write to the image that all guests boot from (GHSA-wwj6-vghv-5p64): use a "
        "later version, or QEMU.",
    ),
    Need(
        OLDEST,
        (3, 23, 0),
        "the guest's kernel lacks tables of ip6tables (kata-containers#11886): Docker's IPv6 and kind's networks fail.",
    ),
    Need(
        OLDEST,
        (3, 22, 0),
        "the guest's kernel has no br_netfilter, so rules for bridged packets have no effect.",
    ),
    Need(
        OLDEST,
        (3, 14, 0),
        "kubectl exec into a dind container fails once dockerd has nested its cgroups (kata-containers#10845).",
    ),
)


def needs_of(version: Version) -> list[str]:
    """Return what is to know of a version, in sentences."""
    return [need.what for need in NEEDS if need.since <= version and (need.before is None or version < need.before)]


def written(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def parse_version(text: str) -> Version | None:
    """Return the version in a text such as `4.1.0`, `v4.1` or `4.1.0-rc0`; None if there is none."""
    numbers = text.strip().removeprefix("v").partition("-")[0].partition("+")[0].split(".")
    if not 2 <= len(numbers) <= 3 or not all(each.isascii() and each.isdigit() and len(each) < 5 for each in numbers):
        return None
    major, minor, patch = (*map(int, numbers), 0)[:3]
    return major, minor, patch
