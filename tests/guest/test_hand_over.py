"""What is changed for dockerd's sake before the command is run: storage driver, listener, limits; and nothing else."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path

import pytest

from tests.guest.conftest import Ended, Shell

pytestmark = pytest.mark.requires("root")


@pytest.fixture
def dockerd(shell: Shell) -> Path:
    """A program of dockerd's name that says how it was started."""
    program = shell.directory / "dockerd"
    program.write_text('#!/bin/sh\necho "${DOCKER_DRIVER:-none}"\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    (shell.directory / "dockerd-entrypoint.sh").symlink_to(program)
    return program


def ran(ended: Ended) -> tuple[str, list[str]]:
    """Return the storage driver and the arguments that dockerd got."""
    assert ended.code == 0, ended.stderr
    driver, *arguments = ended.stdout.splitlines()
    return driver, [argument for argument in arguments if argument]


@pytest.mark.parametrize(
    ("arguments", "driver"),
    [
        (["--storage-driver=vfs", "--debug"], "overlay2"),
        (["--debug", "--storage-driver", "vfs"], "overlay2"),
        (["-s", "devicemapper", "--debug"], "overlay2"),
        (["-s=vfs"], "overlay2"),
        (["-svfs"], "overlay2"),
        (["--storage-driver=vfs", "--feature=containerd-snapshotter=true"], "overlayfs"),
        (["-s", "overlay2"], "none"),
        (["--storage-driver=overlay2"], "none"),
        (["--storage-driver=vfs", "--storage-driver=overlay2"], "none"),
        (["--storage-driver=overlayfs"], "none"),
        (["--storage-driver=stargz"], "none"),
        (["--storage-driver=btrfs"], "overlay2"),
        (["--storage-driver"], "none"),
        (["--label=vfs", "vfs"], "none"),
    ],
)
def test_a_storage_driver_that_is_not_what_was_proven_is_overruled(
    shell: Shell, data_root: Path, dockerd: Path, arguments: list[str], driver: str
) -> None:
    """By the variable, which dockerd takes first; its arguments stay what they are."""
    ended = shell.entrypoint(str(dockerd), *arguments, PATH=data_root)
    assert ran(ended) == (driver, arguments)
    assert len(ended.said("warning")) == (driver != "none")
    if driver != "none":
        assert "for overlay works here" in ended.said("warning")[0]


def test_a_driver_that_would_do_as_a_fallback_may_be_named(shell: Shell, data_root: Path, dockerd: Path) -> None:
    ended = shell.entrypoint(str(dockerd), "--storage-driver=vfs", PATH=data_root, FALLBACK="vfs")
    assert ran(ended) == ("none", ["--storage-driver=vfs"])
    assert ended.said("warning") == []


@pytest.mark.parametrize(
    ("variable", "left"), [("vfs", "overlay2"), ("overlay2", "overlay2"), ("overlayfs", "overlayfs")]
)
def test_the_variable_is_a_storage_driver_too(
    shell: Shell, data_root: Path, dockerd: Path, variable: str, left: str
) -> None:
    before = f"export DOCKER_DRIVER={variable}"
    ended = shell.entrypoint(str(dockerd), PATH=data_root, before=before)
    assert ran(ended) == (left, [])
    assert len(ended.said("warning")) == (variable != left)


def test_a_configuration_file_is_overruled_and_untouched(shell: Shell, data_root: Path, dockerd: Path) -> None:
    config = shell.directory / "daemon.json"
    config.write_text('{"storage-driver": "vfs"}')
    ended = shell.entrypoint(str(dockerd), f"--config-file={config}", PATH=data_root)
    assert ran(ended) == ("overlay2", [f"--config-file={config}"])
    assert config.read_text() == '{"storage-driver": "vfs"}'
    assert "the storage driver vfs is overruled" in ended.said("warning")[0]


def test_images_of_an_earlier_driver_stay_in_sight(shell: Shell, data_root: Path, dockerd: Path) -> None:
    (data_root / "image" / "vfs").mkdir(parents=True)
    ended = shell.entrypoint(str(dockerd), "--storage-driver=vfs", PATH=data_root)
    assert ran(ended) == ("none", ["--storage-driver=vfs"])


def test_another_programs_arguments_are_its_own(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("echo", "--storage-driver=vfs", "-H", "tcp://0.0.0.0:2375", PATH=data_root)
    assert ended.stdout == "--storage-driver=vfs -H tcp://0.0.0.0:2375\n"
    assert ended.said("warning") == []


@pytest.mark.parametrize(
    "feature", ["--feature=containerd-snapshotter=true", '{"features": {"containerd-snapshotter": true}}']
)
@pytest.mark.requires("fuse")
def test_containerds_store_has_other_names_for_the_same(
    shell: Shell, data_root: Path, dockerd: Path, feature: str
) -> None:
    (shell.directory / "source").mkdir()
    config = shell.directory / "daemon.json"
    config.write_text(feature if feature.startswith("{") else "{}")
    arguments = [f"--config-file={config}", *([feature] if feature.startswith("-") else [])]
    ended = shell.entrypoint(
        str(dockerd), *arguments, PATH=data_root, DATA_ROOT="virtiofs", FALLBACK="vfs",
        before=f"bindfs --xattr-none {shell.directory}/source {data_root}",
    )  # fmt: skip
    assert ran(ended) == ("native", arguments)
    config.write_text(config.read_text().removesuffix("}") + ', "storage-driver": "vfs"}')
    if feature.startswith("{"):
        assert ran(shell.entrypoint(str(dockerd), *arguments, PATH=data_root))[0] == "overlayfs"


@pytest.mark.requires("fuse")
def test_a_fallback_overrules_every_other_driver(shell: Shell, data_root: Path, dockerd: Path) -> None:
    (shell.directory / "source").mkdir()
    ended = shell.entrypoint(
        str(dockerd), "--storage-driver=overlay2", PATH=data_root, DATA_ROOT="virtiofs", FALLBACK="vfs",
        before=f"bindfs --xattr-none {shell.directory}/source {data_root}",
    )  # fmt: skip
    assert ran(ended) == ("vfs", ["--storage-driver=overlay2"])
    assert json.loads(ended.status.read_text())["storage_driver"] == "vfs"


# --- the listener


@pytest.mark.parametrize(
    ("command", "added"),
    [
        (["dockerd", "--host=tcp://0.0.0.0:2375"], True),
        (["dockerd", "-H", "tcp://0.0.0.0:2375"], True),
        (["dockerd", "--host=unix:///var/run/docker.sock"], False),
        (["dockerd"], False),
        (["dockerd", "--host=tcp://0.0.0.0:2376", "--tlsverify"], False),
        (["dockerd", "--host=tcp://0.0.0.0:2375", "--tls=false"], False),
        (["dockerd-entrypoint.sh"], True),
        (["dockerd-entrypoint.sh", "--debug"], True),
        (["dockerd-entrypoint.sh", "dockerd", "--host=unix:///x"], False),
        (["dockerd-entrypoint.sh", "sh", "-c", "true"], False),
    ],
)
def test_dockerd_does_not_wait_at_an_open_listener(
    shell: Shell, data_root: Path, dockerd: Path, command: list[str], added: bool
) -> None:
    ended = shell.entrypoint(str(dockerd.with_name(command[0])), *command[1:], PATH=data_root)
    assert ran(ended)[1] == [*command[1:], *(["--tls=false"] if added else [])]


def test_the_official_images_own_certificates_are_left_alone(shell: Shell, data_root: Path, dockerd: Path) -> None:
    before = "export DOCKER_TLS_CERTDIR=/certs"
    ended = shell.entrypoint(str(dockerd.with_name("dockerd-entrypoint.sh")), PATH=data_root, before=before)
    assert ran(ended) == ("none", [])


def test_tls_of_the_configuration_file_is_left_alone(shell: Shell, data_root: Path, dockerd: Path) -> None:
    config = shell.directory / "daemon.json"
    config.write_text('{"tls": true}')
    command = ["--host=tcp://0.0.0.0:2375", f"--config-file={config}"]
    assert ran(shell.entrypoint(str(dockerd), *command, PATH=data_root)) == ("none", command)


# --- limits


# A number of the kernel's, as those that it stands for, but of a network namespace of its own. Whoever reads such a
# file in more than one piece gets only the first.
_A_NUMBER = """
: >{file}
unshare --net sh -euc '
	echo 128 >/proc/sys/net/core/somaxconn
	mount --bind /proc/sys/net/core/somaxconn {file}
	exec sleep 1000
' >/dev/null &
until [ "$(cat {file})" = 128 ]; do sleep 0.01; done
"""


def test_limits_are_raised_and_never_lowered(shell: Shell, data_root: Path) -> None:
    instances, watches = (f"/proc/sys/fs/inotify/max_user_{what}" for what in ("instances", "watches"))
    before = _A_NUMBER.format(file=instances) + f"echo 1000000 >{watches}"
    ended = shell.entrypoint("true", PATH=data_root, before=before, after=f"cat {instances} {watches}")
    assert (ended.code, ended.stdout.split()) == (0, ["1024", "1000000"]), ended.stderr


# --- its own cost


def test_a_good_data_root_costs_eleven_processes(shell: Shell, data_root: Path) -> None:
    """Process numbers in a pid namespace of its own count them."""
    before = f"mount -t tmpfs good {data_root}; printf '101\\n' >/sys/fs/cgroup/cgroup.procs; " + (
        ": >/sys/fs/cgroup/cgroup.controllers; : >/sys/fs/cgroup/cgroup.subtree_control; sh -c 'echo $$'"
    )
    ended = shell.entrypoint("sh", "-c", "sh -c 'echo $$'", PATH=data_root, before=before)
    first, last = (int(line) for line in ended.stdout.split())
    assert ended.code == 0, ended.stderr
    # One more, without a program, asks for a hard limit of open files that is lower than the one that it sets.
    most = 11 if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1048576 else 12
    assert last - first - 2 <= most, f"{last - first - 2} processes"  # besides the entrypoint, and the one that looks


# --- a stop

# What tini waits for is not among its blocked signals, although it handles them. Source of the agent's view of that:
# is_signal_handled in src/agent/src/rpc.rs of kata-containers.
_STOPPED_BY_KATA = """
import os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))

def masks():
    lines = Path(f"/proc/{os.getppid()}/status").read_text().splitlines()
    return {line[:6]: int(line[7:], 16) for line in lines if line[:6] in ("SigBlk", "SigIgn", "SigCgt")}

term = 1 << signal.SIGTERM - 1
deadline = time.monotonic() + 10
while masks()["SigBlk"] & term and time.monotonic() < deadline:
    time.sleep(0.01)
is_handled = (masks()["SigBlk"] | masks()["SigIgn"] | masks()["SigCgt"]) & term
os.kill(os.getppid(), signal.SIGTERM if is_handled else signal.SIGKILL)
time.sleep(10)
"""


@pytest.mark.parametrize("wait", ["docker-init", "tini"])
def test_a_stop_by_kata_reaches_dockerd_behind_tini(shell: Shell, data_root: Path, dockerd: Path, wait: str) -> None:
    tini = shutil.which("docker-init")
    assert tini, "docker-init comes with Docker"
    (shell.directory / "tini").symlink_to(tini)
    dockerd.write_text(f"#!{sys.executable}\n{_STOPPED_BY_KATA}")
    official = dockerd.with_name("dockerd-entrypoint.sh")
    official.unlink()
    official.write_text(f"#!/bin/sh\nexec {tini} -- {dockerd}\n")
    official.chmod(0o755)
    command = [str(official)] if wait == "docker-init" else [str(shell.directory / "tini"), "--", str(dockerd)]
    ended = shell.entrypoint(*command, PATH=data_root)
    assert (ended.code, ended.stderr.splitlines()[-1]) == (1, "stopped")
