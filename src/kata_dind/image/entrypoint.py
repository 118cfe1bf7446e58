"""The guest entrypoint: one POSIX sh script, joined from its parts, always the same to the byte.

All code that hands out or reads the script (the guest OS, `kata-dind entrypoint`, the tests) gets it here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from kata_dind.dataroot.kinds import LOOP_FILE
from kata_dind.dataroot.status import EXIT_BAD_INPUT, EXIT_NO_DATA_ROOT
from kata_dind.drivers import FILESYSTEM_DRIVERS, UNPROVEN_DRIVERS
from kata_dind.host.disks import EXT4_EXTENDED, EXT4_OPTIONS, LABEL, LARGEST_JOURNAL_MIB, XFS_LEAST_MIB, XFS_OPTIONS
from kata_dind.image.shelltext import only_for
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind, Fallback, Filesystem

_DIRECTORY = Path(__file__).parents[1] / "guest" / "entrypoint"

PARTS = {
    "head": "",
    "speak": "",
    "parse": "",
    "command": "",
    "program": "whole",
    "one_program": "copy",
    "other_programs": "other-programs",
    "which_containerd": "",
    "toml": "other-programs",
    "preflight": "",
    "detect": "",
    "choose": "auto",
    "prepare": "",
    "below": "below",
    "memory": "memory",
    "elf": "",
    "call": "",
    "block": "block",
    "loop": "loop",
    "filesystem": "disk",
    "ext4": "ext4",
    "xfs": "xfs",
    "verify": "",
    "rootless": "rootless",
    "settle": "",
    "fallback": "fallback",
    "system_containerd": "containerd",
    "tune": "",
    "watch": "",
    "report": "",
    "hand_over": "",
    "own_containerd": "dockerd",
    "main": "",
}
"""In the order of the script: its head, the functions of each step in the order of the steps, and the list of steps;
each with the feature that it is for, if it is not for all."""

WHOLE = frozenset({
    *DataRootKind, *Filesystem, "below", "choice", "containerd", "disk", "dockerd", "fallback", "memory-or-share",
    "other-kinds", "other-programs", "rootless", "size", "whole",
})  # fmt: skip
"""The features of the whole script. A statement of a part may be for one alone, as `only_for` has it."""

INTERFACE = 1
"""The version of what others may rely on: variables, exit codes, JSON lines and status file. A higher one breaks users
of a lower; what is only added leaves it as it is."""

_PLACEHOLDER = re.compile(r"@([A-Z][A-Z0-9_]*)@")

_LEAST_OF_XFS = f", for xfs at least {XFS_LEAST_MIB}M"

PROGRAM_WORDS = {
    "dockerd": "*/dockerd | */dockerd-*",
    "containerd": "*/containerd",
    "dagger": "*/dagger-en*",
    "buildkitd": "*/buildkitd | */buildkitd-en* | */buildctl-d*",
}
"""By which word of a command, with a slash before it, a program is known to be started; patterns of the shell."""

WORDS = {
    **{f"{program.upper()}_WORDS": words for program, words in PROGRAM_WORDS.items()},
    "CHECKS": "0 1",
    "DISK_OPTION": "''",
    "EXCLUSIVES": "1",
    "EXIT_BAD_INPUT": str(EXIT_BAD_INPUT),
    "EXIT_NO_DATA_ROOT": str(EXIT_NO_DATA_ROOT),
    "EXT4_EXTENDED": EXT4_EXTENDED,
    "EXT4_OPTIONS": shlex.join(EXT4_OPTIONS),
    "FALLBACKS": " ".join(Fallback),
    "FILESYSTEMS": " ".join(Filesystem),
    "FILESYSTEM_OPTION": "--filesystem",
    "FILESYSTEM_DRIVERS": " | ".join(FILESYSTEM_DRIVERS),
    "GROWER": "resize2fs or xfs_growfs (Alpine: xfsprogs-extra)",
    "INTERFACE": str(INTERFACE),
    "KINDS": " ".join(DataRootKind),
    "LABEL": LABEL,
    "LARGEST_JOURNAL_MIB": str(LARGEST_JOURNAL_MIB),
    "LEAST_MIB": "64",
    "LEAST_OF_XFS": _LEAST_OF_XFS,
    "LOOP_FILE": LOOP_FILE,
    "MORE_OPTIONS": "${options:-}",
    "OTHER_FILESYSTEM": "",
    "VERSION": __version__,
    "UNPROVEN_DRIVERS": " | ".join(UNPROVEN_DRIVERS),
    "XFS_OPTIONS": shlex.join(XFS_OPTIONS),
}
"""The constants that the script shares with the host: `@NAME@` in a part stands for NAME; lists are shell patterns."""


def entrypoint_script() -> str:
    """Return the script that is shipped."""
    return assemble(read_parts(), WORDS)


def read_parts(features: Collection[str] = WHOLE) -> dict[str, str]:
    """Return the text of each part by its name, in the script's order, as far as it is for some features."""
    return {
        name: only_for(features, part_file(name).read_text(encoding="utf-8"))
        for name, feature in PARTS.items()
        if not feature or feature in features
    }


def part_file(name: str) -> Path:
    """Return the file of a part, which has what only some features are for as well."""
    return _DIRECTORY / f"{name}.sh"


def assemble(parts: Mapping[str, str], words: Mapping[str, str]) -> str:
    """Join parts in their order, with a blank line between two, and replace each `@NAME@` by its word.

    Each line stays one line. Raises KeyError for a name without a word.
    """
    return _PLACEHOLDER.sub(lambda match: words[match[1]], "\n".join(parts.values()))
