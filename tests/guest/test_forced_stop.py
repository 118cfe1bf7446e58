"""A forced stop by Kata's agent, which kills what stands in the container's own cgroup, and reaches nobody there."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run, scrubbed_environment
from kata_dind.image import entrypoint
from tests.guest.conftest import Shell
from tests.requirements import find_cgroup2

pytestmark = pytest.mark.requires("root", "cgroup2")

_END_SECONDS = 5
_WATCH = "kata-dind-watch"
_SOURCE = Path(entrypoint.__file__).parents[1] / "guest" / "entrypoint" / "watch.s"

# As Kata's agent starts a container: process 1 of its own namespaces, which see its cgroup as the root.
_CONTAINER = """
set -eu
mount -t proc proc /proc
mount -t tmpfs cover /sys/module/overlay/parameters
mount -t tmpfs cover /proc/sys/fs/inotify
join() {
	echo 0 >"$CGROUP/cgroup.procs"
	exec unshare --cgroup --mount sh -c '
		mount -t tmpfs cover /sys/fs/cgroup
		mount -t cgroup2 cgroup /sys/fs/cgroup
		eval "$BEFORE"
		PATH=$TOOLS exec "$@"
	' sh "$@"
}
[ -n "$POD" ] || join "$@"
join "$@" &
while :; do sleep 1000; done
"""
# Like dockerd, it doesn't end by TERM, and what it has started stands in a cgroup and a pid namespace of its own.
_DOCKERD = """
trap '' TERM
mkdir -p /sys/fs/cgroup/docker/container
unshare --pid --fork sh -c 'echo 0 >/sys/fs/cgroup/docker/container/cgroup.procs; exec sleep 1000' &
until read -r pid </sys/fs/cgroup/docker/container/cgroup.procs; do sleep 0.01; done
[ -z "$KEPT" ] || { echo precious >"$KEPT"; sync; }
echo ready
while :; do sleep 1000; done
"""


@dataclass(frozen=True)
class Container:
    process: subprocess.Popen[str]
    cgroup: Path

    def stop_as_the_agent_does(self, list_of_pids: str) -> None:
        """Source: do_signal_process in src/agent/src/rpc.rs of kata-containers."""
        (self.cgroup / "cgroup.freeze").write_text("1")
        for pid in (self.cgroup / list_of_pids).read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        (self.cgroup / "cgroup.freeze").write_text("0")

    @property
    def lives(self) -> bool:
        return "populated 1" in (self.cgroup / "cgroup.events").read_text()

    @property
    def frozen(self) -> bool:
        return "frozen 1" in (self.cgroup / "cgroup.events").read_text()

    def watch(self) -> int:
        """Return the process that watches, as soon as there is one."""
        assert within(_END_SECONDS, lambda: _WATCH in self.programs())
        return self.programs()[_WATCH]

    def programs(self) -> dict[str, int]:
        """Return the names of what runs in it, each with its pid."""
        names = {}
        for file in self.cgroup.rglob("cgroup.procs"):
            for pid in file.read_text().split():
                with contextlib.suppress(OSError):
                    names[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
        return names


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """A cgroup like the one that the agent makes for a container."""
    above = find_cgroup2()
    assert above
    path = above / f"kata-dind-test-{os.getpid()}"
    path.mkdir()
    yield path
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    assert within(_END_SECONDS, lambda: "populated 0" in (path / "cgroup.events").read_text())
    for directory in sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True):
        directory.rmdir()
    path.rmdir()


@pytest.fixture
def delegated(cgroup: Path) -> Iterator[None]:
    """Cgroups as systemd and Kata's agent mount them: nobody may write most files of his own namespace's root.

    It is a setting of the whole hierarchy, which the last mount with it or without it decides.
    """
    if is_delegated():
        yield
        return
    mount_once("nsdelegate")
    try:
        if not is_delegated():
            pytest.skip("only the machine's own cgroup namespace may mount with nsdelegate")
        yield
    finally:
        mount_once("rw")


def is_delegated() -> bool:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(" - cgroup2 " in line and "nsdelegate" in line.split()[-1].split(",") for line in mounts)


def mount_once(option: str) -> None:
    mount = ["mount", "-t", "cgroup2", "-o", option, "cgroup", "/mnt"]
    run(["unshare", "--mount", "--propagation", "private", *mount], timeout_seconds=10)


@contextlib.contextmanager
def start(
    shell: Shell,
    cgroup: Path,
    *command: str,
    before: str = "",
    pod: bool = False,
    kept: Path | None = None,
    **variables: str | Path,
) -> Iterator[Container]:
    """Start a container through the entrypoint; in a `pod`, process 1 is not the container's."""
    told = {f"KATA_DIND_{name}": str(value) for name, value in variables.items()}
    told |= {"KATA_DIND_STATUS_DIR": str(shell.directory / "status"), "KEPT": str(kept or "")}
    told |= {"TOOLS": shell.tools, "CGROUP": str(cgroup), "BEFORE": before, "POD": "1" if pod else ""}
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    with (shell.directory / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [*namespaces, "sh", "-c", _CONTAINER, "sh", *(command or entry(shell))],
            env={**scrubbed_environment(), **told},
            cwd=shell.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            assert process.stdout
            answers, _, _ = select.select([process.stdout], [], [], 30)
            assert answers and process.stdout.readline() == "ready\n", (shell.directory / "stderr").read_text()
            yield Container(process, cgroup)
        finally:
            process.kill()


def entry(shell: Shell, script: str = _DOCKERD) -> list[str]:
    return [*shell.argv, str(shell.script), "env", f"PATH={os.environ['PATH']}", "sh", "-euc", script]


@pytest.mark.requires("loop")
@pytest.mark.parametrize("list_of_pids", ["cgroup.threads", "cgroup.procs"])
def test_everything_ends_and_the_disk_is_clean(shell: Shell, data_root: Path, cgroup: Path, list_of_pids: str) -> None:
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "SIZE": "128M", "DIR": share}
    with start(shell, cgroup, kept=data_root / "file", **asked) as container:
        controllers = (cgroup / "cgroup.controllers").read_text()
        assert (cgroup / "cgroup.subtree_control").read_text() == controllers
        assert (cgroup / list_of_pids).read_text() == "", "nothing may stand where children have controllers"
        container.stop_as_the_agent_does(list_of_pids)
        container.process.wait(_END_SECONDS)
        assert not container.lives
    assert within(_END_SECONDS, lambda: not is_attached(share / "kata-dind.img"))
    run(["e2fsck", "-fn", share / "kata-dind.img"], timeout_seconds=30)
    again = shell.entrypoint("cat", str(data_root / "file"), **asked)
    assert (again.code, again.stdout) == (0, "precious\n"), again.stderr
    assert not [line for line in again.said("info") if "checking" in line]


