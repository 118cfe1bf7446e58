"""The entrypoint in a root like the official images': Alpine's busybox, no util-linux, no /tmp and no HOME.

And in what people derive from them: another user, another entrypoint in front, a root that can't be written.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import run
from kata_dind.image.entrypoint import entrypoint_script
from tests.guest.alpine import HAS_CALL, Root, make_root, needs_call
from tests.guest.conftest import GROWING, Ended, Shell, attach_loop, detach_loops

pytestmark = pytest.mark.requires("root", "busybox")

DATA_ROOT = "/var/lib/docker"
STEPS = ["write", "mount", "copy-up", "whiteout", "d_type", "file capability", "rename", "opaque directory"]


@dataclasses.dataclass(frozen=True)
class Container:
    """The root with a volume on /var/lib/docker and one on /var/share; `volumes` has both on the host."""

    root: Root
    volumes: Path

    @property
    def docker(self) -> Path:
        return self.volumes / "docker"

    @property
    def share(self) -> Path:
        return self.volumes / "share"

    def start(
        self,
        *command: str,
        mounts: tuple[str, ...] = (),
        user: int = 0,
        around: tuple[str, ...] = (),
        before: str = "",
        after: str = "",
        **told: Any,
    ) -> Ended:
        """Run the entrypoint with a command, as the image's own would be; `around` is what runs both."""
        volumes = (f"{self.docker}={DATA_ROOT}", f"{self.share}=var/share")
        argv = (*self.root.enter(*volumes, *mounts, user=user), *around, self.root.shell)
        shell = Shell("alpine", argv, "/usr/sbin:/usr/bin:/sbin:/bin", Path("/entrypoint.sh"), self.volumes)
        told = {"STATUS_DIR": "/run/kata-dind", **told}
        ended = shell.entrypoint(*command, before=before, after=after, **told)
        return dataclasses.replace(ended, status=self.root.path / "run/kata-dind/status.json")


