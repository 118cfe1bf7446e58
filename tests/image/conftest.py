"""An ordinary user to build as: made for the session where the tests run as root, ourselves where they don't."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parents[2] / "src"
_NAME = f"kata-dind-{os.getpid()}"  # a session that was killed leaves its user behind


@dataclass(frozen=True)
class OrdinaryUser:
    """A user without privileges, with subordinate ids, and with a cache of its own."""

    name: str
    uid: int
    cache: Path
    prefix: tuple[str, ...]
    """What makes a command run as this user; it execs, so that the process started is the command itself."""
    python: str

    def argv(self, code: str, *arguments: str) -> list[str]:
        """Return the call that runs Python code as this user."""
        return [*self.prefix, self.python, "-c", code, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment: our code, its cache."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.lower().endswith("_proxy")}
        home = str(self.cache.parent)
        return {**kept, "HOME": home, "PYTHONPATH": str(_SOURCES), "KATA_DIND_CACHE_DIR": str(self.cache)}

    def run(self, code: str, *arguments: str) -> str:
        """Run Python code as this user; return what it prints."""
        argv = self.argv(code, *arguments)
        done = subprocess.run(argv, env=self.environment, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def ordinary_user(private_directories: Path) -> Iterator[OrdinaryUser]:
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        cache = private_directories / "cache"
        yield OrdinaryUser(entry.pw_name, entry.pw_uid, cache, (), sys.executable)
        return
    home = private_directories / "home"
    # Debian's useradd gives subordinate ids to users that are no system users.
    _check("useradd", "--create-home", "--home-dir", str(home), "--user-group", _NAME)
    try:
        home.chmod(0o700)
        uid = pwd.getpwnam(_NAME).pw_uid
        prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups")
        yield OrdinaryUser(_NAME, uid, home / "cache", prefix, _find_python(prefix))
    finally:
        _check("userdel", "--remove", _NAME)


def _find_python(prefix: Sequence[str]) -> str:
    # A virtual environment's interpreter may lie in root's home.
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        probe = [*prefix, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return python
    pytest.fail("no Python 3.11 that an ordinary user may run", pytrace=False)


def _check(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
