"""The checks of a spec that need the host, and are the same for all backends on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata_dind.backend import StoredRoot
from kata_dind.backend.host_checks import check_against_host, require_compatible
from kata_dind.errors import SpecError
from kata_dind.spec import parse_spec
from kata_dind.vocabulary import Fallback


def test_a_modest_request_is_accepted(tmp_path: Path) -> None:
    check_against_host(parse_spec(name="demo", memory="256M", shares=[f"{tmp_path}:/src:ro"]))


def test_more_memory_than_the_host_has_is_refused() -> None:
    host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    check_against_host(parse_spec(name="demo", memory=f"{host_mib}M"))
    with pytest.raises(SpecError, match=rf"--memory: '{host_mib + 1}M' is more than this host has \({host_mib}M\)"):
        check_against_host(parse_spec(name="demo", memory=f"{host_mib + 1}M"))


def test_a_memory_data_root_larger_than_the_guests_memory_is_refused() -> None:
    check_against_host(parse_spec(name="demo", memory="512M", size="512M", data_root="memory"))
    with pytest.raises(
        SpecError, match=r"--size: a memory data root of '1G' is larger than the guest's memory \(512M\)"
    ):
        check_against_host(parse_spec(name="demo", memory="512M", size="1G", data_root="memory"))
    check_against_host(parse_spec(name="demo", memory="512M", size="1G", data_root="block"))


def test_xfs_is_for_disks_that_are_large_enough() -> None:
    check_against_host(parse_spec(name="demo", filesystem="xfs", size="300M"))
    with pytest.raises(SpecError, match=r"--size: '299M' is too small for xfs; it must be at least 300M"):
        check_against_host(parse_spec(name="demo", filesystem="xfs", size="299M", data_root="loop"))
    with pytest.raises(
        SpecError, match=r"--filesystem: 'xfs' needs a data root of the kind loop or block; a memory one"
    ):
        check_against_host(parse_spec(name="demo", filesystem="xfs", size="1G", data_root="memory"))


def test_a_share_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"--share: '{tmp_path}/absent' does not exist on this host"):
        check_against_host(parse_spec(name="demo", shares=[f"{tmp_path}/absent:/src"]))


@pytest.mark.parametrize("content", [b"", b"no kernel", b"\x7fELF" + bytes(100), bytes(1 << 16)])
def test_a_file_that_is_not_a_kernel_is_refused(tmp_path: Path, content: bytes) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(content)
    with pytest.raises(SpecError, match="--kernel"):
        check_against_host(parse_spec(name="demo", kernel=kernel))


@pytest.mark.parametrize("what", ["absent", "directory"])
def test_a_kernel_that_is_not_a_file_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(SpecError, match="--kernel"):
        check_against_host(parse_spec(name="demo", kernel=tmp_path / what))


def test_a_docker_that_would_not_see_a_volumes_images_is_refused() -> None:
    volume = StoredRoot("work", Path("/volumes/work"), "29.1.0", "overlayfs")
    with pytest.raises(
        SpecError, match=r"--volume: 'work' was last written by Docker 29\.1\.0: Docker 20\.10\.24"
    ) as why:
        require_compatible(volume, "20.10.24+dfsg1", [])
    assert "choose an --image" in why.value.hint
    require_compatible(volume, "29.1.0", [])


def test_flags_of_dockerds_decide_what_it_sees() -> None:
    volume = StoredRoot("work", Path("/volumes/work"), "28.5.2", "overlayfs")
    require_compatible(volume, "26.1.5", ["--feature=containerd-snapshotter=true"])
    with pytest.raises(SpecError, match="Docker 26"):
        require_compatible(volume, "26.1.5", [])


def test_a_fallback_decides_what_dockerd_sees() -> None:
    volume = StoredRoot("work", Path("/volumes/work"), "28.5.2", "vfs on extfs")
    require_compatible(volume, "28.5.2", [], fallback=Fallback.VFS)
    require_compatible(volume, "28.5.2", ["--storage-driver=vfs"])
    with pytest.raises(SpecError, match="use --fallback vfs"):
        require_compatible(volume, "28.5.2", [])


def test_any_docker_may_open_a_volume_that_none_has_written_yet() -> None:
    require_compatible(StoredRoot("work", Path("/volumes/work"), "", ""), "20.10.24", [])
