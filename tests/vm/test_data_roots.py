"""Each kind of data root is what it says, below an overlay2 that works, and goes with its sandbox."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from kata_dind.errors import OverlayRefused
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.sandbox.api import open_sandbox
from kata_dind.spec import parse_spec
from tests.vm.driver import SandboxDriver, kata_dind, states, succeed, wait_until

pytestmark = pytest.mark.requires("qemu", "virtiofsd")


def test_block_is_a_disk_of_the_sandbox(sandbox: SandboxDriver) -> None:
    data_root = sandbox.sandbox.inspect()["data_root"]
    assert (data_root["kind"], data_root["filesystem"], data_root["size_mib"]) == ("block", "ext4", 20 * 1024)
    device, filesystem, options = mount_of(sandbox, "/var/lib/docker")
    assert device.startswith("/dev/vd")
    assert filesystem == "ext4"
    assert "discard" in options
    assert storage_of(sandbox) == ["overlay2", "extfs", "true"]


def test_block_gives_space_back_to_the_host(sandbox: SandboxDriver) -> None:
    disk = sandbox.sandbox.directory / "data.qcow2"  # over the seed's
    sandbox.succeed("fstrim /var/lib/docker")
    before = disk.stat().st_blocks * 512
    sandbox.succeed("head -c 64M /dev/urandom >/var/lib/docker/filler && sync /var/lib/docker/filler")
    assert disk.stat().st_blocks * 512 - before > 60 << 20
    sandbox.succeed("rm /var/lib/docker/filler && sync && fstrim /var/lib/docker")
    assert disk.stat().st_blocks * 512 - before < 8 << 20


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_block_gives_a_pruned_image_back_to_the_host(sandbox: SandboxDriver) -> None:
    assert_pruned_bytes_return(sandbox, sandbox.sandbox.directory / "data.qcow2")


@pytest.fixture(scope="class")
def loop_sandbox(private_directories: Path) -> Iterator[SandboxDriver]:
    succeed("up", "on-a-loop", "--data-root", "loop", "--size", "5G")
    yield SandboxDriver("on-a-loop")
    succeed("rm", "--force", "on-a-loop")


@pytest.mark.thorough  # test_volumes.py shows the kind in short
class TestLoop:
    def test_it_is_a_file_on_the_share(self, loop_sandbox: SandboxDriver) -> None:
        data_root = loop_sandbox.sandbox.inspect()["data_root"]
        assert (data_root["kind"], data_root["filesystem"], data_root["size_mib"]) == ("loop", "ext4", 5 * 1024)
        device, filesystem, _ = mount_of(loop_sandbox, "/var/lib/docker")
        assert device.startswith("/dev/loop")
        assert filesystem == "ext4"
        assert mount_of(loop_sandbox, "/var/lib/kata-dind")[1] == "virtiofs"
        assert storage_of(loop_sandbox) == ["overlay2", "extfs", "true"]
        (disk,) = loop_sandbox.sandbox.directory.rglob("kata-dind.img")
        assert disk.stat().st_size == 5 << 30
        assert disk.stat().st_blocks * 512 < 200 << 20

    def test_it_has_direct_io(self, loop_sandbox: SandboxDriver) -> None:
        device, _, _ = mount_of(loop_sandbox, "/var/lib/docker")
        assert loop_sandbox.succeed(f"losetup --noheadings --output DIO {device}").strip() == "1"

    @pytest.mark.timeout(1200)
    def test_it_gives_a_pruned_image_back_to_the_host(self, loop_sandbox: SandboxDriver) -> None:
        (disk,) = loop_sandbox.sandbox.directory.rglob("kata-dind.img")
        assert_pruned_bytes_return(loop_sandbox, disk)

    def test_it_runs_a_container(self, loop_sandbox: SandboxDriver) -> None:
        assert succeed("docker", loop_sandbox.name, "--", "run", "--rm", "kata-dind/hello", "echo", "ran") == "ran\n"


@pytest.fixture(scope="class")
def virtiofs_sandbox(private_directories: Path) -> Iterator[SandboxDriver]:
    succeed("up", "on-a-share", "--data-root", "virtiofs")
    yield SandboxDriver("on-a-share")
    succeed("rm", "--force", "on-a-share")


@pytest.mark.requires("root")
class TestVirtiofs:
    def test_it_is_the_share_itself(self, virtiofs_sandbox: SandboxDriver) -> None:
        data_root = virtiofs_sandbox.sandbox.inspect()["data_root"]
        assert (data_root["kind"], data_root["filesystem"], data_root["size_mib"]) == ("virtiofs", "virtiofs", None)
        assert mount_of(virtiofs_sandbox, "/var/lib/docker")[1] == "virtiofs"
        assert storage_of(virtiofs_sandbox) == ["overlay2", "fuse", "true"]
        directory = virtiofs_sandbox.sandbox.directory
        assert (directory / "data-root" / "overlay2").is_dir()
        assert not (directory / "data.img").exists()

    def test_it_runs_a_container(self, virtiofs_sandbox: SandboxDriver) -> None:
        assert (
            succeed("docker", virtiofs_sandbox.name, "--", "run", "--rm", "kata-dind/hello", "echo", "ran") == "ran\n"
        )

    def test_without_extended_attributes_it_is_refused_and_nothing_is_left(self, private_directories: Path) -> None:
        done = kata_dind("up", "as-kata-has-it", "--data-root", "virtiofs", "--no-virtiofs-xattr")
        assert done.returncode == OverlayRefused.exit_code
        assert "kata-dind: overlay does not work on virtiofs at /var/lib/docker" in done.stderr
        assert "upper fs missing required features" in done.stderr
        assert "as-kata-has-it" not in states()


@pytest.fixture(scope="class")
def memory_sandbox(private_directories: Path) -> Iterator[SandboxDriver]:
    """A sandbox of the Python API, which lives as long as its block."""
    spec = parse_spec(name="in-memory", data_root="memory", size="700M", network="none")
    with open_sandbox(spec) as opened:
        yield SandboxDriver(opened.name)
        directory = opened.directory
    assert not directory.exists()


@pytest.mark.thorough  # test_run.py shows the kind in short
class TestMemory:
    def test_it_is_a_tmpfs_of_its_size(self, memory_sandbox: SandboxDriver) -> None:
        data_root = memory_sandbox.sandbox.inspect()["data_root"]
        assert (data_root["kind"], data_root["filesystem"], data_root["size_mib"]) == ("memory", "tmpfs", 700)
        _, filesystem, options = mount_of(memory_sandbox, "/var/lib/docker")
        assert filesystem == "tmpfs"
        assert f"size={700 * 1024}k" in options
        assert storage_of(memory_sandbox) == ["overlay2", "tmpfs", "true"]
        assert not (memory_sandbox.sandbox.directory / "data.img").exists()

    def test_it_runs_a_container(self, memory_sandbox: SandboxDriver) -> None:
        assert succeed("docker", memory_sandbox.name, "--", "run", "--rm", "kata-dind/hello", "echo", "ran") == "ran\n"

    def test_it_is_listed_as_any_other(self, memory_sandbox: SandboxDriver) -> None:
        (row,) = (row for row in json.loads(succeed("ls", "--json")) if row["name"] == memory_sandbox.name)
        assert (row["state"], row["data_root"]) == ("running", "memory")

    def test_without_a_network_the_guest_has_its_loopback_alone(self, memory_sandbox: SandboxDriver) -> None:
        links = memory_sandbox.succeed("ls /sys/class/net", where="guest").split()
        assert set(links) <= {"lo", "docker0"}
        routes = memory_sandbox.succeed("cat /proc/net/route", where="guest").splitlines()[1:]
        assert [line for line in routes if not line.startswith("docker0")] == []
        assert not (memory_sandbox.sandbox.directory / "network.log").exists()


@pytest.mark.thorough
def test_file_system_driver_and_flags_are_what_was_asked_for(private_directories: Path) -> None:
    """All in one start: xfs below a driver that only a fallback makes acceptable, named by a flag of dockerd's."""
    flags = ("--dockerd-arg=--storage-driver=vfs", "--dockerd-arg=--label=of=ours")
    try:
        succeed("up", "as-asked", "--filesystem", "xfs", "--size", "2G", "--fallback", "vfs", *flags)
        sandbox = SandboxDriver("as-asked")
        assert mount_of(sandbox, "/var/lib/docker")[1] == "xfs"
        info = json.loads(sandbox.succeed("docker info --format '{{json .}}'"))
        assert (info["Driver"], info["Labels"]) == ("vfs", ["of=ours"])
        assert sandbox.sandbox.inspect()["warnings"] == []
    finally:
        succeed("rm", "--force", "as-asked")


