"""Rootless Docker 29 on this host behind the guest entrypoint, no VM: a user, rootlesskit, and what is mounted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from kata_dind.host.process import scrubbed_environment
from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.proof.round_trip import prove
from scripts import build_dind29
from tests.guest.daemons import NAMESPACES, process_1, wait_until_it_answers, wait_until_no_loop_lies_in
from tests.users import OrdinaryUser

pytestmark = [
    pytest.mark.requires("root", "docker29", "loop", "netns", "ordinary-user"),
    pytest.mark.thorough if build_dind29.find_programs() else pytest.mark.slow(minutes=15),
    pytest.mark.timeout(3600),  # the first one builds it
]

# The user may enter /mnt, but neither the cache with the programs nor the test's own directory.
_AROUND = """
set -eu
ip link set lo up
mount -t proc proc /proc
mount -t tmpfs cover /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=0755 mnt /mnt
mkdir -p /mnt/programs /mnt/home/.local/share/docker "/run/user/$ID"
mount --bind "$PROGRAMS" /mnt/programs
cp "$ENTRYPOINT" /mnt/entrypoint.sh
chown -R "$ID:$ID" /mnt/home "/run/user/$ID"
mount --bind "$SOCKETS" "/run/user/$ID"
chown "$ID:$ID" "/run/user/$ID"
$MOUNT /mnt/home/.local/share/docker
chown "$ID:$ID" /mnt/home/.local/share/docker
cd /
export HOME=/mnt/home XDG_RUNTIME_DIR="/run/user/$ID" TMPDIR="/run/user/$ID" PATH="/mnt/programs:$PATH"
exec setpriv "--reuid=$ID" "--regid=$ID" --init-groups sh /mnt/entrypoint.sh "$@"
"""


@pytest.mark.parametrize(("filesystem", "mount"), [("ext4", "mount -o loop {disk}"), ("tmpfs", "mount -t tmpfs data")])
def test_rootless_docker_works_on_what_is_mounted_for_it(
    tmp_path: Path, ordinary_user: OrdinaryUser, filesystem: str, mount: str
) -> None:
    disk, sockets, script = (tmp_path / name for name in ("disk", "sockets", "entrypoint.sh"))
    sockets.mkdir()
    script.write_text(entrypoint_script())
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run([shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", disk], check=True)
    told = {
        "ID": str(ordinary_user.uid),
        "PROGRAMS": str(build_dind29.require_programs()),
        "ENTRYPOINT": str(script),
        "SOCKETS": str(sockets),
        "MOUNT": mount.format(disk=disk),
    }
    rootlesskit = ["rootlesskit", "--net=none", "--copy-up=/etc", "--copy-up=/run"]
    dockerd = ["dockerd", "--iptables=false", "--bridge=none"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-c", _AROUND, "sh", *rootlesskit, *dockerd],
            env={**scrubbed_environment(), **told},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_it_answers(process, sockets / "docker.sock", tmp_path / "log")
        assert prove(sockets / "docker.sock", timeout_seconds=60).storage == "overlayfs"
        status = json.loads((sockets / "kata-dind" / "status.json").read_text())
        assert (status["kind"], status["filesystem"]) == ("kept", filesystem)
        assert set(status["proof"].values()) == {"passed"}
        os.kill(process_1(process), signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        # unshare's --kill-child is lost when the child changes its user, prctl(2).
        if process.poll() is None:
            os.kill(process_1(process), signal.SIGKILL)
            process.wait()
        wait_until_no_loop_lies_in(tmp_path)
