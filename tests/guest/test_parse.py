"""What users pass to the guest entrypoint: validated first, never evaluated, and refused with one JSON line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.conftest import Shell

pytestmark = pytest.mark.requires("root")

# What would leave a mark if a shell ever saw it as script.
HOSTILE = [
    "$(touch {mark})",
    "`touch {mark}`",
    "; touch {mark}",
    "'; touch {mark}; '",
    '"; touch {mark}; "',
    "\n touch {mark}\n",
    "x' y\" z\\",
    "*",
    "-n",
    "a[$(touch {mark})]",
    "tab\there, bell\a, escape\x1b[31m, ünïcode",
]


@pytest.mark.parametrize("variable", ["DATA_ROOT", "SIZE", "FALLBACK"])
@pytest.mark.parametrize("value", HOSTILE)
def test_what_makes_no_sense_is_refused_in_one_line_and_never_evaluated(
    shell: Shell, tmp_path: Path, variable: str, value: str
) -> None:
    mark = tmp_path / "mark"
    value = value.format(mark=mark)
    ended = shell.entrypoint("echo", "went on", **{"PATH": str(tmp_path / "docker"), variable: value})
    assert (ended.code, ended.stdout) == (64, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.error["step"] == "parse"
    assert ended.error["message"].startswith(f"KATA_DIND_{variable} is ")
    assert not mark.exists()
    assert not (tmp_path / "docker").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_path_may_be_odd_and_is_never_evaluated(shell: Shell, value: str) -> None:
    odd = shell.directory / value.format(mark="mark").replace("/", "_")
    ended = shell.entrypoint("echo", "went on", PATH=odd, DATA_ROOT="memory", SIZE="64M")
    assert not (shell.directory / "mark").exists()
    if {",", "\\"} & set(value):  # which end or escape an option of mount, for dockerd as well
        assert (ended.code, ended.error["step"]) == (78, "verify")
    else:
        assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
        assert json.loads(ended.status.read_text())["kind"] == "memory"


@pytest.mark.parametrize("path", ["var/lib/docker", "./docker", "$HOME/docker"])
def test_a_path_that_is_not_absolute_is_refused(shell: Shell, path: str) -> None:
    ended = shell.entrypoint("true", PATH=path)
    assert ended.code == 64
    assert ended.error["message"] == f"the data root '{path}' is not an absolute path"


def test_no_command_is_refused(shell: Shell) -> None:
    for command in ([], ["--"]):
        ended = shell.entrypoint(*command)
        assert ended.code == 64
        assert ended.error["message"] == "no command was given"


def test_the_block_kind_needs_a_device(shell: Shell, tmp_path: Path) -> None:
    ended = shell.entrypoint("true", PATH=tmp_path / "docker", DATA_ROOT="block")
    assert (ended.code, ended.error["step"]) == (64, "prepare")


@pytest.mark.parametrize(
    "size",
    [
        "",
        "20",
        "G",
        "0",
        "0G",
        "00M",
        "-1",
        "-1G",
        "1.5G",
        "20X",
        "20g",
        "20GB",
        " 1G",
        "1 G",
        "1G ",
        "1G2M",
        "0x10M",
        "1234567890M",
    ],
)
def test_a_size_that_is_none_is_refused(shell: Shell, size: str) -> None:
    assert shell.call('size_in_mib "$1"', size).stdout == ""


@pytest.mark.parametrize(
    ("size", "mib"),
    [
        ("1K", 1),
        ("1024K", 1),
        ("1025K", 2),
        ("512M", 512),
        ("20G", 20480),
        ("1T", 1 << 20),
        ("999999999T", 999999999 << 20),
    ],
)
def test_sizes_are_counted_in_mib(shell: Shell, size: str, mib: int) -> None:
    assert shell.call('size_in_mib "$1"', size).stdout == f"{mib}\n"


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["dockerd"], "/var/lib/docker"),
        (["dockerd", "--data-root=/a"], "/a"),
        (["dockerd", "--data-root", "/a b"], "/a b"),
        (["dockerd", "-g", "/a"], "/a"),
        (["dockerd", "--data-root=/a", "--data-root=/b"], "/b"),
        (["dockerd", "--data-root"], "/var/lib/docker"),
        (["dockerd", "--data-root=/$(echo x)*"], "/$(echo x)*"),
        (["dockerd-entrypoint.sh", "dockerd", "--host=unix:///x", "--data-root=/a"], "/a"),
    ],
)
def test_the_commands_own_data_root_is_found(shell: Shell, command: list[str], path: str) -> None:
    assert shell.call('data_root_of "$@"', *command).stdout == f"{path}\n"


MOUNTINFO = """\
1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:30 / /var/lib rw,relatime shared:7 - xfs /dev/sdb rw
4 3 0:31 / /var/lib/docker rw,relatime shared:8 master:1 propagate_from:2 - virtiofs kataShared rw
5 3 0:32 / /var/lib/docker rw,relatime - fuse.kataShared none rw
6 1 0:33 / /var/lib/dock rw - tmpfs tmpfs rw
7 1 0:34 / /mnt/a*b rw - btrfs none rw
8 1 0:35 / /mnt/odd - 9p - rw
"""


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        ("/", "ext4"),
        ("/home", "ext4"),
        ("/var/lib", "xfs"),
        ("/var/libx", "ext4"),
        ("/var/lib/other", "xfs"),
        ("/var/lib/docker", "fuse.kataShared"),
        ("/var/lib/docker/", "fuse.kataShared"),
        ("/var/lib/docker/overlay2", "fuse.kataShared"),
        ("/var/lib/dock", "tmpfs"),
        ("/var/lib/docker2", "xfs"),
        ("/mnt/a*b/c", "btrfs"),
        ("/mnt/aXb/c", "ext4"),
    ],
)
def test_the_longest_mount_point_wins_and_the_last_of_equals(
    shell: Shell, tmp_path: Path, path: str, filesystem: str
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO)
    assert shell.call('filesystem_of "$1"', path, mountinfo=table).stdout == f"{filesystem}\n"


def test_an_empty_table_is_an_unknown_file_system(shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.touch()
    assert shell.call('filesystem_of "$1"', "/", mountinfo=table).stdout == "unknown\n"


@pytest.mark.parametrize(
    "text", ["plain", 'quote " and \\ backslash', "tab\tnewline\nreturn\rbell\adelete\x7f", "ünï", "", "%s %d \\n"]
)
def test_what_is_spoken_is_json_whatever_it_holds(shell: Shell, text: str) -> None:
    spoken = json.loads(shell.call('speak warning step "$1" "$1"', text).stderr)
    plain = "".join(" " if ord(letter) < 32 or letter == "\x7f" else letter for letter in text)
    assert spoken == {"kata_dind": "warning", "step": "step", "message": plain, "hint": plain}


def test_only_errors_and_warnings_are_spoken_when_asked(shell: Shell) -> None:
    script = "KATA_DIND_LOG=error; for level in info warning error; do speak $level a b; done"
    spoken = [json.loads(line)["kata_dind"] for line in shell.call(script).stderr.splitlines()]
    assert spoken == ["warning", "error"]
