"""The console script: what takes long is begun before the command line's own imports."""

from __future__ import annotations

import sys

from kata_dind.standby import standby_for


def main() -> int:
    """Run the command line and return its exit code."""
    with standby_for(sys.argv[1:]):
        from kata_dind.__main__ import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
