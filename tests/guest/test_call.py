"""The program that makes one system call: its bytes are those of its source, and they do what they are for."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
from pathlib import Path

import pytest

import kata_dind
from kata_dind.host.process import run
from tests.guest.alpine import needs_call
from tests.guest.conftest import Shell, attach_loop

pytestmark = pytest.mark.requires("root")

_SOURCE = Path(kata_dind.__file__).parent / "guest/entrypoint/call.s"
_DIRECT_IO, _CAPABILITY = (
    (
        *(base64.b64encode(struct.pack("<I", number)[:3]).decode() for number in numbers),
        base64.b64encode(b"\0" + struct.pack("<II", *arguments)).decode(),
    )
    for numbers, arguments in (
        ((16, 29), (0x4C08, 1)),  # ioctl, with LOOP_SET_DIRECT_IO and 1
        ((190, 7), (0x4000A6, 0x4000BA)),  # fsetxattr, with where the name and the value are
    )
)
"""The number of the call for each machine, and its arguments."""
_VALUE = bytes.fromhex("0100000200200000000000000000000000000000")


def call(shell: Shell, file: Path, *arguments: str, machine: str = "") -> str:
    """Make a call, and return what `called` is; a copy of the program is left in `program` of the shell's directory."""
    keep = f'rm() {{ cp "$3" {shell.directory}/program 2>/dev/null || :; command rm "$@"; }}'
    script = f'{keep}; machine={machine} status_dir={shell.directory}; system_call "$@"; echo "<$called>"'
    done = shell.call(script, str(file), *arguments)
    assert done.stderr == "", done
    assert not (shell.directory / "kata-dind-call").exists()
    assert not Path("/dev/kata-dind-call").exists()
    return done.stdout.strip()


def assemble(machine: str, directory: Path) -> bytes:
    define = ("--defsym", "AARCH64=1") if machine == "aarch64" else ()
    run(
        [f"{machine}-linux-gnu-as", *define, "-I", _SOURCE.parent, _SOURCE, "-o", directory / "call.o"],
        timeout_seconds=10,
    )
    objcopy = f"{machine}-linux-gnu-objcopy"
    run([objcopy, "--output-target=binary", directory / "call.o", directory / "call"], timeout_seconds=10)
    return (directory / "call").read_bytes()


@pytest.mark.requires("assemblers")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_bytes_are_those_of_the_source(shell: Shell, tmp_path: Path, machine: str) -> None:
    call(shell, Path("/dev/null"), *_DIRECT_IO, machine=machine)
    assert (shell.directory / "program").read_bytes() == assemble(machine, tmp_path)


@pytest.mark.requires("assemblers")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_the_call_and_the_growth_change(shell: Shell, tmp_path: Path, machine: str) -> None:
    source = bytearray(assemble(machine, tmp_path))
    call(
        shell,
        Path("/dev/null"),
        *_CAPABILITY,
        base64.b64encode(bytes.fromhex("01020304050607251900000000000000")).decode(),
        machine=machine,
    )
    program = (shell.directory / "program").read_bytes()
    source[150] = {"x86_64": 190, "aarch64": 7}[machine]
    source[154:162] = bytes.fromhex("a6004000 ba004000")
    source += bytes.fromhex("01020304050607251900000000000000")
    assert program == source


@pytest.mark.requires("loop")
@needs_call
def test_it_sets_direct_io(shell: Shell) -> None:
    image = shell.directory / "disk.img"
    image.write_bytes(bytes(1 << 20))
    device = attach_loop(image)
    dio = Path(f"/sys/block/{device.name}/loop/dio")
    assert dio.read_text() == "0\n"
    assert call(shell, device, *_DIRECT_IO) == "<0>"
    assert dio.read_text() == "1\n"


@needs_call
def test_it_gives_a_capability(shell: Shell) -> None:
    file = shell.directory / "file"
    file.touch()
    assert call(shell, file, *_CAPABILITY) == "<0>"
    assert os.getxattr(file, "security.capability") == _VALUE


@needs_call
def test_an_error_is_its_number(shell: Shell) -> None:
    assert call(shell, Path("/dev/null"), *_DIRECT_IO) == "<25>"  # ENOTTY


def test_without_base64_there_is_no_program(shell: Shell) -> None:
    script = f'base64() {{ return 127; }}; status_dir={shell.directory}; system_call "$@"; echo "<$called>"'
    done = shell.call(script, "/dev/null", *_DIRECT_IO)
    assert (done.stdout, done.stderr) == ("<>\n", "")
    assert [*shell.directory.iterdir()] == []


def test_another_machine_has_no_program(shell: Shell) -> None:
    assert call(shell, Path("/dev/null"), *_DIRECT_IO, machine="riscv64") == "<>"
    assert not (shell.directory / "program").exists()


@pytest.mark.requires("aarch64", "loop")
def test_the_program_for_aarch64_does_the_same(shell: Shell) -> None:
    """Under an emulator that hands its calls to this kernel."""
    program, image, file = (shell.directory / name for name in ("program", "disk.img", "file"))
    image.write_bytes(bytes(1 << 20))
    file.touch()
    device = attach_loop(image)
    for arguments, target in ((_DIRECT_IO, device), (_CAPABILITY, file)):
        call(shell, Path("/dev/null"), *arguments, machine="aarch64")
        with target.open("rb") as opened:
            subprocess.run(["qemu-aarch64-static", program], stdin=opened, check=True)
    assert Path(f"/sys/block/{device.name}/loop/dio").read_text() == "1\n"
    assert os.getxattr(file, "security.capability") == _VALUE


@needs_call
@pytest.mark.parametrize("left", ["a file", "a directory"])
def test_what_lies_in_its_place_is_no_hindrance(shell: Shell, left: str) -> None:
    """What a killed start has left; a directory is nothing of ours, and leaves the program to /dev."""
    place = shell.directory / "kata-dind-call"
    if left == "a file":
        place.write_text("exit 3\n")
    else:
        place.mkdir()
    script = f'status_dir={shell.directory}; system_call /dev/null {" ".join(_DIRECT_IO)}; echo "<$called>"'
    assert shell.call(script).stdout == "<25>\n"
    assert place.is_dir() == (left == "a directory")
    assert not Path("/dev/kata-dind-call").exists()
