"""What is changed for dockerd's sake before the command is run: storage driver, listener, limits; and nothing else."""

from __future__ import annotations

import json
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
    ("arguments", "left"),
    [
        (["--storage-driver=vfs", "--debug"], ["--debug"]),
        (["--debug", "--storage-driver", "vfs"], ["--debug"]),
        (["-s", "devicemapper", "--debug"], ["--debug"]),
        (["-s=vfs"], []),
        (["-svfs"], []),
        (["-s", "overlay2"], ["-s", "overlay2"]),
        (["--storage-driver=overlay2"], ["--storage-driver=overlay2"]),
        (["--storage-driver=overlayfs"], ["--storage-driver=overlayfs"]),
        (["--storage-driver=stargz"], ["--storage-driver=stargz"]),
        (["--storage-driver=btrfs"], []),
        (["--storage-driver"], ["--storage-driver"]),
        (["--label=vfs", "vfs"], ["--label=vfs", "vfs"]),
    ],
)
def test_a_storage_driver_that_is_not_what_was_proven_is_left_out(
    shell: Shell, data_root: Path, dockerd: Path, arguments: list[str], left: list[str]
) -> None:
    ended = shell.entrypoint(str(dockerd), *arguments, PATH=data_root)
    assert ran(ended) == ("none", left)
    assert len(ended.said("warning")) == (arguments != left)
    if arguments != left:
        assert "because overlay is what works on this data root" in ended.said("warning")[0]


def test_a_driver_that_would_do_as_a_fallback_may_be_named(shell: Shell, data_root: Path, dockerd: Path) -> None:
    ended = shell.entrypoint(str(dockerd), "--storage-driver=vfs", PATH=data_root, FALLBACK="vfs")
    assert ran(ended) == ("none", ["--storage-driver=vfs"])
    assert ended.said("warning") == []


@pytest.mark.parametrize(("variable", "left"), [("vfs", "none"), ("overlay2", "overlay2"), ("overlayfs", "overlayfs")])
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
    assert f"the storage driver vfs of {config}" in ended.said("warning")[0]


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
    assert ran(ended) == ("vfs", [])
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


def test_limits_are_raised_and_never_lowered(shell: Shell, data_root: Path) -> None:
    limits = {"fs/inotify/max_user_instances": ("128", "1024"), "kernel/keys/root_maxkeys": ("2000000", "2000000")}
    before = "\n".join(f"echo {now} >/proc/sys/{name}" for name, (now, _) in limits.items())
    after = "\n".join(f"cat /proc/sys/{name}" for name in limits)
    ended = shell.entrypoint("true", PATH=data_root, before=before, after=after)
    assert (ended.code, ended.stdout.split()) == (0, [wanted for _, wanted in limits.values()]), ended.stderr


# --- its own cost


def test_a_good_data_root_costs_ten_processes(shell: Shell, data_root: Path) -> None:
    """Process numbers in a pid namespace of its own count them."""
    before = f"mount -t tmpfs good {data_root}; printf '101\\n' >/sys/fs/cgroup/cgroup.procs; " + (
        ": >/sys/fs/cgroup/cgroup.controllers; : >/sys/fs/cgroup/cgroup.subtree_control; sh -c 'echo $$'"
    )
    ended = shell.entrypoint("sh", "-c", "sh -c 'echo $$'", PATH=data_root, before=before)
    first, last = (int(line) for line in ended.stdout.split())
    assert ended.code == 0, ended.stderr
    assert last - first - 2 <= 10, f"{last - first - 2} processes"  # besides the entrypoint, and the one that looks
