"""What users pass to the guest entrypoint: validated first, never evaluated, and refused with one JSON line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "variable",
    ["DATA_ROOT", "SIZE", "FALLBACK", "FILESYSTEM", "LOG", "CHECK", "DIR", "PROGRAM", "CONTAINERD"],
)
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
    if {"\n", "\t", "\\"} & set(value):
        assert (ended.code, ended.error["step"]) == (64, "parse")
        assert len(ended.stderr.splitlines()) == 1
    elif "," in value:  # which ends an option of mount, for dockerd as well
        assert (ended.code, ended.error["step"]) == (78, "verify")
    else:
        assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
        assert json.loads(ended.status.read_text())["kind"] == "memory"


@pytest.mark.parametrize("path", ["var/lib/docker", "./docker", "$HOME/docker"])
def test_a_path_that_is_not_absolute_is_refused(shell: Shell, path: str) -> None:
    ended = shell.entrypoint("true", PATH=path)
    assert ended.code == 64
    assert ended.error["message"] == f"the data root is '{path}', not a plain absolute path"


def test_no_command_is_refused(shell: Shell) -> None:
    for command in ([], ["--"]):
        ended = shell.entrypoint(*command)
        assert ended.code == 64
        assert ended.error["message"] == "no command was given"


def test_the_block_kind_needs_a_device(shell: Shell, tmp_path: Path) -> None:
    ended = shell.entrypoint("true", PATH=tmp_path / "docker", DATA_ROOT="block")
    assert (ended.code, ended.error["step"]) == (64, "parse")


@pytest.mark.parametrize(
    "size",
    [
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
        "999999999T",
        "17T",
        "1M",
        "63M",
        "64000K",
    ],
)
def test_a_size_that_is_none_is_refused(shell: Shell, size: str) -> None:
    """Also one that no file has, or that holds no file system."""
    done = shell.call("step=parse KATA_DIND_SIZE=$1; read_size", size)
    assert done.returncode == 64
    assert f"KATA_DIND_SIZE is '{size}', not a size from 64M to 16T" in done.stderr


@pytest.mark.parametrize(
    ("size", "mib"),
    [
        ("", 20480),
        ("65536K", 64),
        ("66560K", 65),
        ("512M", 512),
        ("20G", 20480),
        ("16T", 16 << 20),
    ],
)
def test_sizes_are_counted_in_mib(shell: Shell, size: str, mib: int) -> None:
    assert shell.call('KATA_DIND_SIZE=$1; read_size; echo "$size_mib"', size).stdout == f"{mib}\n"


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["dockerd"], ""),
        (["dockerd", "--data-root=/a"], "/a"),
        (["dockerd", "--data-root", "/a b"], "/a b"),
        (["dockerd", "-g", "/a"], "/a"),
        (["/usr/bin/dockerd", "-g=/a"], "/a"),
        (["dockerd-entrypoint.sh", "-g/a"], "/a"),
        (["tini", "-g", "--", "dockerd"], ""),
        (["dockerd", "--data-root=/a", "--data-root=/b"], "/b"),
        (["dockerd", "--data-root"], ""),
        (["dockerd", "--data-root=/$(echo x)*"], "/$(echo x)*"),
        (["dockerd-entrypoint.sh", "dockerd", "--host=unix:///x", "--data-root=/a"], "/a"),
    ],
)
def test_the_commands_own_data_root_is_found(shell: Shell, command: list[str], path: str) -> None:
    assert shell.call('read_command "$@"; echo "$data_root"', *command).stdout == f"{path}\n"


CONFIGS = {
    '{"data-root": "/a b"}': "/a b",
    '{"storage-driver":"vfs","data-root":"/a"}': "/a",
    '{\n  "labels": ["x"],\n  "data-root"\n\t:\n  "/a"\n}\n': "/a",
    '{"data-root": "/a"}': "/a",
    '{"data-root": 5}': "",
    '{"data-root"': "",
    '{"data-rootless": "/a"}': "",
    '{"other": "data-root"}': "",
    "{}": "",
    "": "",
    '{"data-root": "/$(touch mark)`x`*"}': "/$(touch mark)`x`*",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_data_root_of_the_daemons_configuration_is_found(shell: Shell, config: str) -> None:
    file = shell.directory / "daemon.json"
    file.write_text(config)
    done = shell.call('config_file=$1; read_command; read_config; echo "$data_root"', str(file))
    assert (done.stdout, done.stderr) == (f"{CONFIGS[config]}\n", "")
    assert [*shell.directory.iterdir()] == [file]


def test_what_names_the_data_root_first(shell: Shell) -> None:
    config = shell.directory / "daemon.json"
    by_command, by_config = shell.directory / "command", shell.directory / "config"
    config.write_text(json.dumps({"data-root": str(by_config)}))
    cases = [
        (by_command, ["echo", "dockerd", f"--config-file={config}", f"--data-root={by_command}"]),
        (by_config, ["echo", "dockerd", f"--config-file={config}"]),
        (by_config, ["echo", "--config-file", str(config)]),
    ]
    for path, command in cases:
        ended = shell.entrypoint(*command, DATA_ROOT="memory", SIZE="64M")
        assert ended.code == 0, ended.stderr
        assert json.loads(ended.status.read_text())["path"] == str(path)


@pytest.mark.parametrize(("program", "option"), [("dockerd", "--data-root"), ("buildkitd", "--root")])
def test_what_the_program_uses_must_be_what_is_proven(shell: Shell, program: str, option: str) -> None:
    path = shell.directory / "docker"
    asked: dict[str, Any] = {"PATH": path, "PROGRAM": program, "DATA_ROOT": "memory", "SIZE": "64M"}
    assert shell.entrypoint("echo", f"{option}={path}/", **asked).code == 0
    ended = shell.entrypoint("echo", f"{option}=/elsewhere", **asked)
    assert ended.code == 64
    assert ended.error["message"] == f"KATA_DIND_PATH is '{path}', but {program} is told to use '/elsewhere'"


@pytest.mark.parametrize(
    ("program", "option", "text", "message"),
    [
        (
            *("dockerd", "--config-file", r'{"data-root": "/a\u0020b"}'),
            r"the data root is '/a\u0020b', not a plain absolute path",
        ),
        ("buildkitd", "--config", r'root = "/a\u0020b"', "cannot read root in "),
    ],
)
def test_a_path_in_the_configuration_that_we_cannot_read_is_refused(
    shell: Shell, program: str, option: str, text: str, message: str
) -> None:
    config = shell.directory / "configuration"
    config.write_text(text)
    ended = shell.entrypoint(program, f"{option}={config}")
    assert ended.code == 64
    assert ended.error["message"].startswith(message)


def test_a_configuration_that_is_none_is_dockerds_business(shell: Shell, tmp_path: Path) -> None:
    for config in (tmp_path / "absent", tmp_path):
        ended = shell.entrypoint("true", f"--config-file={config}", PATH=tmp_path / "d", DATA_ROOT="memory")
        assert ended.code == 0, ended.stderr


def test_without_root_it_is_what_rootless_docker_takes(shell: Shell, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tsh\nUid:\t1000\t1000\t1000\t1000\n")
    for environment, path in {
        "HOME=/home/rootless": "/home/rootless/.local/share/docker",
        "HOME=/home/rootless XDG_DATA_HOME=/data": "/data/docker",
    }.items():
        script = f'unset XDG_DATA_HOME XDG_RUNTIME_DIR; {environment}; find_user; echo "$default_data_root $status_dir"'
        assert shell.call(script, files={"/proc/self/status": status}).stdout == f"{path} /tmp/kata-dind\n"


MOUNTINFO = """\
1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:30 / /var/lib rw,relatime shared:7 - xfs /dev/sdb rw
4 3 0:31 / /var/lib/docker rw,relatime shared:8 master:1 propagate_from:2 - virtiofs kataShared rw
5 3 0:32 / /var/lib/docker rw,relatime - fuse.kataShared none rw
6 1 0:33 / /var/lib/dock rw - tmpfs tmpfs rw
7 1 0:34 / /mnt/a*b rw - btrfs none rw
8 1 0:35 / /mnt/odd rw - 9p - rw
9 1 0:36 / /mnt/a\\040b\\040c rw - ext4 /dev/vdb rw
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
        ("/mnt/odd/a b", "9p"),
        ("/mnt/a b c", "ext4"),
    ],
)
def test_the_longest_mount_point_wins_and_the_last_of_equals(
    shell: Shell, tmp_path: Path, path: str, filesystem: str
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO)
    done = shell.call('home=/; filesystem_of "$1"; echo "$filesystem"', path, files={"/proc/self/mountinfo": table})
    assert done.stdout == f"{filesystem}\n"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/var/lib/docker", "1 /var/lib/docker 0:32"),
        ("/var/lib/docker/x", " /var/lib/docker 0:32"),
        ("/mnt/a b c", "1 /mnt/a\\040b\\040c 0:36"),
        ("/mnt/a b c/d", " /mnt/a\\040b\\040c 0:36"),
    ],
)
def test_a_mount_point_is_known_from_what_lies_in_it(shell: Shell, tmp_path: Path, path: str, answer: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO)
    script = 'home=/; filesystem_of "$1"; printf "%s\\n" "$is_mount_point $longest $mount_numbers"'
    assert shell.call(script, path, files={"/proc/self/mountinfo": table}).stdout == f"{answer}\n"


def test_an_empty_table_is_an_unknown_file_system(shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.touch()
    done = shell.call('home=/; filesystem_of "$1"; echo "$filesystem"', "/", files={"/proc/self/mountinfo": table})
    assert done.stdout == "unknown\n"


@pytest.mark.parametrize(
    "text", ["plain", 'quote " and \\ backslash', "tab\tnewline\nreturn\rbell\adelete\x7f", "ünï", "", "%s %d \\n"]
)
def test_what_is_spoken_is_json_whatever_it_holds(shell: Shell, text: str) -> None:
    spoken = json.loads(shell.call('step=step; speak warning "$1" "$1"', text).stderr)
    plain = "".join(" " if ord(letter) < 32 or letter == "\x7f" else letter for letter in text)
    assert spoken == {"kata_dind": "warning", "step": "step", "message": plain, "hint": plain}


def test_only_errors_and_warnings_are_spoken_when_asked(shell: Shell) -> None:
    script = "step=step log=error; for level in info warning error; do speak $level a; done"
    spoken = [json.loads(line)["kata_dind"] for line in shell.call(script).stderr.splitlines()]
    assert spoken == ["warning", "error"]
