"""A seed as one file, to be carried to another host: a compressed tar of its facts and of what can't be made anew.

Nothing in such a file is believed: only the names that are expected are unpacked, links are not followed, and contents
are compared with the facts.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kata_dind.errors import CommandFailed, NoSpace, SeedUnfit, SpecError
from kata_dind.host.json_files import read_json
from kata_dind.host.process import require_tool, run
from kata_dind.store.marks import damaged_file
from kata_dind.store.seeds import FACTS, FORMAT, Seed

_SECONDS = 3600.0
_MEMBER = re.compile(r"[a-z0-9][a-z0-9-]*(\.img)?", re.ASCII)
_MARK_FIELDS = {"size_bytes": int, "sha256": str}


def write_archive(seed: Seed, file: Path) -> None:
    """Write a seed to a file; the file gets its name when it is whole. Raises SpecError, NoSpace, ToolMissing."""
    children = seed.facts.get("children", [])
    names = [name for name in seed.facts["files"] if name not in children]
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    argv = [*_tar_argv(unfinished), "--create", "--format=gnu", "--sparse", "--owner=0", "--group=0",
            "--numeric-owner", f"--directory={seed.directory}", "--", FACTS, *names]  # fmt: skip
    try:
        run(argv, timeout_seconds=_SECONDS)
        unfinished.replace(file)
    except CommandFailed as error:
        unwritable = SpecError(f"FILE: '{file}' cannot be written", id="spec.unwritable-file", details=error.details)
        raise _no_space(file.parent, error) if _is_full(error) else unwritable from error
    except OSError as error:
        raise SpecError(f"FILE: '{file}' cannot be written: {error.strerror}", id="spec.unwritable-file") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_facts(file: Path, directory: Path) -> dict[str, Any]:
    """Return the facts of an exported seed, with the marks of only those files that `unpack_files` gives.

    Raises SpecError for a file that does not begin as an exported seed does, SeedUnfit for one of another version.
    """
    _extract(file, directory, [FACTS], "--occurrence=1")
    facts = _checked_facts(read_json(directory / FACTS), file)
    (directory / FACTS).unlink()
    return facts


def unpack_files(file: Path, directory: Path, facts: Mapping[str, Any]) -> None:
    """Unpack the files that the facts of an exported seed list.

    Raises SpecError for a file that is not an exported seed or not all of it, SeedUnfit for a damaged one, NoSpace.
    """
    _extract(file, directory, [*facts["files"]])
    for name in facts["files"]:
        status = (directory / name).lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _foreign(file)
        (directory / name).chmod(0o600)
    if name := damaged_file(directory, facts["files"]):
        raise SeedUnfit(
            f"FILE: '{file}' is damaged: the file {name} in it is not as it was exported", id="seed.damaged"
        )


def _extract(file: Path, directory: Path, names: list[str], *options: str) -> None:
    argv = [*_tar_argv(file), "--extract", *options, "--no-same-owner", "--no-same-permissions", "--no-recursion",
            f"--directory={directory}", "--", *names]  # fmt: skip
    try:
        run(argv, timeout_seconds=_SECONDS)
    except CommandFailed as error:
        raise _no_space(directory, error) if _is_full(error) else _foreign(file, error.details) from error


def _checked_facts(facts: Mapping[str, Any], file: Path) -> dict[str, Any]:
    marks, children = facts.get("files"), facts.get("children")
    if not isinstance(marks, dict) or not isinstance(children, list):
        raise _foreign(file)
    if facts.get("format") != FORMAT:
        raise SeedUnfit(f"FILE: '{file}' was exported by another version of kata-dind", id="seed.other-version")
    marks = {name: mark for name, mark in marks.items() if name not in children}
    for name, mark in marks.items():
        known = isinstance(mark, dict) and all(isinstance(mark.get(key), kind) for key, kind in _MARK_FIELDS.items())
        if not _MEMBER.fullmatch(name) or not known:
            raise _foreign(file)
    return {**facts, "files": marks}


def _tar_argv(file: Path) -> list[str]:
    tar, zstd = require_tool("tar", package="tar"), require_tool("zstd", package="zstd")
    # GNU tar takes what stands before a colon in an archive's name for a host, unless it is told otherwise.
    return [str(tar), "--force-local", f"--file={file.absolute()}", f"--use-compress-program={zstd} -q -T0"]


def _is_full(error: CommandFailed) -> bool:
    return "No space left" in error.details


def _no_space(directory: Path, error: CommandFailed) -> NoSpace:
    return NoSpace(f"there is not enough space for the seed in {directory}", id="host.no-space", details=error.details)


def _foreign(file: Path, details: str = "") -> SpecError:
    return SpecError(
        f"FILE: '{file}' is not a seed that `kata-dind seed export` has written, or is incomplete",
        id="seed.foreign-file",
        details=details,
    )