def assert_pruned_bytes_return(sandbox: SandboxDriver, disk: Path) -> None:
    """An image of 300 MB in 3000 files, which do not compress, comes and goes; the host has 95 % of it back."""

    def used_bytes() -> int:
        return int(sandbox.succeed("sync && df --output=used --block-size=1 /var/lib/docker").split()[-1])

    files = {f"{number % 50}/{number}": random.randbytes(100_000) for number in range(3000)}
    with contextlib.closing(docker.DockerClient(base_url=sandbox.docker_host, timeout=900)) as client:
        client.images.load(docker_archive("large:1", [Layer(files)], {"Labels": {"pruned": "yes"}}))
    used, on_host = used_bytes(), disk.stat().st_blocks * 512
    assert used > 300_000_000
    sandbox.succeed("docker system prune --all --force --filter label=pruned")
    freed = used - used_bytes()
    assert freed > 300_000_000
    # Discards follow the commit of the journal, at most 5 s later.
    wait_until(
        lambda: on_host - disk.stat().st_blocks * 512 >= 0.95 * freed, what="the host has it back", timeout_seconds=30
    )


def mount_of(sandbox: SandboxDriver, place: str) -> tuple[str, str, list[str]]:
    """Return what is mounted at a place of the container: source, file system, options."""
    for line in sandbox.succeed("cat /proc/mounts").splitlines():
        source, point, filesystem, options, *_ = line.split()
        if point == place:
            return source, filesystem, options.split(",")
    raise AssertionError(f"nothing is mounted at {place}")


def storage_of(sandbox: SandboxDriver) -> list[str]:
    """Return what dockerd says of its storage: the driver, what it lies on, and whether layers are diffed natively."""
    info = json.loads(sandbox.succeed("docker info --format '{{json .}}'"))
    status = dict(info["DriverStatus"])
    return [info["Driver"], status["Backing Filesystem"], status["Native Overlay Diff"]]
