"""What is mended, or said in one line, before dockerd would stumble on it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.guest.conftest import Ended, Shell

pytestmark = pytest.mark.requires("root")


def behind(shell: Shell, *wrapper: str) -> Shell:
    """Return the shell, started through a program of the host's."""
    program = shutil.which(wrapper[0])
    assert program, wrapper[0]
    return dataclasses.replace(shell, argv=(program, *wrapper[1:], *shell.argv))


def hints(ended: Ended, level: str) -> list[str]:
    return [line["hint"] for line in ended.lines if line["kata_dind"] == level and "hint" in line]


def test_a_good_container_hears_no_warning(shell: Shell, data_root: Path) -> None:
    ended = shell.entrypoint("true", PATH=data_root)
    assert (ended.code, ended.said("warning"), ended.said("error")) == (0, [], [])


# --- privileges


def test_a_container_without_privileges_is_refused(shell: Shell, data_root: Path) -> None:
    shell = behind(shell, "setpriv", "--bounding-set=-sys_admin")
    ended = shell.entrypoint("echo", "went on", PATH=data_root)
    assert (ended.code, ended.stdout) == (78, "")
    assert ended.error["step"] == "preflight"
    assert "the container is not privileged" in ended.error["message"]
    assert "--privileged" in ended.error["hint"]
    assert "securityContext.privileged: true" in ended.error["hint"]


def test_a_fallback_needs_no_privileges_of_the_entrypoint(shell: Shell, data_root: Path) -> None:
    shell = behind(shell, "setpriv", "--bounding-set=-sys_admin")
    ended = shell.entrypoint("echo", "went on", PATH=data_root, FALLBACK="vfs")
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr


@pytest.mark.parametrize("oom_score_adj", ["0", "500"])
def test_a_missing_capability_that_runc_needs_is_named(shell: Shell, data_root: Path, oom_score_adj: str) -> None:
    """Where runc has to lower the score, as in pods."""
    shell = behind(shell, "setpriv", "--bounding-set=-sys_resource")
    ended = shell.entrypoint("true", PATH=data_root, before=f"echo {oom_score_adj} >/proc/self/oom_score_adj")
    assert ended.code == 0, ended.stderr
    if oom_score_adj == "0":
        assert ended.said("warning") == []
    else:
        (warning,) = ended.said("warning")
        assert "can't get final child's PID" in warning
        assert warning.startswith("without CAP_SYS_RESOURCE and with oom_score_adj 500 ")
        assert hints(ended, "warning") == ["make the container privileged; if it is, give containerd the capability"]


# --- a user namespace, as a pod with hostUsers: false has


@pytest.fixture
def mapped(shell: Shell) -> Shell:
    return behind(shell, "unshare", "--user", "--map-root-user", "--mount")


def test_root_of_a_user_namespace_can_have_memory(mapped: Shell, data_root: Path) -> None:
    ended = mapped.entrypoint("true", PATH=data_root, DATA_ROOT="memory", SIZE="64M")
    assert ended.code == 0, ended.stderr
    status = json.loads(ended.status.read_text())
    assert (status["kind"], status["filesystem"], status["proof"]["opaque directory"]) == ("memory", "tmpfs", "passed")


def test_root_of_a_user_namespace_keeps_a_file_system_that_is_there(mapped: Shell, data_root: Path) -> None:
    ended = mapped.entrypoint("true", PATH=data_root, before=f"mount -t tmpfs -o size=64m,mode=0777 disk {data_root}")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.status.read_text())["kind"] == "kept"


@pytest.mark.parametrize(
    "asked", [{"DATA_ROOT": "loop"}, {"DATA_ROOT": "block", "DEVICE": "/dev/vdb"}, {"DEVICE": "serial"}]
)
def test_root_of_a_user_namespace_is_refused_a_disk(mapped: Shell, data_root: Path, asked: dict[str, str]) -> None:
    ended = mapped.entrypoint("true", PATH=data_root, **asked)
    assert ended.code == 78
    assert ended.error["message"] == "root of a user namespace cannot mount a disk"
    assert "hostUsers: true" in ended.error["hint"]


@pytest.mark.requires("fuse")
def test_root_of_a_user_namespace_on_a_share_gets_memory_or_a_refusal(mapped: Shell, data_root: Path) -> None:
    (mapped.directory / "source").mkdir()
    share = f"bindfs --xattr-none {mapped.directory}/source {data_root}"
    ended = mapped.entrypoint("true", PATH=data_root, SIZE="64M", before=share)
    assert ended.code == 0, ended.stderr
    status = json.loads(ended.status.read_text())
    assert status["kind"] == "memory"
    assert status["reasons"] == {"loop": "root of a user namespace cannot mount a disk"}
    ended = mapped.entrypoint("true", PATH=data_root, before=share)
    assert ended.code == 78
    assert "loop: root of a user namespace cannot mount a disk" in ended.error["message"]


