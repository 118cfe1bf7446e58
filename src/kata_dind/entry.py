"""The console script: what takes long is begun before the command line's own imports."""

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
"""Verbs that want a supervisor."""


def main() -> NoReturn:
    """Run the command line and end with its exit code."""
    # Our models use none, and to look for plugs in all that is installed takes 20 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Nothing of what is imported is ever garbage, and to look for some meanwhile takes 6 ms.
    gc.set_threshold(100_000)
    with _standby(sys.argv[1:]):
        from kata_dind.__main__ import main as run

        exit_code = run()
    _leave(exit_code)


def _leave(exit_code: int) -> NoReturn:
    """End without taking Python apart, which takes 12 ms: an eighth of `ls`, and a processor that a guest could use."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        sys.exit(exit_code)  # which knows what to say of an output that nobody takes
    os._exit(exit_code)


def _standby(words: list[str]) -> AbstractContextManager[None]:
    if not words or words[0] not in _STARTERS or {"--help", "-h"} & set(words):
        return contextlib.nullcontext()
    from kata_dind.life.standby import standby_for

    return standby_for(words)


if __name__ == "__main__":
    main()