def is_attached(image: Path) -> bool:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if file.read_text().strip() == str(image):
                return True
    return False


def test_without_the_watch_a_forced_stop_reaches_nobody(shell: Shell, data_root: Path, cgroup: Path) -> None:
    """So the tests above show what it is for."""
    with start(shell, cgroup, PATH=data_root) as container:
        os.kill(container.watch(), signal.SIGKILL)
        container.stop_as_the_agent_does("cgroup.threads")
        assert not within(1, lambda: not container.lives)


def test_a_pause_is_no_stop(shell: Shell, data_root: Path, cgroup: Path) -> None:
    """Others read the lists as well, but at other times."""
    with start(shell, cgroup, PATH=data_root) as container:
        for _ in range(3):
            (cgroup / "cgroup.threads").read_text()
            (cgroup / "cgroup.procs").read_text()
            (cgroup / "cgroup.freeze").write_text("1")
            assert within(_END_SECONDS, lambda: container.frozen)
            (cgroup / "cgroup.freeze").write_text("0")
        assert not within(1, lambda: not container.lives)
        assert container.lives
        container.stop_as_the_agent_does("cgroup.threads")
        assert within(_END_SECONDS, lambda: not container.lives)


def test_a_pause_by_runc_is_no_stop_although_somebody_lists_the_processes(
    shell: Shell, data_root: Path, cgroup: Path
) -> None:
    """As `docker pause`, `docker top`, `docker unpause`: runc reads back what it has written."""
    with start(shell, cgroup, PATH=data_root) as container:
        for state in ("1", "0"):
            with (cgroup / "cgroup.freeze").open("r+b", buffering=0) as file:
                file.write(state.encode())
                file.seek(0)
                assert file.read(2) == f"{state}\n".encode()
            (cgroup / "cgroup.procs").read_text()
        assert not within(1, lambda: not container.lives)
        container.stop_as_the_agent_does("cgroup.threads")
        assert within(_END_SECONDS, lambda: not container.lives)


def test_whoever_nests_once_more_is_helped_too(shell: Shell, data_root: Path, cgroup: Path) -> None:
    """As the official images' own script does: https://github.com/moby/moby/blob/master/hack/dind"""
    nest = """
    mkdir -p /sys/fs/cgroup/init
    xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs || :
    sed -e 's/ / +/g' -e 's/^/+/' </sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
    """
    with start(shell, cgroup, *entry(shell, nest + _DOCKERD), PATH=data_root) as container:
        container.stop_as_the_agent_does("cgroup.threads")
        assert within(_END_SECONDS, lambda: not container.lives)


def test_a_pods_process_1_lives_on(shell: Shell, data_root: Path, cgroup: Path, delegated: None) -> None:
    """With shareProcessNamespace, process 1 is the pod's and stands in another cgroup."""
    with start(shell, cgroup, pod=True, PATH=data_root) as container:
        container.stop_as_the_agent_does("cgroup.threads")
        assert within(_END_SECONDS, lambda: not container.lives)
        assert container.process.poll() is None


def test_the_watch_ends_with_the_command(shell: Shell, data_root: Path, cgroup: Path) -> None:
    command = entry(shell, "echo ready; sleep 1")
    with start(shell, cgroup, *command, pod=True, PATH=data_root) as container:
        assert container.watch()
        assert within(_END_SECONDS, lambda: not container.lives)
        assert container.process.poll() is None


