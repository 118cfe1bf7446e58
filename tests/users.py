"""An ordinary user: made for a while where the tests run as root, ourselves where they don't."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parents[1] / "src"
_LIBRARIES = Path(sysconfig.get_path("purelib"))
_NOT_NEEDED = ("mypy*", "ruff*", "pip*", "hypothesis*", "pytest*", "_pytest*", "shellcheck*", "__pycache__")
_WITH_TUN = """
[ -w /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" = 666 ] || {
	mknod -m 0666 "$0" c 10 200
	mount --bind "$0" /dev/net/tun
}
exec "$@"
"""
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
    library: Path
    """Our code and what it imports, where this user may read it."""

    def argv(self, code: str, *arguments: str) -> list[str]:
        """Return the call that runs Python code as this user."""
        return [*self.prefix, self.python, "-c", code, *arguments]

    def with_tun(self, *command: str) -> list[str]:
        """Return the call that runs a command as this user, which may make network devices.

        Where there is no udev, only root may open /dev/net/tun; this user gets a node with the mode that udev gives it.
        """
        argv = [*self.prefix, *command]
        if not self.prefix:
            return argv
        return ["unshare", "--mount", "sh", "-c", _WITH_TUN, str(self.cache.parent.parent / "tun"), *argv]

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment: our code, its cache."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.lower().endswith("_proxy")}
        home = str(self.cache.parent)
        return {**kept, "HOME": home, "PYTHONPATH": str(self.library), "KATA_DIND_CACHE_DIR": str(self.cache)}

    def run(self, code: str, *arguments: str) -> str:
        """Run Python code as this user; return what it prints."""
        argv = self.argv(code, *arguments)
        done = subprocess.run(argv, env=self.environment, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def ordinary_user(directory: Path) -> Iterator[OrdinaryUser]:
    """Yield an ordinary user whose home lies in a directory that exists."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        cache = directory / "cache"
        yield OrdinaryUser(entry.pw_name, entry.pw_uid, cache, (), sys.executable, _SOURCES)
        return
    home = directory / "home"
    # Debian's useradd gives subordinate ids to users that are no system users.
    _check("useradd", "--create-home", "--home-dir", str(home), "--user-group", _NAME)
    try:
        home.chmod(0o700)
        uid = pwd.getpwnam(_NAME).pw_uid
        prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups")
        # A checkout, like a virtual environment, may lie where only root may look.
        library = home / "library"
        shutil.copytree(_LIBRARIES, library, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
        shutil.copytree(_SOURCES, library, dirs_exist_ok=True)
        _check("chown", "--recursive", _NAME, str(library))
        yield OrdinaryUser(_NAME, uid, home / "cache", prefix, _find_python(prefix), library)
    finally:
        _check("userdel", "--remove", _NAME)


def _find_python(prefix: Sequence[str]) -> str:
    # A virtual environment's interpreter may lie in root's home.
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        # It must be able to start itself again, as a supervisor is started.
        again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        probe = [*prefix, python, "-c", f"{again}; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return python
    pytest.fail("no Python like ours that an ordinary user may run", pytrace=False)


def _check(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
