"""Where sandboxes and images live: `KATA_DIND_STATE_DIR` and `KATA_DIND_CACHE_DIR`, else the user's XDG directories.

The environment is read when a function is called, never at import.
"""

from __future__ import annotations

import os
from pathlib import Path

from kata_dind.errors import HostError


def state_directory() -> Path:
    """Return the directory of the sandboxes' state, made with mode 0700 when absent. Raises HostError."""
    return _private_directory("KATA_DIND_STATE_DIR", kind="state")


def cache_directory() -> Path:
    """Return the directory of images, guest OS and kernels, made with mode 0700 when absent. Raises HostError."""
    return _private_directory("KATA_DIND_CACHE_DIR", kind="cache")


def make_private(directory: Path, *, hint: str = "") -> Path:
    """Make a directory with mode 0700, and those above it, where they are absent; return it. Raises HostError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"the directory {directory} cannot be made: {error.strerror}", id="host.directory-not-made", hint=hint
        ) from error
    return directory


def _private_directory(variable: str, *, kind: str) -> Path:
    named = os.environ.get(variable, "")
    path = Path(named).expanduser().absolute() if named else _xdg_directory(kind)
    return make_private(path, hint=f"set {variable} to a directory that you may write to")


def _xdg_directory(kind: str) -> Path:
    import platformdirs  # here, since it is not needed when both variables are set

    return platformdirs.user_state_path("kata-dind") if kind == "state" else platformdirs.user_cache_path("kata-dind")