def test_a_disk_that_may_hold_data_is_not_passed_over(mapped: Shell, data_root: Path) -> None:
    (data_root / "kata-dind.img").touch()
    ended = mapped.entrypoint("true", PATH=data_root, SIZE="64M")
    assert ended.code == 78
    assert "kata-dind.img may hold data" in ended.error["message"]


# --- devices


_BARE_DEV = "mount -t tmpfs dev /dev; mknod -m 0666 /dev/null c 1 3; mknod -m 0666 /dev/zero c 1 5"


def test_missing_devices_are_made(shell: Shell, data_root: Path) -> None:
    """There is no /dev/console either, as in a Kata container without a terminal; nothing needs it."""
    ended = shell.entrypoint(
        "true", PATH=data_root, before=_BARE_DEV, after="cd /dev; stat -c '%n %A %t:%T' fuse kmsg loop-control loop7"
    )
    assert ended.stdout.splitlines() == [
        "fuse crw-rw-rw- a:e5",
        "kmsg crw-r--r-- 1:b",
        "loop-control crw------- a:ed",
        "loop7 brw------- 7:7",
    ]
    assert (ended.code, ended.said("warning")) == (0, [])


def test_devices_that_cannot_be_made_are_named(shell: Shell, data_root: Path) -> None:
    shell = behind(shell, "setpriv", "--bounding-set=-mknod")
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="memory", SIZE="64M", before=_BARE_DEV)
    assert ended.code == 0, ended.stderr
    assert any(line.startswith("cannot make /dev/fuse /dev/kmsg /dev/loop-control") for line in ended.said("info"))


# --- open files


@pytest.mark.parametrize(
    ("soft", "hard", "now"), [("1024", "8192", "8192"), ("8192", "8192", "8192"), ("512", "4096", "4096")]
)
def test_the_limit_of_open_files_is_raised(shell: Shell, data_root: Path, soft: str, hard: str, now: str) -> None:
    shell = behind(shell, "prlimit", f"--nofile={soft}:{hard}")
    ended = shell.entrypoint("sh", "-c", "ulimit -S -n; ulimit -H -n", PATH=data_root)
    assert ended.stdout.split() == [now, hard], ended.stderr
    assert ended.said("warning") == (["only 4096 files may be open at a time"] if hard == "4096" else [])


def test_the_limit_of_open_files_is_not_raised_beyond_measure(shell: Shell) -> None:
    done = shell.call('ulimit() { echo "ulimit $*"; }; raise_open_files')
    assert done.stdout == "ulimit -S -n 1048576\n", done.stderr


# --- memory


_MIB = 1 << 20


@pytest.mark.parametrize(
    ("below", "limits", "memory_mib"),
    [
        ("0::/", {"memory.max": 700 * _MIB}, 700),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/init", {"memory.max": 700 * _MIB, "init/memory.max": "max"}, 700),
        ("0::/pod/one", {"pod/memory.max": 600 * _MIB, "pod/one/memory.max": 500 * _MIB}, 500),
        ("0::/../two", {"memory.max": 700 * _MIB}, 700),
        ("4:memory:/docker/abc", {"memory/memory.limit_in_bytes": 300 * _MIB}, 300),
        ("4:cpu,memory:/", {"memory/memory.limit_in_bytes": 9223372036854771712}, None),
        ("0::/", {}, None),
        ("4:pids:/", {"memory/memory.limit_in_bytes": 300 * _MIB}, None),
    ],
)
def test_memory_is_the_least_that_is_allowed(
    shell: Shell, below: str, limits: dict[str, int | str], memory_mib: int | None
) -> None:
    cgroups, memberships = shell.directory / "cgroups", shell.directory / "memberships"
    memberships.write_text(f"3:devices:/\n{below}\n")
    for name, limit in limits.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(f"{limit}\n")
    done = shell.call(
        'memory_mib_of_guest; echo "$memory_mib $memory_of"',
        files={"/proc/self/cgroup": memberships, "/sys/fs/cgroup": cgroups},
    )
    if memory_mib is None:
        assert done.stdout.endswith(" the guest's memory\n"), done
    else:
        assert done.stdout == f"{memory_mib} the {memory_mib} MiB that the container's memory limit allows\n", done


@pytest.fixture
def limited() -> str:
    """A script that limits the container to 700 MiB, in the eyes of the entrypoint."""
    return f"""
    printf '{700 * _MIB}\\n' >/sys/fs/cgroup/memory.max
    mkdir -p /sys/fs/cgroup/memory; printf '{700 * _MIB}\\n' >/sys/fs/cgroup/memory/memory.limit_in_bytes
    """


