"""What the host shares, as the guest sees it and as it comes back."""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from pathlib import Path

import pytest

from tests.vm.conftest import SharedPaths
from tests.vm.driver import SandboxDriver

pytestmark = pytest.mark.requires("qemu", "virtiofsd")


def test_the_guest_sees_what_a_kata_guest_sees(sandbox: SandboxDriver) -> None:
    mounts = sandbox.succeed("cat /proc/self/mountinfo")
    shares = [line for line in mounts.splitlines() if " /srv/" in line]
    assert len(shares) == 3
    assert {line.partition(" - ")[2].split()[0] for line in shares} == {"virtiofs"}, mounts
    # Directories are submounts, each with a device of its own and no source; a file shows the tag.
    assert len({line.split()[2] for line in shares}) == len(shares), mounts
    assert sorted(line.partition(" - ")[2].split()[1] for line in shares) == ["kataShared", "none", "none"], mounts


def test_what_the_guest_writes_is_on_the_host_with_our_owner(sandbox: SandboxDriver, shared_paths: SharedPaths) -> None:
    sandbox.succeed(f"cd {shared_paths.guest_writable} && echo written >file && mkdir directory && chmod 640 file")
    written = shared_paths.writable / "file"
    assert written.read_text() == "written\n"
    assert (written.stat().st_uid, written.stat().st_gid) == (os.geteuid(), os.getegid())
    assert stat.S_IMODE(written.stat().st_mode) == 0o640
    assert (shared_paths.writable / "directory").is_dir()
    sandbox.succeed(f"cd {shared_paths.guest_writable} && mv file directory/moved && rm -r directory")
    assert [*shared_paths.writable.iterdir()] == []


def test_what_the_host_writes_is_in_the_guest(sandbox: SandboxDriver, shared_paths: SharedPaths) -> None:
    big = os.urandom(3_000_000)
    (shared_paths.writable / "from the host").write_bytes(big)
    command = f"sha256sum <{shlex.quote(shared_paths.guest_writable + '/from the host')}"
    digest = sandbox.succeed(command).split()[0]
    (shared_paths.writable / "from the host").unlink()
    assert digest == hashlib.sha256(big).hexdigest()


def test_a_read_only_share_is_read_only_on_the_host_side(sandbox: SandboxDriver, shared_paths: SharedPaths) -> None:
    place = shared_paths.guest_read_only
    assert sandbox.succeed(f"cat {place}/given") == "from the host\n"
    assert "Read-only file system" in sandbox.fail(f"echo more >{place}/given")
    sandbox.fail(f"rm {place}/given")
    # Not by a mount option that root in the guest could take back.
    sandbox.succeed(f"mount -o remount,rw {place} || true")
    assert "Read-only file system" in sandbox.fail(f"echo more >{place}/new")
    assert [path.name for path in shared_paths.read_only.iterdir()] == ["given"]


def test_a_file_is_shared_alone(sandbox: SandboxDriver, shared_paths: SharedPaths) -> None:
    place = shlex.quote(shared_paths.guest_file)
    assert sandbox.succeed(f"cat {place}") == "a note\n"
    sandbox.fail(f"echo more >{place}")
    assert shared_paths.file.read_text() == "a note\n"


def test_a_container_gets_a_share_as_a_volume(sandbox: SandboxDriver, hello: str, shared_paths: SharedPaths) -> None:
    volume = f"{shared_paths.guest_writable}:/volume"
    sandbox.succeed(f"docker run --rm -v {volume} {hello} sh -c 'echo container >/volume/file'")
    assert (shared_paths.writable / "file").read_text() == "container\n"
    (shared_paths.writable / "file").unlink()


def test_nothing_of_a_share_is_mounted_for_the_host_to_see(sandbox: SandboxDriver) -> None:
    assert str(sandbox.sandbox.directory) not in Path("/proc/self/mountinfo").read_text()
