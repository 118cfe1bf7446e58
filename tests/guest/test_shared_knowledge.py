"""What both the host and the guest entrypoint know, and must know alike."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from kata_dind.drivers import FALLBACK_DRIVERS, FILESYSTEM_DRIVERS, STORAGE_DRIVERS, UNFIT_DRIVERS
from kata_dind.errors import SpecError
from kata_dind.host.disks import create_disk
from kata_dind.host.process import run
from kata_dind.spec import parse_spec
from kata_dind.vocabulary import DataRootKind, Fallback, Filesystem
from tests.guest.conftest import Shell

# These depend on when and where a file system was made, and on how much of it assume_storage_prezeroed leaves blank.
_OF_ONE_DISK = (
    "UUID",
    "Directory Hash Seed",
    "created",
    "Last checked",
    "write time",
    "Checksum",
    "checksum",
    "Lifetime",
    "Journal start",
)


def _fields_of(disk: Path) -> dict[str, str]:
    lines = run(["dumpe2fs", "-h", disk], timeout_seconds=10).stdout.splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {name: value for name, value in fields.items() if not any(word in name for word in _OF_ONE_DISK)}


@pytest.mark.parametrize("size_mib", [64, 300, 20 * 1024])
def test_the_host_and_the_guest_format_ext4_alike(shell: Shell, tmp_path: Path, size_mib: int) -> None:
    create_disk(tmp_path / "hosts", size_mib=size_mib)
    guests = tmp_path / "guests"
    guests.touch()
    run(["truncate", "--size", f"{size_mib}M", guests], timeout_seconds=10)
    done = shell.call(
        'reason="" exclusive=1 disk=$1 format=ext4 size_mib=$2; make_file_system "$1"; echo "<$reason>"',
        str(guests),
        str(size_mib),
    )
    assert done.stdout == "<>\n", done
    fields = _fields_of(guests)
    assert fields == _fields_of(tmp_path / "hosts")
    assert (fields["Block size"], fields["Reserved block count"]) == ("4096", "0")


@pytest.mark.requires("xfs")
def test_the_host_and_the_guest_format_xfs_alike(shell: Shell, tmp_path: Path) -> None:
    create_disk(tmp_path / "hosts", size_mib=300, filesystem=Filesystem.XFS)
    guests = tmp_path / "guests"
    guests.touch()
    run(["truncate", "--size", "300M", guests], timeout_seconds=10)
    done = shell.call('reason="" format=xfs disk=$1; make_file_system "$1"; echo "<$reason>"', str(guests))
    assert done.stdout == "<>\n", done
    described = [
        run(["xfs_db", "-r", "-c", "info", disk], timeout_seconds=10).stdout for disk in (guests, tmp_path / "hosts")
    ]
    assert described[0].replace(str(guests), "") == described[1].replace(str(tmp_path / "hosts"), "")


def _contradicts(shell: Shell, named: str, *, fallback: str = "none", filesystem: str = "ext4") -> bool:
    """Ask the entrypoint whether dockerd must not be told to use this driver on a data root with a proven overlay."""
    script = """
    program=dockerd storage_driver='' named_driver=$1 fallback=$2 filesystem=$3 path=/nowhere overlay=overlay2 step=exec
    unset DOCKER_DRIVER
    settle_driver
    echo "<${DOCKER_DRIVER:-}>"
    """
    done = shell.call(script, named, fallback, filesystem)
    return {"<overlay2>\n": True, "<overlayfs>\n": True, "<>\n": False}[done.stdout]


def test_a_storage_driver_that_needs_no_overlay_contradicts_its_proof(shell: Shell) -> None:
    assert {name for name in STORAGE_DRIVERS if not _contradicts(shell, name)} == {"overlay2"}
    assert not _contradicts(shell, "overlayfs")
    assert all(_contradicts(shell, name) for name in UNFIT_DRIVERS)


@pytest.mark.parametrize("fallback", [word for word in Fallback if word is not Fallback.NONE])
def test_the_driver_of_a_fallback_contradicts_nothing(shell: Shell, fallback: Fallback) -> None:
    assert not _contradicts(shell, fallback, fallback=fallback)
    assert fallback in FALLBACK_DRIVERS[fallback]


@pytest.mark.parametrize("name", FILESYSTEM_DRIVERS)
def test_the_driver_of_a_file_system_fits_on_it_alone(shell: Shell, name: str) -> None:
    assert not _contradicts(shell, name, filesystem=name)
    assert _contradicts(shell, name, filesystem="ext4")


def _takes(shell: Shell, variable: str, value: str) -> bool:
    done = shell.call(f"step=parse KATA_DIND_DEVICE=/dev/vda KATA_DIND_{variable}=$1; parse true; echo taken", value)
    assert done.returncode in (0, 64), done
    return done.stdout == "taken\n"


@pytest.mark.parametrize(
    ("variable", "words"), [("DATA_ROOT", DataRootKind), ("FALLBACK", Fallback), ("FILESYSTEM", Filesystem)]
)
def test_the_words_of_the_host_are_the_guests(
    shell: Shell, variable: str, words: type[DataRootKind] | type[Fallback] | type[Filesystem]
) -> None:
    assert all(_takes(shell, variable, word) for word in words)
    assert not _takes(shell, variable, "other")


@pytest.mark.parametrize("size", ["63M", "64M", "16T", "17T"])
def test_a_size_is_taken_by_both_or_by_neither(shell: Shell, size: str) -> None:
    fits = size in ("64M", "16T")
    with contextlib.nullcontext() if fits else pytest.raises(SpecError):
        parse_spec(name="demo", size=size)
    assert _takes(shell, "SIZE", size) == fits