# The programs of busybox are those of PATH for dash alone; the shell of Alpine is the other.
@pytest.fixture(params=[pytest.param("dash"), pytest.param("busybox", marks=pytest.mark.thorough)])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Container]:
    root = make_root(tmp_path / "root", entrypoint=entrypoint_script(), dialect=request.param)
    for name in ("docker", "share"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
    yield Container(root, tmp_path / "volumes")
    detach_loops(tmp_path)


def device_of(container: Container, *, mib: int) -> Path:
    with (container.volumes / "disk.img").open("wb") as file:
        file.truncate(mib << 20)
    return attach_loop(container.volumes / "disk.img")


def assert_proven(ended: Ended, kind: str) -> None:
    assert ended.code == 0, ended.stderr
    assert ended.said("warning") == []
    status = json.loads(ended.status.read_text())
    assert status["kind"] == kind
    assert status["proof"] == dict.fromkeys(STEPS, "passed" if HAS_CALL else "untested")
    assert status["direct_io"] is (True if kind == "loop" else None)


def warnings_of(ended: Ended) -> list[dict[str, Any]]:
    return [line for line in ended.lines if line["kata_dind"] == "warning"]


def test_the_root_has_nothing_else(container: Container) -> None:
    for name in ("setfattr", "setcap", "findmnt", "lsblk", "xfs_growfs", "python3", "mount.fuse3"):
        assert not container.root.has(name), name
    for name in ("mount", "losetup", "blkid", "flock", "stat", "mkfs.ext4", "e2fsck", "resize2fs", "mkfs.xfs"):
        assert container.root.has(name), name
    assert not (container.root.path / "tmp").exists()
    ended = container.start("sh", "-c", 'echo "${HOME-unset}"; losetup --direct-io=on /dev/null', DATA_ROOT="virtiofs")
    assert ended.stdout == "unset\n"
    assert "direct-io" in ended.stderr


# --- every kind


@needs_call
@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", ["ext4", pytest.param("xfs", marks=pytest.mark.requires("xfs"))])
def test_loop(container: Container, filesystem: str) -> None:
    told: dict[str, Any] = {"DATA_ROOT": "loop", "SIZE": "512M", "DIR": "/var/share", "FILESYSTEM": filesystem}
    for expected in ("absent", "kept"):
        ended = container.start(
            "sh", "-c", 'cat "$0/file" 2>/dev/null || echo absent; echo kept >"$0/file"', DATA_ROOT, **told
        )
        assert ended.stdout == f"{expected}\n"
        assert_proven(ended, "loop")
    assert [path.name for path in container.share.iterdir()] == ["kata-dind.img"]


@needs_call
@pytest.mark.requires("loop")
@pytest.mark.parametrize("filesystem", ["ext4", pytest.param("xfs", marks=pytest.mark.requires("xfs"))])
def test_block(container: Container, filesystem: str) -> None:
    told: dict[str, Any] = {"DATA_ROOT": "block", "DEVICE": device_of(container, mib=512), "FILESYSTEM": filesystem}
    for _ in range(2):
        # A check of a disk that others may use begins with a wait of 11 s.
        assert_proven(container.start("true", CHECK="1", EXCLUSIVE="1", **told), "block")


@needs_call
def test_memory(container: Container) -> None:
    assert_proven(container.start("true", DATA_ROOT="memory", SIZE="64M"), "memory")


@needs_call
def test_kept(container: Container) -> None:
    before = f"mount -t tmpfs emptydir {container.docker}"
    assert_proven(container.start("true", before=before), "kept")
    assert_proven(container.start("true", before=before, SIZE="64M"), "memory")


@needs_call
def test_the_share_itself(container: Container) -> None:
    assert_proven(container.start("true", DATA_ROOT="virtiofs"), "virtiofs")
    assert [*container.docker.iterdir()] == []


@needs_call
@pytest.mark.requires("fuse", "loop")
def test_auto_on_a_share_that_refuses_overlay(container: Container) -> None:
    (container.volumes / "source").mkdir()
    before = f"bindfs --xattr-none {container.volumes}/source {container.docker}"
    after = f"umount {container.root.path}{DATA_ROOT} {container.docker}"
    ended = container.start("true", before=before, after=after, SIZE="256M")
    assert_proven(ended, "loop")
    assert [path.name for path in (container.volumes / "source").iterdir()] == ["kata-dind.img"]
    ended = container.start("echo", "went on", before=before, DATA_ROOT="virtiofs")
    assert (ended.code, ended.stdout) == (78, "")
    assert "overlay does not work on fuse" in ended.error["message"]


@needs_call
@pytest.mark.requires("loop")
@pytest.mark.parametrize("kind", ["loop", "block"])
@pytest.mark.parametrize("filesystem", GROWING)
def test_a_disk_that_grew_gives_its_file_system_more_room(container: Container, kind: str, filesystem: str) -> None:
    """An xfs by the program, since xfs_growfs is in no official image."""
    device = device_of(container, mib=512)
    told: dict[str, Any] = {"DATA_ROOT": kind, "FILESYSTEM": filesystem, "DEVICE": device, "DIR": "/var/share"}
    size = ("sh", "-c", 'df -k "$0" | tail -n 1', DATA_ROOT)
    assert_proven(container.start("true", SIZE="512M", **told), kind)
    os.truncate(container.volumes / "disk.img", 3 << 30)
    run(["losetup", "--set-capacity", device], timeout_seconds=10)
    for _ in range(2):
        ended = container.start(*size, SIZE="3G", **told)
        assert_proven(ended, kind)
        assert int(ended.stdout.split()[1]) > 2800 << 10
    check = ["e2fsck", "-fn"] if filesystem == "ext4" else ["xfs_repair", "-n"]
    run([*check, device if kind == "block" else container.share / "kata-dind.img"], timeout_seconds=60)


# --- direct I/O and capabilities


@needs_call
@pytest.mark.requires("loop")
def test_a_share_that_refuses_direct_io_is_named(container: Container) -> None:
    """As the file systems of disks with large sectors do; util-linux' losetup would be refused, too."""
    with (container.volumes / "disk.img").open("wb") as file:
        file.truncate(512 << 20)
    before = f"""
    disk=$(losetup --find --show --sector-size=4096 {container.volumes}/disk.img)
    mkfs.ext4 -q "$disk"
    mount "$disk" {container.share}
    """
    ended = container.start("true", before=before, DATA_ROOT="loop", SIZE="64M", DIR="/var/share")
    assert ended.code == 0, ended.stderr
    (warning,) = warnings_of(ended)
    assert warning["message"] == "writes to /var/share/kata-dind.img are slow without direct I/O: the share refuses it"
    assert "KATA_DIND_DIR" in warning["hint"]
    assert json.loads(ended.status.read_text())["direct_io"] is False


@pytest.mark.requires("loop")
@pytest.mark.parametrize("container", ["dash"], indirect=True)  # the other shell has its own uname
def test_on_another_architecture_a_capability_is_untested_and_direct_io_takes_a_package(container: Container) -> None:
    container.root.replace("uname", "echo riscv64")
    arch = container.volumes / "arch"
    arch.write_text("riscv64\n")
    before = f"[ ! -e /proc/sys/kernel/arch ] || mount --bind {arch} /proc/sys/kernel/arch"  # since Linux 6.1
    ended = container.start("true", before=before, DATA_ROOT="loop", SIZE="64M", DIR="/var/share")
    assert ended.code == 0, ended.stderr
    (warning,) = warnings_of(ended)
    assert warning["message"] == (
        "writes to /var/share/kata-dind.img are slow without direct I/O: no program here can switch it on"
    )
    assert "apk add losetup" in warning["hint"]
    status = json.loads(ended.status.read_text())
    assert status["direct_io"] is False
    assert status["proof"]["file capability"] == "untested"


@needs_call
@pytest.mark.parametrize("where", ["/run", "/dev", "nowhere"])
def test_a_program_runs_from_where_it_can(container: Container, where: str) -> None:
    """The data root is mounted noexec, then also /run, then also /dev."""
    before = f"mount -t tmpfs -o noexec kept {container.docker}"
    mounts = [] if where == "/run" else ["tmpfs=run:noexec"]
    if where == "nowhere":
        before += (
            f"\nmount -t tmpfs -o noexec,mode=755 dev {container.volumes}/dev; cp -a /dev/null {container.volumes}/dev"
        )
        (container.volumes / "dev").mkdir()
        mounts.append(f"{container.volumes}/dev=dev")
    after = f"cat {container.root.path}/run/kata-dind/status.json; find {container.root.path}/run {container.docker}"
    ended = container.start("true", before=before, mounts=tuple(mounts), after=after)
    assert ended.code == 0, ended.stderr
    status, *left = ended.stdout.splitlines()
    assert json.loads(status)["proof"]["file capability"] == ("untested" if where == "nowhere" else "passed")
    assert not any("call" in path for path in left)
    assert not Path("/dev/kata-dind-call").exists()


@needs_call
@pytest.mark.requires("loop")
def test_what_a_killed_start_has_left_is_no_hindrance(container: Container) -> None:
    told: dict[str, Any] = {"DATA_ROOT": "loop", "SIZE": "64M", "DIR": "/var/share"}
    assert_proven(container.start("sh", "-c", 'echo x >"$0/.kata-dind-probe"', DATA_ROOT, **told), "loop")
    ended = container.start("sh", "-c", 'ls -A "$0"', DATA_ROOT, **told)
    assert_proven(ended, "loop")
    assert ended.stdout == "lost+found\n"


@needs_call
@pytest.mark.requires("loop")
def test_a_full_disk_has_direct_io_too(container: Container) -> None:
    """The program has no room on the data root, and lies beside the status."""
    told: dict[str, Any] = {"DATA_ROOT": "loop", "SIZE": "64M", "DIR": "/var/share"}
    fill = 'for size in 64k 1k; do dd if=/dev/zero of="$0/$size" bs=$size 2>/dev/null; done; :'
    assert_proven(container.start("sh", "-c", fill, DATA_ROOT, **told), "loop")
    ended = container.start("true", **told)
    assert ended.code == 0, ended.stderr
    assert ended.said("warning") == [f"{DATA_ROOT} is full, so it was not proven again"]
    assert json.loads(ended.status.read_text())["direct_io"] is True
    assert [path.name for path in ended.status.parent.iterdir()] == ["status.json"]


# --- images that are derived from the official one


def test_a_user_without_a_home_gets_one_clear_line(container: Container) -> None:
    """dockerd's own default for an ordinary user lies in the home directory."""
    ended = container.start("echo", "went on", user=65534)
    assert (ended.code, ended.stdout) == (78, "")
    assert [line["kata_dind"] for line in ended.lines] == ["error"]
    assert ended.error["message"].startswith("cannot make /.local/share/docker: ")
    assert "Permission denied" in ended.error["message"]
    assert len(ended.stderr.splitlines()) == 1


def test_a_user_who_is_not_root_may_use_a_disk_that_is_there(container: Container) -> None:
    """Its status has no place without /tmp and XDG_RUNTIME_DIR, which is said."""
    before = f"mount -t tmpfs -o mode=777 emptydir {container.docker}"
    ended = container.start("echo", "went on", user=65534, before=before, PATH=DATA_ROOT, STATUS_DIR="")
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
    unproven, status = warnings_of(ended)
    assert " is not proven, because " in unproven["message"]
    assert status["message"] == "cannot write /tmp/kata-dind/status.json"
    assert status["hint"] == "make /tmp writable"


def test_a_user_who_is_not_root_cannot_use_the_share(container: Container) -> None:
    container.docker.chmod(0o777)
    ended = container.start("echo", "went on", user=65534, DATA_ROOT="loop", PATH=DATA_ROOT, SIZE="64M")
    assert (ended.code, ended.stdout) == (78, ""), ended.stderr
    assert ended.error["message"] == "only root can prepare the loop kind, and the container's user is 65534"


@needs_call
@pytest.mark.requires("loop")
@pytest.mark.parametrize("run", ["writable /run", "nothing writable"])
def test_a_root_that_cannot_be_written(container: Container, run: str) -> None:
    mounts = ("read-only", *(["tmpfs=run:mode=755"] if run == "writable /run" else []))
    after = f"cat {container.root.path}/run/kata-dind/status.json 2>/dev/null || :"
    for kind in ("loop", "virtiofs"):
        told: dict[str, Any] = {"DATA_ROOT": kind, "SIZE": "64M", "DIR": "/var/share"}
        ended = container.start("echo", "went on", mounts=mounts, after=after, **told)
        assert ended.code == 0, ended.stderr
        went_on, *status = ended.stdout.splitlines()
        assert went_on == "went on"
        if run == "writable /run":
            assert ended.said("warning") == []
            assert json.loads(status[0])["proof"] == dict.fromkeys(STEPS, "passed")
        else:
            assert ended.said("warning") == ["cannot write /run/kata-dind/status.json"]
        assert any(line.get("proof", {}).get("file capability") == "passed" for line in ended.lines)


@needs_call
@pytest.mark.requires("fuse", "loop")
def test_nothing_is_written_to_a_temporary_directory(container: Container) -> None:
    """As with TMPDIR on virtio-fs, where programs that keep files open without a name fail."""
    (container.volumes / "source").mkdir()
    before = f"bindfs --xattr-none -p a-w {container.volumes}/source {container.share}; export TMPDIR=/var/share"
    after = f"umount {container.root.path}/var/share {container.share}; find {container.volumes}/source"
    ended = container.start("sh", "-c", 'echo "$TMPDIR"', before=before, after=after, DATA_ROOT="loop", SIZE="64M")
    assert_proven(ended, "loop")
    assert ended.stdout.splitlines() == ["/var/share", f"{container.volumes}/source"]


IN_FRONT = {
    "tini": ("tini", "-g", "--"),
    "s6": ("/init",),
    "argoexec": ("/var/run/argo/argoexec", "emissary", "--loglevel", "info", "--"),
}
# What each of them does: it starts what comes behind its own words, as its child.
_START = """
case $0 in */init) ;; *) while [ "$1" != -- ]; do shift; done; shift ;; esac
"$@" &
wait $!
"""


@needs_call
@pytest.mark.requires("loop")
@pytest.mark.parametrize("order", ["theirs first", "ours first"])
@pytest.mark.parametrize("name", IN_FRONT)
def test_another_entrypoint_in_front(container: Container, name: str, order: str) -> None:
    for program in ("tini", "init", "argoexec"):
        container.root.replace(program, _START)
    container.root.replace("dockerd", 'echo "${DOCKER_DRIVER:-none}" "$@"')
    for link in ("init", "var/run/argo/argoexec"):
        (container.root.path / link).parent.mkdir(parents=True, exist_ok=True)
        (container.root.path / link).symlink_to(f"/usr/bin/{Path(link).name}")
    dockerd = ["dockerd", "--storage-driver=vfs", f"--data-root={DATA_ROOT}", "--debug"]
    told: dict[str, Any] = {"DATA_ROOT": "loop", "SIZE": "64M", "DIR": "/var/share"}
    if order == "ours first":
        ended = container.start("--", *IN_FRONT[name], *dockerd, **told)
    else:
        ended = container.start(*dockerd, around=IN_FRONT[name], **told)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == f"overlay2 --storage-driver=vfs --data-root={DATA_ROOT} --debug\n"
    assert ended.said("warning") == ["the storage driver vfs is overruled, for overlay works here"]
    assert json.loads(ended.status.read_text())["kind"] == "loop"
