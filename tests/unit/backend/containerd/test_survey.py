"""Reading Kata's files, and its version where an installation or a shim tells it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from subprocess import PIPE

import pytest

from kata_dind.backend.containerd.handlers import ContainerdFiles, Handler, parse_handlers
from kata_dind.backend.containerd.survey import find_shim_places, read_kata_files, with_kata

CONFIGURATION = '[hypervisor.qemu]\nshared_fs = "virtio-fs"\n[runtime]\n'


def handler(configuration: Path, *, shim: str = "") -> Handler:
    runtime = {
        "runtimeType": "io.containerd.kata-qemu.v2",
        "runtimePath": shim,
        "options": {"ConfigPath": str(configuration)},
    }
    (found,) = parse_handlers({"containerd": {"runtimes": {"kata-qemu": runtime}}}, ContainerdFiles())
    return found


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    place = tmp_path / "kata" / "share" / "defaults"
    (place / "config.d").mkdir(parents=True)
    (place / "configuration-qemu.toml").write_text(CONFIGURATION)
    return place / "configuration-qemu.toml"


def test_drop_ins_overrule_in_the_order_of_their_names(configuration: Path) -> None:
    for name, value in (("90-last", "none"), ("10-first", "virtio-9p")):
        text = f'[hypervisor.qemu]\nshared_fs = "{value}"\n'
        (configuration.parent / "config.d" / f"{name}.toml").write_text(text)
    assert [file.path.name for file in read_kata_files(configuration)] == [
        "configuration-qemu.toml", "10-first.toml", "90-last.toml"
    ]  # fmt: skip
    found = with_kata(handler(configuration))
    assert found.kata is not None
    assert found.kata.sharing == "none"


def test_the_version_is_in_the_file_of_an_installation(configuration: Path, tmp_path: Path) -> None:
    (tmp_path / "kata" / "VERSION").write_text("4.1.0\n")
    assert with_kata(handler(configuration)).version == "4.1.0"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (
            'Kata Containers containerd shim (Golang): id: "io.containerd.kata.v2", version: 3.20.0, commit: ab',
            "3.20.0",
        ),
        ("Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: 4.1.0, commit: ab", "4.1.0"),
        ("nothing of the kind", ""),
    ],
)
def test_or_the_shim_is_asked(configuration: Path, tmp_path: Path, said: str, version: str) -> None:
    shim = tmp_path / "shim"
    shim.write_text(f"#!/bin/sh\necho '{said}'\n")
    shim.chmod(0o755)
    assert with_kata(handler(configuration, shim=str(shim))).version == version


def test_the_shim_is_looked_for_where_containerd_does(configuration: Path, tmp_path: Path) -> None:
    on_path, beside = tmp_path / "on-path", tmp_path / "beside"
    for directory, version in ((on_path, "4.1.0"), (beside, "4.0.0")):
        directory.mkdir()
        shim = directory / "containerd-shim-kata-qemu-v2"
        shim.write_text(f"#!/bin/sh\necho 'shim, version: {version}, commit: ab'\n")
        shim.chmod(0o755)
    containerd = beside / "containerd"
    shutil.copy("/bin/cat", containerd)
    for path, expected in ((f"/nowhere:{on_path}", "4.1.0"), ("/nowhere", "4.0.0")):
        with subprocess.Popen([containerd], bufsize=0, env={"PATH": path}, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"\n")
            process.stdout.readline()  # it runs, and is no longer a copy of us
            places = find_shim_places(process.pid)
            process.stdin.close()
        assert places == f"{path}:{beside}"
        assert with_kata(handler(configuration), shim_places=places).version == expected


def test_a_process_that_is_gone_has_no_place_for_shims() -> None:
    assert find_shim_places(0) == ""


def test_a_configuration_that_is_missing_leaves_the_table_of_handlers(tmp_path: Path) -> None:
    found = with_kata(handler(tmp_path / "absent.toml"))
    assert (found.kata, found.version) == (None, "")
    assert dataclasses.replace(found, version="4.1.0").runtime.shares
