"""Starts that can't go well: each ends with its code and a reason, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.host.directories import state_directory
from kata_dind.image.kernel import require_guest_kernel
from kata_dind.image.source import default_source
from kata_dind.progress import silent
from tests.vm.driver import kata_dind, mounted_tmpfs, states

pytestmark = pytest.mark.requires("qemu", "virtiofsd")


def _host_has_gib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30


@pytest.fixture(autouse=True)
def nothing_is_created(private_directories: Path) -> Iterator[None]:
    before = {path.name for path in (state_directory() / "sandboxes").iterdir()}
    yield
    assert {path.name for path in (state_directory() / "sandboxes").iterdir()} == before
    assert states().keys() == before


_BAD_INPUT = {
    "data root kind": (["--data-root", "floppy"], "--data-root: 'floppy' is unknown; use auto, memory, "),
    "backend": (["--backend", "docker"], "--backend: 'docker' is unknown; use vm"),
    "accelerator": (["--accel", "hax"], "--accel: 'hax' is unknown; use auto, kvm or tcg"),
    "network": (["--network", "bridge"], "--network: 'bridge' is unknown; use none or nat"),
    "negative size": (["--size=-1"], "--size: '-1' is not a size; use a number and a unit, like "),
    "no size": (["--size", "0"], "--size: '0' is not a size; use a number and a unit, like "),
    "size without a unit": (["--size", "20"], "--size: '20' is not a size; use a number and a unit, like "),
    "size with a wrong unit": (["--size", "20X"], "--size: '20X' is not a size; use a number and a unit, like "),
    "memory of nothing": (["--memory", "1M"], "--memory: '1M' is too small; it must be at least 256M"),
    "more memory than there is": (
        ["--memory", f"{_host_has_gib() + 1}G"],
        f"--memory: '{_host_has_gib() + 1}G' is more than this host has (",
    ),
    "data root above the memory": (
        ["--data-root", "memory", "--size", "3G", "--memory", "2G"],
        "--size: a memory data root of '3G' is larger than the guest's memory (2G); use ",
    ),
    "share that is not there": (["--share", "/no/such:/srv"], "--share: '/no/such' does not exist on this host"),
    "share without a place": (["--share", "/tmp:"], "--share: '/tmp:' is not a share; use PATH, HOST:GUEST"),
    "nested shares": (
        ["--share", "/tmp:/srv", "--share", "/tmp:/srv/inner"],
        "--share: the guest path '/srv/inner' is used inside '/srv', which is a share as well",
    ),
    "share over the data root": (
        ["--share", "/tmp:/var/lib/docker"],
        "--share: '/tmp:/var/lib/docker' would cover the guest's own /var/lib/docker",
    ),
    "kernel that is not there": (["--kernel", "/no/such"], "--kernel: /no/such cannot be read as a kernel: "),
    "kernel that is none": (["--kernel", "/bin/sh"], "--kernel: /bin/sh is not a kernel; "),
    "kernel that is a directory": (["--kernel", "/"], "--kernel: / cannot be read as a kernel: "),
    "image that is none": (["--image", "no-such:1"], "--image: there is no image no-such:1; known are: "),
    "image that is a file": (["--image", "/bin/sh"], "--image: there is no image /bin/sh; known are: "),
    "no processors": (["--cpus", "0"], "--cpus: '0' is not a whole number above zero"),
    "no time": (["--timeout", "0"], "--timeout: '0' is not a number of seconds above zero"),
}


@pytest.mark.parametrize(("options", "complaint"), _BAD_INPUT.values(), ids=_BAD_INPUT)
def test_bad_input_is_one_clear_line(options: list[str], complaint: str) -> None:
    refused = kata_dind("up", "refused", *options)
    assert_refused(refused, complaint)
    assert kata_dind("run", *options, "kata-dind/hello").stderr == refused.stderr


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "Größe", "UPPER", "with space", "-dash", "dash-", "x" * 41])
def test_a_bad_name_is_one_clear_line(name: str) -> None:
    assert_refused(kata_dind("up", "--", name), f"name: '{name}' is not a name; use 1 to 40 of a-z, 0-9 and -, ")


def assert_refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    first, *hints = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert first.startswith(f"kata-dind: {complaint}")
    assert all(line.startswith("hint: ") for line in hints)


# A bzImage's set-up code begins at 0x200, beside the header that makes it a kernel; the kernel proper follows some KiB
# later. Source: the kernel's x86/boot.rst
_BROKEN_KERNELS = {
    "hangs": (0x200, b"\xeb\xfe", "the guest did not answer within 5 s"),  # jmp $
    "ends": (0x10000, bytes(64 << 20), "QEMU ended before the guest answered"),
}


@pytest.mark.parametrize(("offset", "code", "complaint"), _BROKEN_KERNELS.values(), ids=_BROKEN_KERNELS)
def test_a_kernel_that_never_boots_is_given_up(tmp_path: Path, offset: int, code: bytes, complaint: str) -> None:
    kernel = require_guest_kernel(None, default_source(), report=silent).vmlinuz.read_bytes()
    broken = kernel[:offset] + code[: len(kernel) - offset] + kernel[offset + len(code) :]
    (tmp_path / "vmlinuz").write_bytes(broken)
    options = ["--kernel", str(tmp_path / "vmlinuz"), "--accel", "tcg", "--timeout", "5"]
    began = time.monotonic()
    failed = kata_dind("up", "hopeless", *options, "--data-root", "loop", "--size", "1G")
    assert time.monotonic() - began < 60
    assert failed.returncode == 4, failed.stderr
    assert f"kata-dind: {complaint}" in failed.stderr.splitlines()


@pytest.mark.requires("root")
@pytest.mark.parametrize(
    ("size_mib", "complaint"),
    [(1, "cannot make a disk in "), (6, "cannot make a disk in "), (10, "the file system of ")],
)
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, size_mib: int, complaint: str) -> None:
    """1 MiB holds no disk, 6 MiB one of two, and 10 MiB both of them but not what the guest writes to them."""
    with mounted_tmpfs(tmp_path / "small", size=f"{size_mib}m") as small:
        state = {"KATA_DIND_STATE_DIR": str(small)}
        failed = kata_dind("up", "full", environment=state)
        assert failed.returncode == 5, failed.stderr
        assert f"\nkata-dind: {complaint}{small}/sandboxes/full" in f"\n{failed.stderr}"
        assert failed.stderr.endswith("\nhint: free space there, or set KATA_DIND_STATE_DIR to a directory with more\n")
        assert [path.name for path in (small / "sandboxes").iterdir()] == []
        assert kata_dind("ls", "--quiet", environment=state).stdout == ""
