"""Lets inotify in the guest report what was changed on the host, in a process of its own: its calls may block.

Linux reports what a process of the same kernel does to a file, and the host's kernel is another one. So each file that
was changed there is touched here, and in such a way that it stays as it is:

- A file is opened for writing, a write of no bytes is sent to it through io_uring, and it is closed: IN_MODIFY and
  IN_CLOSE_WRITE. The host sees a file that is opened and closed. A write(2) of no bytes reports nothing, and a time
  that is set again could undo that of a process which writes meanwhile.
- A program is not opened for writing, since the host could not run it in this moment (ETXTBSY); nor can a directory or
  a link be. These are given the owner that they have: IN_ATTRIB.

First the guest forgets what it knows of the path, so that whoever is told reads what the host has now.
"""

from __future__ import annotations

import os
import stat

from . import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPEN_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_OPEN = 32
"""How many files are touched at once."""

_EXECUTABLE, _CHANGED_BY_CHOWN = 0o111, stat.S_ISUID | stat.S_ISGID


def serve(root: str) -> None:
    """Touch paths of standard input, each ended by a NUL, as seen from a root; an empty one is answered by a newline.

    The root belongs to a container, and is left after each batch, so that its file systems can be unmounted. Does not
    return.
    """
    ours = os.open("/", os.O_PATH)
    ring = _find_ring()
    rest = b""
    while data := os.read(0, 65536):
        *paths, rest = (rest + data).split(b"\0")
        while paths:
            count = paths.index(b"") if b"" in paths else len(paths)
            os.chroot(root)
            for start in range(0, count, _MOST_OPEN):
                touch(paths[start : min(start + _MOST_OPEN, count)], ring)
            os.fchdir(ours)
            os.chroot(".")
            if count < len(paths):
                os.write(1, b"\n")
            del paths[: count + 1]
    os._exit(0)


def touch(paths: Sequence[bytes], ring: libc.Ring | None) -> None:
    """Touch files, directories and links; what is not there, or can't be touched, is left out."""
    opened = []
    for path in paths:
        try:
            if not _is_there(path):
                continue
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and not mode & _EXECUTABLE:
                opened.append(os.open(path, _OPEN_FLAGS))
            if ring is None or not stat.S_ISREG(mode) or mode & _EXECUTABLE:
                _change_nothing(path, mode)
        except OSError:  # it is gone, or its share is read-only
            continue
    if ring is not None and opened:
        ring.write_nothing(opened)
    for fd in opened:
        os.close(fd)


def _is_there(path: bytes) -> bool:
    """Tell whether the host has a path, and make Linux forget that it had another file there, or none.

    Linux asks for a name anew that is to be made, and makes no second name for a directory, whether it is there or not.
    """
    try:
        os.link(b"/", path)
    except FileExistsError:
        return True
    except OSError:
        return False
    return False


def _change_nothing(path: bytes, mode: int) -> None:
    if stat.S_ISDIR(mode) or not mode & _CHANGED_BY_CHOWN:
        os.lchown(path, os.lstat(path).st_uid, -1)


def _find_ring() -> libc.Ring | None:
    try:
        return libc.Ring(_MOST_OPEN)
    except OSError:  # a kernel without it; then a change of a file is reported as IN_ATTRIB
        return None
