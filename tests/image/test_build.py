"""The guest OS, its kernel and the dind image, built for real into the cache that commands use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from kata_dind.errors import ImageError, SpecError
from kata_dind.host.rootlike import remove_tree, run_rootlike
from kata_dind.image import guestos
from kata_dind.image.dind import require_dind_image
from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.kernel import read_kernel_version, require_guest_kernel
from kata_dind.image.source import PackageSource, default_source
from kata_dind.image.store import find_image
from kata_dind.progress import Event, Report, silent

pytestmark = [pytest.mark.requires("mmdebstrap"), pytest.mark.timeout(1200)]


def _unpack(disk: Path, target: Path) -> Path:
    """Unpack a disk as an ordinary file tree of ours: only root could mount it."""
    subprocess.run(["fsck.erofs", f"--extract={target}", "--no-preserve", disk], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def guest_os(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpack(require_guest_os(default_source(), report=silent), tmp_path_factory.mktemp("guest") / "root")


@pytest.fixture(scope="module")
def dind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = require_dind_image("", default_source(), report=silent)
    return _unpack(image.disk, tmp_path_factory.mktemp("dind") / "root")


def test_the_guest_os_has_our_code_with_its_bytecode(guest_os: Path) -> None:
    code = guest_os / "usr/lib/kata-dind"
    for name, content in guestos.guest_code().items():
        assert (code / name).read_bytes() == content
    assert (code / "entrypoint.sh").read_text() == entrypoint_script()
    modules = {path.stem for path in (code / "agent").glob("*.py")}
    assert {path.name.partition(".")[0] for path in (code / "agent/__pycache__").glob("*.pyc")} == modules
    # The flags after the magic number say: take the bytecode, never look at the source. Source: PEP 552.
    for pyc in (code / "agent/__pycache__/protocol", guest_os / "usr/lib/python3.11/__pycache__/json"):
        for path in pyc.parent.glob(f"{pyc.name}.*.pyc"):
            assert path.read_bytes()[4:8] == b"\x01\0\0\0"


def test_the_guest_os_has_the_places_that_mounts_will_cover(guest_os: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "lib/modules", "usr/lib/kata-dind"):
        assert (guest_os / name).is_dir(), name
    assert list((guest_os / "dev").iterdir()) == []
    assert os.readlink(guest_os / "etc/resolv.conf") == "/run/resolv.conf"  # noqa: PTH115
    assert os.readlink(guest_os / "etc/machine-id") == "/run/machine-id"  # noqa: PTH115
    assert (guest_os / "etc/hostname").read_bytes() == b""


def test_the_guest_os_is_small_and_can_run_the_agent(guest_os: Path) -> None:
    code = "import json, termios, selectors, socket, struct, fcntl, pty, ctypes, hashlib; print('fine')"
    done = run_rootlike(["chroot", guest_os, "python3", "-S", "-c", code], timeout_seconds=60)
    assert done.stdout == "fine\n"
    for program in ("mount", "unshare", "nsenter", "modprobe", "mke2fs", "ip", "losetup", "fstrim"):
        assert any((guest_os / place / program).exists() for place in ("usr/bin", "usr/sbin")), program
    size_bytes = sum(path.lstat().st_size for path in guest_os.rglob("*") if path.is_file() and not path.is_symlink())
    assert size_bytes < 120 << 20


def test_what_is_there_is_not_built_again() -> None:
    source = default_source()
    events: list[Event] = []

    def require_all(report: Report) -> object:
        guest_os, kernel = require_guest_os(source, report=report), require_guest_kernel(None, source, report=report)
        return guest_os, kernel, require_dind_image("", source, report=report)

    first = require_all(silent)
    used = time.process_time()
    assert require_all(events.append) == first
    assert events == []
    assert time.process_time() - used < 1


def test_a_change_of_our_code_costs_only_the_last_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = require_guest_os(default_source(), report=silent)
    shutil.copytree(guestos.GUEST_CODE, tmp_path / "guest")
    (tmp_path / "guest/agent/added.py").write_text("ADDED = 1\n")
    monkeypatch.setattr(guestos, "GUEST_CODE", tmp_path / "guest")
    started = time.monotonic()
    disk = require_guest_os(default_source(), report=silent)
    try:
        assert disk != before
        assert time.monotonic() - started < 30
        assert (_unpack(disk, tmp_path / "root") / "usr/lib/kata-dind/agent/added.py").exists()
    finally:
        disk.unlink()


def test_the_distributions_kernel_comes_with_its_modules(tmp_path: Path) -> None:
    kernel = require_guest_kernel(None, default_source(), report=silent)
    assert read_kernel_version(kernel.vmlinuz) == kernel.version
    assert kernel.modules is not None
    modules = _unpack(kernel.modules, tmp_path / "modules") / kernel.version
    assert (modules / "modules.dep.bin").exists()
    known = {path.name for path in modules.rglob("*.ko")}
    known |= {Path(line).name for line in (modules / "modules.builtin").read_text().splitlines()}
    for name in (
        "overlay",
        "virtiofs",
        "loop",
        "bridge",
        "br_netfilter",
        "veth",
        "nf_tables",
        "xt_MASQUERADE",
        "virtio_net",
    ):
        assert f"{name}.ko" in known, name


@pytest.mark.requires("busybox")
def test_the_initramfs_is_one() -> None:
    kernel = require_guest_kernel(None, default_source(), report=silent)
    archive = kernel.initramfs.read_bytes()
    listed = subprocess.run(["busybox", "cpio", "-t"], input=archive, capture_output=True, check=True).stdout
    names = listed.decode().splitlines()
    assert {"init", "bin/busybox", f"lib/modules/{kernel.version}/boot-modules"} <= set(names)
    assert archive.count((guestos.GUEST_CODE / "initramfs.sh").read_bytes()) == 1


def test_a_kernel_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    packaged = require_guest_kernel(None, default_source(), report=silent)
    own = tmp_path / "vmlinuz"
    shutil.copyfile(packaged.vmlinuz, own)
    kernel = require_guest_kernel(own, default_source(), report=silent)
    assert (kernel.vmlinuz, kernel.version) == (own, packaged.version)
    assert (kernel.modules is not None) == Path("/lib/modules", kernel.version, "modules.dep").exists()


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("not a kernel")
    with pytest.raises(SpecError, match="is not a kernel"):
        require_guest_kernel(tmp_path / "vmlinuz", default_source(), report=silent)


def test_the_dind_image_has_docker_and_what_dockerd_needs(dind: Path) -> None:
    for program in ("dockerd", "docker", "containerd", "runc", "iptables", "mkfs.ext4", "mkfs.xfs", "pigz", "xz", "ps"):
        places = ("usr/bin", "usr/sbin")
        assert any((dind / place / program).is_symlink() or (dind / place / program).exists() for place in places), (
            program
        )
    for name in ("proc", "sys", "dev", "run", "tmp", "var/lib/docker"):
        assert list((dind / name).iterdir()) == [] or name == "run", name
    image = require_dind_image("", default_source(), report=silent)
    assert image.command == ("dockerd",)
    assert image.reference == f"dind:{default_source().suite}"
    assert image.docker_version[0].isdigit()
    assert image.size_bytes == image.disk.stat().st_size


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_the_hello_image_inside_is_one(dind: Path, tmp_path: Path) -> None:
    archive = dind / "usr/share/kata-dind/hello.tar"
    argv = ["skopeo", "inspect", "--config", f"docker-archive:{archive}"]
    done = subprocess.run(argv, check=True, capture_output=True)
    assert json.loads(done.stdout)["config"]["Cmd"] == ["/hello.sh"]
    with tarfile.open(archive) as outer:
        (layer,) = [name for name in outer.getnames() if name.endswith("layer.tar")]
        root = tmp_path / "hello"
        root.mkdir()
        subprocess.run(["tar", "-x", "-C", root], input=_content(outer, layer), check=True)
    said = run_rootlike(["chroot", root, "/hello.sh"], timeout_seconds=60)
    assert "Hello from a container" in said.stdout
    remove_tree(root)


@pytest.mark.thorough
def test_a_release_that_does_not_exist_is_said_so() -> None:
    from kata_dind.image.dind import build_dind_image

    source = PackageSource("nosuchrelease", mirror="http://127.0.0.1:9/debian")
    with pytest.raises(ImageError, match="could not build a dind image from packages of nosuchrelease") as caught:
        build_dind_image(source, report=silent)
    assert caught.value.hint.startswith("name a mirror that this host reaches")
    assert "mmdebstrap" in caught.value.details
    assert find_image("dind:nosuchrelease") is None
