"""The guest entrypoint as a user other than root, as in the dind-rootless images: what it proves and refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Ended, Shell

pytestmark = pytest.mark.requires("root", "userns")

_USER = 65534
_STEPS = ["write", "mount", "copy-up", "whiteout", "d_type", "rename", "opaque directory"]

_TMPFS = "mount -t tmpfs t /mnt/docker"
_EXT4 = "truncate --size=64M /mnt/disk; mkfs.ext4 -q /mnt/disk; mount -o loop /mnt/disk /mnt/docker"
_FUSE = "bindfs -o allow_other --xattr-none /mnt/source /mnt/docker"
_OVERLAY = """
mkdir /mnt/u /mnt/w
mount -t overlay -o lowerdir=/mnt/source,upperdir=/mnt/u,workdir=/mnt/w o /mnt/docker
"""


@dataclass(frozen=True)
class Rootless:
    """How the entrypoint ended as an ordinary user, and what its status file says."""

    ended: Ended
    status: dict[str, Any]
    left: list[str]
    """What lies in the data root afterwards."""


AsUser = Callable[..., Rootless]


@pytest.fixture
def as_user(shell: Shell) -> AsUser:
    """Runs the entrypoint without any privilege, on what a mount command has put on /mnt/docker."""

    def run(
        mount: str,
        *command: str,
        also: str = "",
        groups: str = "--clear-groups",
        around: str = "",
        tools: str = "",
        **variables: str,
    ) -> Rootless:
        # Only root may enter the test's own directories; any user may enter /mnt.
        before = f"""
        mount -t tmpfs -o mode=0755 t /mnt
        mkdir -m 0777 /mnt/docker /mnt/source /mnt/run
        cp {shell.script} /mnt/entrypoint.sh
        [ {shell.name} = dash ] || cp -a {shell.tools} /mnt/tools
        {mount}
        chown {_USER} /mnt/docker
        {also}
        """
        path = "PATH=/mnt/tools" if shell.name == "busybox" else "LC_ALL=C.UTF-8"
        user = f"{shutil.which('setpriv')} --reuid={_USER} --regid={_USER} {groups}"
        environment = f"{shutil.which('env')} -u KATA_DIND_STATUS_DIR XDG_RUNTIME_DIR=/mnt/run {path}"
        argv = " ".join([shutil.which(shell.argv[0]) or "", *shell.argv[1:]])
        script = f'shift {len(shell.argv) + 1}; cd /; exec {around} {user} {environment} {argv} /mnt/entrypoint.sh "$@"'
        wrapped = dataclasses.replace(shell, argv=("/bin/sh", "-c", script, "sh", *shell.argv))
        after = "echo; cat /mnt/run/kata-dind/status.json; ls -A /mnt/docker"
        ended = wrapped.entrypoint(*command, before=before, after=after, tools=tools, PATH="/mnt/docker", **variables)
        said, _, rest = ended.stdout.rpartition("\n{")
        status, *left = rest.splitlines()
        return Rootless(dataclasses.replace(ended, stdout=said), json.loads("{" + status), left)

    return run


@pytest.mark.parametrize(
    ("mount", "filesystem"),
    [(_TMPFS, "tmpfs"), pytest.param(_EXT4, "ext4", marks=pytest.mark.requires("loop"))],
    ids=["tmpfs", "ext4"],
)
def test_what_is_mounted_is_kept_when_overlay_works_in_a_user_namespace(
    as_user: AsUser, mount: str, filesystem: str
) -> None:
    here = as_user(mount, "echo", "went on")
    assert (here.ended.code, here.ended.stdout) == (0, "went on\n"), here.ended.stderr
    assert (here.status["kind"], here.status["filesystem"]) == ("kept", filesystem)
    assert here.status["proof"] == dict.fromkeys(_STEPS, "passed")
    assert [name for name in here.left if name != "lost+found"] == []
    assert f"overlay works on {filesystem} in a user namespace" in here.ended.said("info")


@pytest.mark.requires("fuse")
def test_a_share_without_xattr_is_refused_with_the_step_that_failed(as_user: AsUser) -> None:
    here = as_user(_FUSE, "echo", "went on", DATA_ROOT="virtiofs")
    assert (here.ended.code, here.ended.stdout) == (78, ""), here.ended.stderr
    assert here.ended.error["message"].startswith(
        f"overlay does not work on fuse at /mnt/docker for user {_USER}: mount failed; mount: "
    )
    assert here.ended.error["hint"] == "mount a disk with ext4 or xfs on /mnt/docker"
    assert here.status["proof"] == {"write": "passed", "mount": "failed"}
    assert here.left == []


# busybox's shell runs its own applets, whatever is on PATH.
@pytest.mark.parametrize("shell", ["dash"], indirect=True)
@pytest.mark.parametrize(
    ("name", "script", "step"),
    [
        ("mount", "case $2 in overlay) exit 32 ;; esac", "mount"),
        ("rm", "case $2 in merged/removed) exit 1 ;; esac", "whiteout"),
        ("rm", 'case $2 in merged/removed) /bin/rm "$@"; exec /bin/rm -f upper/removed ;; esac', "whiteout"),
        ("mv", "case $1 in merged/*) exit 1 ;; esac", "rename"),
        ("mv", 'case $1 in merged/*) exec cp "$@" ;; esac', "rename"),
        ("mkdir", "case $1 in merged/dir) exit 1 ;; esac", "opaque directory"),
        ("mkdir", 'case $1 in merged/dir) /bin/mkdir "$1"; touch "$1/hidden"; exit ;; esac', "opaque directory"),
    ],
)
def test_each_step_of_the_proof_can_fail_and_is_named(as_user: AsUser, name: str, script: str, step: str) -> None:
    stub = f"""
    mkdir /mnt/stubs
    cat >/mnt/stubs/{name} <<'END'
