"""Which paths of this host can be shared."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kata_dind.errors import SpecError


def require_shareable(path: Path) -> None:
    """Raise SpecError for a path of this host that can't be shared."""
    named = f"--share: '{path}'"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise SpecError(f"{named} does not exist on this host", id="share.missing") from error
    except OSError as error:
        raise SpecError(f"{named} cannot be read: {error.strerror}", id="share.unreadable") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise SpecError(f"{named} is neither a directory nor a file", id="share.unreadable")
    if not os.access(path, os.R_OK):
        raise SpecError(f"{named} may not be read by this user", id="share.unreadable")
