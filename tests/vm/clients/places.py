"""A user's home with a project in it, and a seed to clone: where Docker's clients run that know nothing of kata-dind.

All that a client gets is what `eval "$(kata-dind env)"` sets in a shell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kata_dind.host.directories import cache_directory
from kata_dind.host.process import require_tool, run
from kata_dind.image.cache import content_key, require_built
from kata_dind.image.workspace import Goal, Workspace
from tests.users import OrdinaryUser
from tests.vm.driver import START_SECONDS

HERE = Path(__file__).parent
_NODE = ("package.json", "package-lock.json")
_IN_A_SHELL = 'eval "$(kata-dind env "$0")" && exec "$@"'


@dataclasses.dataclass(frozen=True)
class Place:
    """A user with a home, a `kata-dind` on the PATH, and a seed that holds the images of tests/vm/clients/images.py."""

    docker: str
    home: Path
    seed: str
    python: str
    environment: dict[str, str]
    user: OrdinaryUser | None

    @property
    def uid(self) -> int:
        return os.geteuid() if self.user is None else self.user.uid

    def copy(self, source: Path, name: str) -> Path:
        """Return a copy of a directory in this home, which belongs to its user."""
        copied = self.home / name
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(source, copied)
        own(copied, self.uid)
        return copied

    def run(
        self, *argv: str, cwd: Path | None = None, sandbox: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user; if a sandbox is named, in a shell that has evaluated `kata-dind env`."""
        command = ["bash", "-c", _IN_A_SHELL, sandbox, *argv] if sandbox else [*argv]
        return subprocess.run(
            command if self.user is None else self.user.with_tun(*command),
            env={**self.environment, **environment},
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * START_SECONDS,
            check=False,
        )

    def succeed(self, *argv: str, cwd: Path | None = None, sandbox: str = "", **environment: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*argv, cwd=cwd, sandbox=sandbox, **environment)
        assert done.returncode == 0, f"{shlex.join(argv)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def clone(self, name: str, *options: str, cwd: Path | None = None) -> Iterator[str]:
        """Start a clone of the seed, and remove it after the block."""
        self.succeed("kata-dind", "up", name, "--seed", self.seed, *options, cwd=cwd)
        try:
            yield name
        finally:
            self.succeed("kata-dind", "rm", "--force", name)

    def address_of(self, sandbox: str) -> str:
        """Return the address that testcontainers is told."""
        return self.succeed("sh", "-c", 'echo "$TESTCONTAINERS_HOST_OVERRIDE"', sandbox=sandbox).strip()


def make_place(
    home: Path, *, docker: str, seed: str, plugins: Path, state: Path, user: OrdinaryUser | None = None
) -> Place:
    """Make a home that has `kata-dind` on its PATH and the plugins of Docker's CLI."""
    python = sys.executable if user is None else user.python
    programs, config, temporary = home / "bin", home / "docker", home / "tmp"
    for directory in (programs, config, temporary):
        directory.mkdir(parents=True)
    (config / "cli-plugins").symlink_to(plugins)
    (programs / "kata-dind").write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -m kata_dind.entry "$@"\n')
    (programs / "kata-dind").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "TESTCONTAINERS_"))}
    cache = {"KATA_DIND_CACHE_DIR": str(cache_directory())}
    environment = {
        **({**kept, **cache} if user is None else user.environment),
        "HOME": str(home),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "DOCKER_CONFIG": str(config),
        "TMPDIR": str(temporary),  # testcontainers for Node leaves its locks there
        "KATA_DIND_STATE_DIR": str(state),
    }
    place = Place(docker, home, seed, python, environment, user)
    own(home, place.uid)
    return place


def own(path: Path, uid: int) -> None:
    """Give a tree to a user, where the tests run as root."""
    if uid != os.geteuid():
        subprocess.run(["chown", "--recursive", "--no-dereference", f"{uid}:{uid}", str(path)], check=True)


def require_node_modules() -> Path:
    """Return the directory with testcontainers for Node, installed when there is none."""
    key = content_key([(HERE / "node" / name).read_text() for name in _NODE])
    goal = Goal("install testcontainers for Node", needs_mib=256)
    place = cache_directory() / "test-node-modules" / key
    return require_built(place, _install, cache=cache_directory(), goal=goal)


def _install(workspace: Workspace, product: Path) -> None:
    product.mkdir()
    for name in _NODE:
        shutil.copyfile(HERE / "node" / name, product / name)
    argv: list[str | os.PathLike[str]] = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]
    require_tool("npm", package="npm")
    # npm's own settings, such as a registry and the certificates of a proxy, are in the environment.
    environment = {name: value for name, value in os.environ.items() if name.lower().startswith(("npm_", "node_"))}
    run([*argv, product], timeout_seconds=600, environment=environment, log=workspace.log)


def readable(source: Path, copied: Path) -> Path:
    """Return a copy of a directory of the cache, which lies where only we may look."""
    shutil.copytree(source, copied, symlinks=True)
    return copied