#!/bin/sh
{script}
exec {shutil.which(name)} "$@"
END
    chmod 0755 /mnt/stubs/{name}
    """
    here = as_user(_TMPFS, "echo", "went on", also=stub, tools="/mnt/stubs", DATA_ROOT="virtiofs")
    assert (here.ended.code, here.ended.stdout, here.left) == (78, "", [])
    assert f"for user {_USER}: {step} failed" in here.ended.error["message"]
    assert list(here.status["proof"].items())[-1] == (step, "failed")


@pytest.mark.requires("fuse")
def test_a_fallback_is_taken_by_a_user_as_well(as_user: AsUser) -> None:
    here = as_user(_FUSE, "sh", "-c", 'echo "$DOCKER_DRIVER"', FALLBACK="vfs")
    assert (here.ended.code, here.ended.stdout, here.status["storage_driver"]) == (0, "vfs\n", "vfs")


@pytest.mark.parametrize("kind", ["memory", "loop", "block"])
def test_a_kind_that_only_root_can_prepare_is_refused(as_user: AsUser, kind: str) -> None:
    device = {"DEVICE": "/dev/loop0"} if kind == "block" else {}
    # On a tmpfs, `memory` is what is there already.
    here = as_user(_OVERLAY if kind == "memory" else _TMPFS, "echo", "went on", DATA_ROOT=kind, **device)
    assert (here.ended.code, here.ended.stdout) == (78, "")
    assert here.ended.error == {
        "kata_dind": "error",
        "step": "prepare",
        "message": f"only root can prepare the {kind} kind, and the container's user is {_USER}",
        "hint": f"mount a disk on /mnt/docker that user {_USER} may write to, and leave KATA_DIND_DATA_ROOT out",
    }


def test_on_the_containers_own_overlay_the_reason_for_each_kind_is_given(as_user: AsUser) -> None:
    here = as_user(_OVERLAY, "true")
    assert (here.ended.code, here.ended.error["step"]) == (78, "choose")
    assert "kept: overlayfs does not accept an overlay as its upper layer" in here.ended.error["message"]
    assert "loop: only root can prepare the loop kind" in here.ended.error["message"]
    assert "leave KATA_DIND_DATA_ROOT out" in here.ended.error["hint"]


def test_memory_is_the_tmpfs_that_somebody_has_mounted_as_large_as_it_is(as_user: AsUser) -> None:
    here = as_user(f"{_TMPFS} -o size=100m", "true", DATA_ROOT="memory", SIZE="200M")
    assert (here.ended.code, here.status["kind"], here.status["size_bytes"]) == (0, "memory", 100 << 20)
    assert any(
        f"only root can resize the tmpfs on /mnt/docker to 200M, and the container's user is {_USER}" == line
        for line in here.ended.said("warning")
    )


@pytest.mark.parametrize(
    ("owner", "step"), [("chown 0", "write failed; mkdir: can"), ("chown 0:2000", "mount failed; mount: ")]
)
def test_a_volume_of_another_user_is_refused_with_the_way_to_give_it_away(
    as_user: AsUser, owner: str, step: str
) -> None:
    """With `fsGroup` a volume belongs to root and a group; rootless dockerd can't change its mode and ends."""
    more = f"{owner} /mnt/docker; chmod 2775 /mnt/docker"
    here = as_user(_TMPFS, "true", also=more, groups="--groups=2000")
    assert (here.ended.code, here.left) == (78, [])
    assert f"for user {_USER}: {step}" in here.ended.error["message"]
    assert here.ended.error["hint"].endswith(f": chown {_USER}:{_USER} /mnt/docker; chmod g-s /mnt/docker")


def test_where_no_user_namespace_is_allowed_a_disk_is_used_unproven(as_user: AsUser) -> None:
    """Rootless Docker does not start there either, and says why itself."""
    # A process in a chroot can't make a user namespace, user_namespaces(7).
    chroot = f"{shutil.which('chroot', path='/usr/sbin:/sbin:/usr/bin')} /mnt/all"
    also = "mkdir /mnt/all; mount --rbind / /mnt/all"
    here = as_user(_TMPFS, "echo", "went on", also=also, around=chroot)
    assert (here.ended.code, here.ended.stdout) == (0, "went on\n"), here.ended.stderr
    assert here.status["proof"] == {"write": "passed", "mount": "untested"}
    (warning,) = here.ended.said("warning")[:1]
    assert warning.startswith(
        f"/mnt/docker is not proven, because user {_USER} cannot make a user namespace: unshare: "
    )


def test_a_killed_proof_is_no_hindrance(as_user: AsUser) -> None:
    """What an overlay leaves in its work directory can't be listed, not even by the user who made it."""
    left = f"""
    mkdir -p /mnt/docker/.kata-dind-probe/work/work/deep
    chown -R {_USER} /mnt/docker/.kata-dind-probe
    chmod 0 /mnt/docker/.kata-dind-probe/work/work
    """
    here = as_user(_TMPFS, "true", also=left)
    assert (here.ended.code, here.left) == (0, []), here.ended.stderr


@pytest.mark.skipif(not Path("/dev/net").is_dir(), reason="this machine has no /dev/net to cover")
@pytest.mark.parametrize("made", [True, False])
def test_a_missing_tun_device_is_told_before_rootless_docker_fails_on_it(as_user: AsUser, made: bool) -> None:
    cover = "mount -t tmpfs t /dev/net; " + ("mknod /dev/net/tun c 10 200" if made else ":")
    here = as_user(_TMPFS, "true", also=cover)
    warnings = ["there is no /dev/net/tun, which the network of rootless Docker needs"]
    assert (here.ended.code, here.ended.said("warning")) == (0, [] if made else warnings)