def test_memory_is_not_chosen_beyond_half_of_the_limit(shell: Shell, data_root: Path, limited: str) -> None:
    ended = shell.entrypoint("true", PATH=data_root, SIZE="400M", before=limited)
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.status.read_text())["reasons"]["memory"] == (
        "400M is more than half of the 700 MiB that the container's memory limit allows"
    )
    ended = shell.entrypoint("true", PATH=data_root, DATA_ROOT="memory", SIZE="400M", before=limited)
    assert ended.said("warning") == [
        "a memory data root of 400M may take more than half of the 700 MiB that the container's memory limit allows"
    ]


def test_an_empty_dir_that_shows_more_than_the_limit_is_named(shell: Shell, data_root: Path, limited: str) -> None:
    mount = f"{limited}\nmount -t tmpfs -o size=2g memory {data_root}"
    ended = shell.entrypoint("true", PATH=data_root, before=mount)
    assert ended.code == 0, ended.stderr
    assert ended.said("warning") == [
        f"{data_root} shows 2048 MiB, which is more than the 700 MiB that the container's memory limit allows"
    ]
    ended = shell.entrypoint("true", PATH=data_root, SIZE="300M", before=mount)
    assert (ended.said("warning"), json.loads(ended.status.read_text())["size_bytes"]) == ([], 300 * _MIB)


# --- the rest of the surroundings


_LOOK_AT_RUN = """
while read -r _ _ _ _ point rest; do [ "$point" != /run/docker ] || echo "${rest#*- }"; done </proc/self/mountinfo
stat -c %a /run/docker
"""


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("more", ["", "; mkdir /run/docker"], ids=["absent", "empty"])
def test_on_a_run_directory_on_a_share_docker_gets_memory(shell: Shell, data_root: Path, more: str) -> None:
    (shell.directory / "source").mkdir()
    before = f"bindfs -o nonempty {shell.directory}/source /run{more}"
    ended = shell.entrypoint("sh", "-c", _LOOK_AT_RUN, PATH=data_root, before=before)
    assert (ended.code, ended.said("warning")) == (0, []), ended.stderr
    mounted, mode = ended.stdout.splitlines()
    assert (mounted.split()[0], mode) == ("tmpfs", "711")
    assert not [line for line in ended.said("info") if line.startswith("/run")]


@pytest.mark.requires("fuse")
@pytest.mark.parametrize(
    "more", [">/run/docker/theirs", "mount --bind /run/docker /run/docker"], ids=["files", "mount"]
)
def test_what_is_in_its_run_directory_is_not_hidden(shell: Shell, data_root: Path, more: str) -> None:
    (shell.directory / "source").mkdir()
    before = f"bindfs -o nonempty {shell.directory}/source /run; mkdir /run/docker; {more}"
    ended = shell.entrypoint("sh", "-c", _LOOK_AT_RUN, PATH=data_root, before=before)
    assert (ended.code, ended.said("warning")) == (0, []), ended.stderr
    assert "tmpfs" not in ended.stdout
    assert any(line.startswith("/run lies on fuse") for line in ended.said("info"))


def test_a_run_directory_on_no_share_stays_as_it_is(shell: Shell, data_root: Path) -> None:
    before = "mount -t tmpfs run /run"
    ended = shell.entrypoint("sh", "-c", "[ -e /run/docker ] || echo absent", PATH=data_root, before=before)
    assert (ended.code, ended.stdout) == (0, "absent\n"), ended.stderr


def test_cgroups_of_the_first_version_get_the_hierarchy_that_docker_needs(shell: Shell, data_root: Path) -> None:
    before = "mkdir /sys/fs/cgroup/devices; : >/sys/fs/cgroup/devices/cgroup.procs"
    after = "ls /sys/fs/cgroup/systemd/cgroup.procs; umount /sys/fs/cgroup/systemd"
    ended = shell.entrypoint("true", PATH=data_root, before=before, after=after)
    assert (ended.code, ended.stdout) == (0, "/sys/fs/cgroup/systemd/cgroup.procs\n"), ended.stderr
    assert ended.said("warning") == []


def test_cgroups_that_stay_read_only_are_said(shell: Shell, data_root: Path) -> None:
    before = ": >/sys/fs/cgroup/cgroup.subtree_control; mount -o remount,ro /sys/fs/cgroup"
    ended = shell.entrypoint("true", PATH=data_root, before=before)
    assert ended.code == 0, ended.stderr
    (warning,) = ended.said("warning")
    assert "/sys/fs/cgroup is read-only" in warning
    assert hints(ended, "warning") == ["make the container privileged"]
