"""Files that have no name on any disk, for libraries that take a path and nothing else, such as Python's ssl."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def nameless_file(content: bytes) -> Iterator[str]:
    """Yield a path to a file with this content, which only this process can open, and which ends with the block."""
    with os.fdopen(os.memfd_create("kata-dind", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
