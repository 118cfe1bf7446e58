"""The console script: a supervisor is started first, so that it gets ready while the command line is imported."""

from __future__ import annotations

import contextlib
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import NoReturn

_STARTERS = ("up", "start")
"""Verbs that need a supervisor."""


def main() -> NoReturn:
    """Run the command line and end with its exit code."""
    # Our models use no plugins, and the search for plugins in all installed packages takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imported modules are never garbage, and the collector would take 6 ms to look through them.
    gc.set_threshold(100_000)
    with _standby(sys.argv[1:]):
        from kata_dind.__main__ import main as run

        exit_code = run()
    _leave(exit_code)


def _leave(exit_code: int) -> NoReturn:
    """End without Python's teardown, which takes 12 ms: an eighth of `ls`, and a processor that a guest could use."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        sys.exit(exit_code)  # the interpreter reports a stream that can't be written
    os._exit(exit_code)


def _standby(words: list[str]) -> AbstractContextManager[None]:
    if not words or words[0] not in _STARTERS or {"--help", "-h"} & set(words):
        return contextlib.nullcontext()
    from kata_dind.life.standby import standby_for

    return standby_for(words)


if __name__ == "__main__":
    main()
