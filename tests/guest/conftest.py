"""The guest entrypoint in namespaces of its own, under each shell with the tools that go with it in the field.

Nothing of the host is within its reach but loop devices, which are detached after each test: its mounts end with the
namespace, and cgroups and the overlay module's parameters are covered by file systems of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run, scrubbed_environment
from kata_dind.image.entrypoint import entrypoint_script
from tests.guest.alpine import make_programs

GROWING = [pytest.param("ext4", marks=pytest.mark.requires("sys-resource")), "xfs"]
"""File systems that can grow here while mounted; for ext4 the kernel wants a capability more than for the mount."""

_SESSION = "KATA_DIND_TEST_DIRECTORY"
"""The variable with the directory that all of this session's files lie in; loop devices of others are left alone."""

# This machine has a containerd, which tests of other things don't start, and whose root they leave alone.
_DEFAULTS = {"CONTAINERD": "none"}

_AROUND = """
set -eu
loops() { grep -l "^$SESSION/.*/kata-dind.img" /sys/block/loop*/loop/backing_file 2>/dev/null || :; }
loops_before=$(loops)
mount -t proc proc /proc
mount -t tmpfs cover /sys/fs/cgroup
mount -t tmpfs cover /sys/module/overlay/parameters
for name in redirect_dir metacopy; do echo Y >/sys/module/overlay/parameters/$name; done
mount -t tmpfs cover /proc/sys/fs/inotify
eval "$BEFORE"
set +e
PATH=$TOOLS "$@"
code=$?
eval "$AFTER"
for loop in $(loops); do
	# Detached when its mount ends with the namespace; its file may lie on a file system that other processes don't see.
	case $loops_before in *$loop*) ;; *) loop=${loop#/sys/block/}; losetup --detach "/dev/${loop%%/*}" ;; esac
done
exit $code
"""


@dataclass(frozen=True)
class Ended:
    """How the entrypoint ended, and what it said."""

    code: int
    stdout: str
    stderr: str
    status: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its JSON lines; everything that it says itself is one."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith('{"kata_dind"')]

    @property
    def error(self) -> dict[str, Any]:
        """The one error that it has told."""
        assert self.lines, self.stderr
        (error,) = [line for line in self.lines if line["kata_dind"] == "error"]
        assert set(error) == {"kata_dind", "step", "message", "hint"}
        return error

    def said(self, level: str) -> list[str]:
        return [line["message"] for line in self.lines if line["kata_dind"] == level and "message" in line]


@dataclass(frozen=True)
class Shell:
    """A shell, the tools that it finds, and the script that it runs; what it makes lies in `directory`."""

    name: str
    argv: tuple[str, ...]
    tools: str
    script: Path
    directory: Path

    def entrypoint(
        self,
        *command: str,
        before: str = "",
        after: str = "",
        tools: str = "",
        **variables: str | Path,
    ) -> Ended:
        """Run the entrypoint with a command; the variables' names lack their KATA_DIND_.

        `before` and `after` are scripts that the host's own shell runs around it, in the same namespaces.
        """
        with self.start(*command, before=before, after=after, tools=tools, **variables) as process:
            return self.ended(process)

    @contextlib.contextmanager
    def start(
        self,
        *command: str,
        before: str = "",
        after: str = "",
        tools: str = "",
        **variables: str | Path,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run it for the length of a `with` block, as the leader of a process group that all it starts are in."""
        variables = {**_DEFAULTS, "STATUS_DIR": self.status_directory, **variables}
        told = {f"KATA_DIND_{name}": str(value) for name, value in variables.items()}
        outer = {"TOOLS": f"{tools}:{self.tools}" if tools else self.tools, "BEFORE": before, "AFTER": after}
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        with subprocess.Popen(
            [*namespaces, "sh", "-c", _AROUND, "sh", *self.argv, str(self.script), *command],
            env={**scrubbed_environment(), "SESSION": os.environ[_SESSION], **outer, **told},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def ended(self, process: subprocess.Popen[bytes]) -> Ended:
        """Wait until what was started has ended."""
        stdout, stderr = process.communicate(timeout=180)
        return Ended(process.returncode, stdout.decode(), stderr.decode(), self.status_directory / "status.json")

    @property
    def status_directory(self) -> Path:
        """Where status.json is, unless a test says otherwise."""
        return self.directory / "status"

    def call(
        self, script: str, *arguments: str, files: dict[str, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that has the entrypoint's functions; none of its steps is run. `files` stand in for others."""
        functions, main, _ = self.script.read_text().partition("\ntrap ")
        assert main
        for theirs, ours in (files or {}).items():
            assert theirs in functions
            functions = functions.replace(theirs, str(ours))
        return subprocess.run(
            [*self.argv, "-c", f"{functions}\n{script}", "sh", *arguments],
            env={**scrubbed_environment(), "PATH": self.tools},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="session", autouse=True)
def _directory_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_SESSION, str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture(scope="session")
def entrypoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entrypoint, as it is shipped."""
    path = tmp_path_factory.mktemp("entrypoint") / "entrypoint.sh"
    path.write_text(entrypoint_script())
    return path


@pytest.fixture(scope="session")
def busybox_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a busybox shell finds, in a directory that no test changes: its two hundred links take a while."""
    directory = tmp_path_factory.mktemp("programs") / "bin"
    make_programs(directory)
    return directory


# What the sandboxes of tests/vm run is dash, so the quick tests do the same once more in the other shell alone.
@pytest.fixture(
    params=[
        pytest.param("dash", marks=pytest.mark.thorough),
        pytest.param("busybox", marks=pytest.mark.requires("busybox")),
    ]
)
def shell(request: pytest.FixtureRequest, entrypoint_file: Path, tmp_path: Path) -> Iterator[Shell]:
    """Each shell in turn; loop devices on files of the test's are detached at its end."""
    (tmp_path / "work").mkdir()
    programs = request.getfixturevalue("busybox_programs") if request.param == "busybox" else None
    yield make_shell(entrypoint_file, tmp_path, programs)
    detach_loops(tmp_path)


def make_shell(script: Path, directory: Path, busybox_programs: Path | None = None) -> Shell:
    """Return busybox with its programs, else dash with this machine's; it works in the directory `work`."""
    if busybox_programs is None:
        return Shell("dash", ("dash",), scrubbed_environment()["PATH"], script, directory / "work")
    return Shell("busybox", ("busybox", "ash"), str(busybox_programs), script, directory / "work")


@pytest.fixture
def data_root(shell: Shell) -> Path:
    directory = shell.directory / "docker"
    directory.mkdir()
    return directory


def with_overlay_refused(shell: Shell, *, until: str = "never") -> Shell:
    """Return the shell with a script to which `mount` refuses overlays, until it is called with a word."""
    head, begin, rest = shell.script.read_text().partition("\nset -eu\n")
    assert begin
    called = shell.directory / "called"
    mount = f"""mount() {{
	case " $* " in *" {until} "*) : >{called} ;; *" overlay "*) [ -e {called} ] || return 1 ;; esac
	command mount "$@"
}}
"""
    script = shell.directory / "refused.sh"
    script.write_text(f"{head}{begin}{mount}{rest}")
    return dataclasses.replace(shell, script=script)


def attach_loop(image: Path) -> Path:
    return Path(run(["losetup", "--find", "--show", image], timeout_seconds=10).stdout.strip())


def detach_loops(directory: Path) -> None:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = Path(file.read_text().strip().removesuffix(" (deleted)"))
        except OSError:
            continue
        if backing.is_relative_to(directory):
            run(["losetup", "--detach", f"/dev/{file.parts[3]}"], timeout_seconds=10)
