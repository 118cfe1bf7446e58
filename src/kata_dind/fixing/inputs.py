"""Which files are meant, and their text: opened once, seekable, with its own line ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from kata_dind.errors import SpecError
from kata_dind.host.small_files import unreadable

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
_TOML = "config.toml"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)
_PROBED_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Input:
    """A file, or standard input."""

    name: str
    """As the user gave it, or found below the directory that the user gave."""

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return self.name == STDIN


def find_inputs(given: Sequence[str]) -> list[Input]:
    """Return the files that were named, and those in directories that were named. Raises SpecError."""
    found: dict[str, Input] = {}
    for name in given:
        for path in [name] if name == STDIN else _files(name):
            found.setdefault(path, Input(path))
    return list(found.values())


def _files(name: str) -> list[str]:
    if _URL.match(name):
        raise SpecError(
            f"{name}: it is a URL, and kata-dind reads files only",
            id="spec.url-not-read",
            hint=f"curl -fsSL {name} | kata-dind fix -f -",
        )
    try:
        is_directory = stat.S_ISDIR(os.stat(name).st_mode)  # noqa: PTH116 - the name is shown as it was given
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    if not is_directory:
        return [name]
    files = sorted(_below(name))
    if not files:
        raise SpecError(
            f"{name}: there are no manifests in this directory (*.yaml, *.yml, *.json, {_TOML})",
            id="spec.no-manifests",
        )
    return files


def _below(directory: str) -> Iterator[str]:
    """Walk a directory; symbolic links to files are followed, those to directories are not, as kubectl does."""

    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename), error) from error

    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = sorted(each for each in directories if not each.startswith("."))
        for name in names:
            path = Path(parent, name)
            wanted = name == _TOML or name.endswith(_SUFFIXES)
            if wanted and not name.startswith(".") and path.is_file():
                yield os.path.join(parent, name)  # noqa: PTH118 - Path would take a leading ./ away


@contextlib.contextmanager
def open_input(wanted: Input) -> Iterator[TextIO]:
    """Open a file as text that can be read twice; a pipe is copied first. Raises SpecError for what is not text."""
    with contextlib.ExitStack() as stack:
        try:
            binary: IO[bytes]
            if wanted.is_stdin:
                if sys.stdin is None:
                    raise SpecError("-f -: standard input is closed", id="spec.unreadable-file")
                binary = sys.stdin.buffer
            else:
                binary = stack.enter_context(Path(wanted.name).open("rb"))
            begin = binary.read(_PROBED_BYTES)
            if b"\0" in begin:
                raise SpecError(f"{shown(wanted)}: it is not text but binary data", id="spec.not-text")
            if not _is_regular(binary):
                spool = stack.enter_context(tempfile.TemporaryFile())
                spool.write(begin)
                shutil.copyfileobj(binary, spool)
                binary = spool
            binary.seek(0)
        except OSError as error:
            raise unreadable(shown(wanted), error) from error
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        try:
            yield text
        except UnicodeDecodeError as error:
            raise SpecError(f"{shown(wanted)}: it is not text in UTF-8", id="spec.not-text") from error
        finally:
            text.detach()


def require_regular(wanted: Input) -> None:
    """Raise SpecError for what can't be replaced, such as a pipe."""
    if not Path(wanted.name).is_file():
        raise SpecError(f"{wanted.name}: it is not a regular file, so it can't be changed", id="spec.unwritable-file")


def shown(wanted: Input) -> str:
    """Return the name of an input for people."""
    return "standard input" if wanted.is_stdin else wanted.name


def _is_regular(binary: IO[bytes]) -> bool:
    try:
        return stat.S_ISREG(os.fstat(binary.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):
        return False
