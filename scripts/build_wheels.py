#!/usr/bin/env python3
"""Put the wheels of kata-dind and of all that its webhook needs into a directory, for deploy/image/Containerfile.

    .venv/bin/python -m scripts.build_wheels DIRECTORY [PYTHON]

PYTHON is the version in the image, such as 3.13. The others are the versions of uv.lock, from the package index.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.process import run

REPOSITORY = Path(__file__).parents[1]
DEFAULT_PYTHON = "3.13"
"""That of the Containerfile's default base."""


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 2):
        print("usage: python -m scripts.build_wheels DIRECTORY [PYTHON]", file=sys.stderr)
        return 2
    try:
        build_wheels(Path(argv[0]), *argv[1:])
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    return 0


def build_wheels(directory: Path, python: str = DEFAULT_PYTHON) -> None:
    """Fill a directory, in which no other wheels may be."""
    directory.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "wheel", "--no-deps", f"--wheel-dir={directory}", REPOSITORY], timeout_seconds=600)
    (ours,) = directory.glob("kata_dind-*.whl")
    pins = directory / "constraints.txt"
    pins.write_text(run([sys.executable, REPOSITORY / "scripts" / "pins.py"], timeout_seconds=60).stdout)
    machine = platform.machine()
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (36, 34, 31, 28, 27, 26, 24, 17, 12)]
    wanted = [*platforms, f"--python-version={python}", "--implementation=cp", "--only-binary=:all:"]
    argv = [*pip, "download", *wanted, f"--constraint={pins}", f"--dest={directory}", f"{ours}[webhook]"]
    run(argv, timeout_seconds=600)
    pins.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