def test_read_only_cgroups_are_made_writable(shell: Shell, data_root: Path, cgroup: Path) -> None:
    """Some guests mount them so."""
    with start(shell, cgroup, before="mount -o remount,bind,ro /sys/fs/cgroup", PATH=data_root):
        assert (cgroup / "cgroup.subtree_control").read_text() == (cgroup / "cgroup.controllers").read_text()


def test_the_watch_is_small_and_holds_nothing(shell: Shell, data_root: Path, cgroup: Path) -> None:
    share = shell.directory / "share"
    asked: dict[str, Any] = {"PATH": data_root, "DATA_ROOT": "loop", "SIZE": "128M", "DIR": share}
    with start(shell, cgroup, **asked) as container:
        watch = Path(f"/proc/{container.watch()}")
        assert within(
            _END_SECONDS, lambda: [str(file.readlink()) for file in (watch / "fd").iterdir()] == ["anon_inode:inotify"]
        )
        status = dict(line.split(":", 1) for line in (watch / "status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) <= 64
        assert os.getsid(int(watch.name)) == int(watch.name), "a signal to the command's group is not for it"
        assert (watch / "cwd").readlink().name == "cgroup"
        assert sorted(file.name for file in (shell.directory / "status").iterdir()) == ["status.json"]


def test_where_no_program_can_be_run_the_user_is_told(shell: Shell, data_root: Path, cgroup: Path) -> None:
    status = shell.directory / "status"
    noexec = f"mkdir -p {status}; mount -t tmpfs -o noexec cover {status}; mount -o remount,bind,noexec /dev"
    with start(shell, cgroup, before=noexec, PATH=data_root) as container:
        assert _WATCH not in container.programs()
    warnings = [line for line in (shell.directory / "stderr").read_text().splitlines() if '"warning"' in line]
    assert len(warnings) == 1
    assert "a forced stop (SIGKILL) will not end this container" in warnings[0]
    assert "grace period" in warnings[0]


# --- the program


def built(machine: str, directory: Path, *defined: str) -> bytes:
    names = {name: shutil.which(f"{machine}-linux-gnu-{name}") for name in ("as", "objcopy")}
    if not all(names.values()):
        pytest.skip(f"binutils for {machine} are not installed")
    symbols = [*defined, *(["AARCH64=1"] if machine == "aarch64" else [])]
    options = [word for symbol in symbols for word in ("--defsym", symbol)]
    run([str(names["as"]), *options, "-I", _SOURCE.parent, _SOURCE, "-o", directory / "watch.o"], timeout_seconds=30)
    run(
        [str(names["objcopy"]), "--output-target=binary", directory / "watch.o", directory / "watch"],
        timeout_seconds=30,
    )
    return (directory / "watch").read_bytes()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_script_writes_the_program_of_the_source(shell: Shell, tmp_path: Path, machine: str) -> None:
    (tmp_path / "cgroup.freeze").touch()
    # The copy is made in place of the program's start.
    done = shell.call(
        f"machine={machine} status_dir={tmp_path} step=tune; cd {tmp_path}; "
        f'chmod() {{ cp "$2" {tmp_path}/written; return 1; }}; watch_for_stop'
    )
    assert "a forced stop" in done.stderr, done
    assert (tmp_path / "written").read_bytes() == built(machine, tmp_path)


@pytest.fixture(params=["x86_64", "aarch64"])
def watching(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Run the program on files in place of a cgroup file system; gives its pid, which is a child's."""
    machine, emulator = request.param, None
    if machine == os.uname().machine:
        built(machine, tmp_path)
    else:
        built(machine, tmp_path, "FOREGROUND=1")
        emulator = shutil.which(f"qemu-{machine}-static")
        if not emulator:
            pytest.skip(f"qemu-user for {machine} is not installed")
    (tmp_path / "watch").chmod(0o700)
    names = [f"cgroup.{name}" for name in ("freeze", "procs", "threads", "kill")]
    for name in names:
        (tmp_path / name).touch()
    before = children()
    # It reads from the lowest descriptor.
    argv = ["sh", "-c", 'exec "$@" <&-', "sh", *([emulator] if emulator else []), f"{tmp_path}/watch", *names]
    process = subprocess.Popen(argv, cwd=tmp_path)
    if not emulator:
        assert process.wait(5) == 0
    (pid,) = children() - before
    time.sleep(0.5 if emulator else 0.1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        process.wait()


def children() -> set[int]:
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def test_the_program_knows_a_stop_from_a_pause(watching: int, tmp_path: Path) -> None:
    freeze, procs, threads, kill = (tmp_path / f"cgroup.{name}" for name in ("freeze", "procs", "threads", "kill"))
    freeze.write_text("1")
    freeze.write_text("0")
    procs.read_text()
    threads.read_text()
    time.sleep(1)
    freeze.write_text("1")
    freeze.read_text()
    procs.read_text()
    freeze.write_text("0")
    time.sleep(1)
    assert os.waitpid(watching, os.WNOHANG) == (0, 0)
    freeze.write_text("1")
    threads.read_text()
    freeze.write_text("0")
    assert within(5, lambda: kill.read_text() == "1")
    assert os.waitpid(watching, 0) == (watching, 0)
