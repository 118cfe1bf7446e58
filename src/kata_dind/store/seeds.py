"""The seeds of this user: each a directory that never changes, under a lock that running clones share.

memory       the guest's memory, mapped by all clones       state     the state of its devices
layer.img    the disk over the image                        data.img  the data root, for the block kind
*.qcow2      empty disks over those two, for clones to copy
guest-os, modules, kernel, initramfs, image                 what the machine runs on, linked from the cache
seed.json    what the seed is made of, its proof, and the mark of each file
in-use.lock  shared by running clones; its time is that of the last use

The name of an internal seed is `_` and a key of everything that the seed depends on; no name that a user may give
begins with `_`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import SeedUnfit, SpecError
from kata_dind.host.directories import make_private, state_directory
from kata_dind.host.disks import make_durable
from kata_dind.host.json_files import read_json, write_json
from kata_dind.host.locks import is_locked, locked
from kata_dind.store.marks import changed_file, damaged_file, remarked_files
from kata_dind.store.shelf import ErrorIds, Shelf

FORMAT = 3
"""The version of the directory, and of the messages to the agent of a restored guest."""

FACTS = "seed.json"
_IN_USE = "in-use.lock"
_INTERNAL = "_"


@dataclass(frozen=True)
class Seed:
    """A seed, and its facts: what seed.json says."""

    seed_id: str
    directory: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """The name that the user gave the seed; empty for an internal one."""
        return "" if self.is_internal else self.seed_id

    @property
    def is_internal(self) -> bool:
        """Whether kata-dind made it unasked, for all sandboxes of its kind."""
        return self.seed_id.startswith(_INTERNAL)

    @property
    def parts(self) -> dict[str, str]:
        """The parts that the seed depends on, with their digests."""
        return dict(self.facts.get("parts") or {})

    @property
    def is_in_use(self) -> bool:
        """Whether a clone of the seed runs."""
        return is_locked(self.directory / _IN_USE)

    @property
    def used_at(self) -> float:
        """When a clone was last made of the seed, in seconds since the epoch."""
        with contextlib.suppress(OSError):
            return (self.directory / _IN_USE).stat().st_mtime
        return 0.0

    def verify(self) -> None:
        """Read every file in full. Raises SeedUnfit for the first one that has changed."""
        name = damaged_file(self.directory, self.facts["files"])
        if name is not None:
            raise SeedUnfit(
                f"the seed '{self.seed_id}' is damaged: the file {name} has changed since the seed was made",
                id="seed.damaged",
                hint=f"kata-dind seed rm {self.seed_id}, then build it again",
            )


def seeds_directory() -> Path:
    """Return where seeds lie, made when absent."""
    return make_private(state_directory() / "seeds")


def internal_id(key: str) -> str:
    """Return the id of the internal seed with this key."""
    return _INTERNAL + key


def list_seeds() -> list[Seed]:
    """Return all seeds, those with a name first, and sweep the leftovers of killed builders."""
    shelf = _shelf()
    shelf.sweep()
    seeds = [seed for path in shelf.paths() if (seed := load_seed(path.name))]
    return sorted(seeds, key=lambda seed: (seed.is_internal, seed.seed_id))


def load_seed(seed_id: str) -> Seed | None:
    """Return a seed by its id; None when there is no such seed, or its facts cannot be read."""
    directory = seeds_directory() / seed_id
    facts = read_json(directory / FACTS)
    return Seed(seed_id, directory, facts) if facts and not seed_id.startswith(".") else None


def require_seed(name: str) -> Seed:
    """Return a seed by its name or id. Raises SpecError for an unknown one, naming those that exist."""
    seed = load_seed(name) if name and "/" not in name else None
    return seed or _shelf().require(name, {seed.seed_id: seed for seed in list_seeds()})


@contextlib.contextmanager
def use_seed(seed_id: str) -> Iterator[Seed]:
    """Keep a seed from being removed for the length of the block, after a cheap look at its files.

    Raises SeedUnfit when the seed is gone, or when the content of a file has changed.
    """
    gone = SeedUnfit(f"the seed '{seed_id}' has been removed", id="seed.removed", hint="start a new sandbox")
    with _shelf().shared(seed_id, gone=gone):
        seed = load_seed(seed_id)
        if seed is None:
            raise gone
        require_intact(seed)
        with contextlib.suppress(OSError):
            os.utime(seed.directory / _IN_USE)
        yield seed


def require_intact(seed: Seed) -> None:
    """Raise SeedUnfit when a file of a seed was written to or replaced, and its content has changed.

    If the files were only copied, as by a backup, their new times and inodes are noted.
    """
    if seed.facts.get("format") != FORMAT:
        raise SeedUnfit(f"the seed '{seed.seed_id}' was made by another version of kata-dind", id="seed.other-version")
    if changed_file(seed.directory, seed.facts["files"]) is None:
        return
    seed.verify()
    files = remarked_files(seed.directory, seed.facts["files"])
    write_json(seed.directory / FACTS, {**seed.facts, "files": files})


def new_seed_directory() -> contextlib.AbstractContextManager[Path]:
    """Make a directory for the files of a future seed; unless it has become one, it is removed after the block."""
    return _shelf().workshop()


def publish_seed(directory: Path, seed_id: str, facts: dict[str, Any]) -> Seed:
    """Write the facts of a finished directory and give it its id. Raises SpecError when the id is taken."""
    write_json(directory / FACTS, {"format": FORMAT, **facts, "name": seed_id})
    make_durable(directory)
    shelf = _shelf()
    with shelf.changing():
        home = shelf.place(directory, seed_id)
    return Seed(seed_id, home, read_json(home / FACTS))


def require_free(seed_id: str) -> None:
    """Raise SpecError when a seed has this id."""
    _shelf().require_free(seed_id)


def remove_seed(seed: Seed, *, references: list[str]) -> None:
    """Remove a seed. Raises SpecError when a clone of it runs, or when disks of sandboxes lie over its disks."""
    with _shelf().removing(seed.seed_id):
        require_unused(seed, references=references)


def require_unused(seed: Seed, *, references: list[str]) -> None:
    """Raise SpecError when a clone of a seed runs, or when disks of sandboxes lie over its disks."""
    _shelf().require_unused(seed.seed_id, references)
    if seed.is_in_use:
        raise SpecError(f"the seed '{seed.seed_id}' is used by a sandbox that is being made", id="seed.used-by-start")


def build_lock(seed_id: str) -> contextlib.AbstractContextManager[int]:
    """Take the lock for building the seed with this id, however long an earlier builder has it."""
    return locked(make_private(seeds_directory() / ".locks") / seed_id, timeout_seconds=None)


def _shelf() -> Shelf:
    return Shelf(
        seeds_directory(),
        "seed",
        ids=ErrorIds(name_taken="seed.name-taken", unknown="seed.unknown", in_use="seed.in-use"),
        lock=_IN_USE,
        make_hint="kata-dind seed build {}",
        free_hint="kata-dind seed rm {}",
    )
