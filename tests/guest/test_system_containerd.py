"""A system containerd's root, beside dockerd's data root: when there is one, where it lies, and what is proven."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import require_tool, scrubbed_environment
from kata_dind.image.hello import hello_archive
from tests.guest.conftest import Ended, Shell

pytestmark = pytest.mark.requires("root")

SOCKET = "/run/containerd/containerd.sock"

# --- when there is one

FINDING = """
step=parse address=$1
shift
find_user
config_file=/dev/null
read_command "$@"
read_config "$@" ${address:+--containerd=$address}
find_containerd
echo "$containerd_root"
"""


@pytest.mark.requires("docker")
@pytest.mark.parametrize(
    ("address", "command", "root"),
    [
        ("", ["dockerd"], ""),
        ("", ["/sbin/init"], "/var/lib/containerd"),
        ("", ["tini", "--", "/lib/systemd/systemd"], "/var/lib/containerd"),
        ("", ["/usr/local/share/docker-init.sh", "sleep", "infinity"], "/var/lib/containerd"),
        ("", ["sh", "-c", "init"], ""),
        ("", ["dockerd", "--exec-opt", "/sbin/init"], ""),
        ("", ["tini", "/sbin/init"], ""),
        (SOCKET, ["dockerd"], "/var/lib/containerd"),
        (f"unix:///var{SOCKET}", ["dockerd"], "/var/lib/containerd"),
        ("/run/other.sock", ["dockerd"], ""),
    ],
)
def test_it_is_known_by_its_address_or_by_what_starts_it(
    tmp_path: Path, entrypoint_file: Path, address: str, command: list[str], root: str
) -> None:
    shell = Shell("sh", ("sh",), scrubbed_environment()["PATH"], entrypoint_file, tmp_path)
    absent = {SOCKET: tmp_path / "absent.sock"}
    address = address.replace(SOCKET, str(absent[SOCKET]))
    done = shell.call(FINDING, address, *command, files=absent)
    assert (done.stdout, done.stderr) == (f"{root}\n", "")


def test_it_is_known_by_its_socket(shell: Shell) -> None:
    files = {SOCKET: shell.directory / "socket"}
    files[SOCKET].touch()
    assert shell.call(FINDING, "", "dockerd", files=files).stdout == "/var/lib/containerd\n"


@pytest.mark.requires("docker")
def test_its_configuration_and_what_that_imports_say_where_its_root_is(shell: Shell) -> None:
    """As a real containerd reads it, from another file."""
    socket, config = shell.directory / "absent", shell.directory / "config.toml"
    theirs = f'containerd() {{ {shutil.which("containerd")} --config {config} "$@"; }}\n'
    found = functools.partial(shell.call, theirs + FINDING, str(socket), "dockerd", files={SOCKET: socket})
    config.write_text(
        f'version = 2\nroot = "/one two"\nimports = ["{shell.directory}/more/*.toml"]\n[grpc]\nroot = "/no"\n'
    )
    assert found().stdout == "/one two\n"
    (shell.directory / "more").mkdir()
    (shell.directory / "more" / "x.toml").write_text('version = 2\nroot = "/two"\n')
    assert found().stdout == "/two\n"
    config.write_text("root = [")
    assert found().stdout == "/var/lib/containerd\n"


@pytest.mark.parametrize("quote", ["'", '"'], ids=["single", "double"])
def test_either_quotes_of_its_are_understood(shell: Shell, quote: str) -> None:
    """containerd 2 writes the ones, containerd 1 the others."""
    socket = shell.directory / "absent"
    dump = shell.directory / "dump"
    dump.write_text(
        f"disabled_plugins = []\nroot = {quote}/a 'b{quote}\nversion = 3\n\n[x]\n  root = {quote}/no{quote}\n"
    )
    script = f"containerd() {{ cat {dump}; }}\n{FINDING}"
    assert shell.call(script, str(socket), "dockerd", files={SOCKET: socket}).stdout == "/a 'b\n"


@pytest.mark.parametrize(("said", "root"), [("none", ""), ("/own root", "/own root"), ("auto", "/var/lib/containerd")])
def test_the_variable_says_it_first(shell: Shell, said: str, root: str) -> None:
    files = {SOCKET: shell.directory / "absent"}
    script = f"KATA_DIND_CONTAINERD='{said}'; {FINDING}"
    assert shell.call(script, str(files[SOCKET]), "dockerd", files=files).stdout == f"{root}\n"


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ('{"containerd": "/run/x.sock"}', "other"),
        (f'{{"containerd": "{SOCKET}"}}', "/var/lib/containerd"),
        ('{"features": {"containerd-snapshotter": true}}', "own"),
    ],
)
def test_the_daemons_configuration_may_name_its_address(shell: Shell, config: str, address: str) -> None:
    file = shell.directory / "daemon.json"
    file.write_text(config)
    script = """
    find_user
    config_file=$1
    read_command
    read_config
    [ -n "$uses_containerd" ] || echo own
    find_containerd
    echo "${containerd_root:-other}"
    """
    assert shell.call(script, str(file)).stdout.split()[0] == address


# --- where it lies


def with_shares(shell: Shell, *command: str, before: str = "", **variables: str) -> Ended:
    """Run the entrypoint with both roots on a share that refuses overlay."""
    for name in ("docker", "containerd"):
        for path in (shell.directory / name, shell.directory / f"{name}-share"):
            path.mkdir(exist_ok=True)
    shares = "".join(
        f"bindfs --xattr-none {shell.directory}/{name}-share {shell.directory}/{name}\n"
        for name in ("docker", "containerd")
    )
    roots: dict[str, Any] = {"PATH": shell.directory / "docker", "CONTAINERD": shell.directory / "containerd"}
    # Not on the share: its server would wait, in the kernel, for a disk that lies on it and ends with it.
    elsewhere = shell.directory / "disk"
    return shell.entrypoint(*command, before=shares + before, **{"SIZE": "96M", "DIR": elsewhere, **roots, **variables})


LOOK = """
echo made >"$0/containerd/made"
ls -A "$0/docker/containerd/daemon"
while read -r _ _ _ _ point rest; do [ "$point" != "$0/containerd" ] || echo "${rest#*- }"; done </proc/self/mountinfo
"""


@pytest.mark.requires("fuse", "loop")
@pytest.mark.parametrize(("kind", "filesystem"), [("auto", "ext4"), ("memory", "tmpfs")])
def test_it_lies_where_dockerds_own_containerd_keeps_the_same(shell: Shell, kind: str, filesystem: str) -> None:
    for _ in range(2):
        ended = with_shares(shell, "sh", "-c", LOOK, str(shell.directory), DATA_ROOT=kind)
        assert ended.code == 0, ended.stderr
        kept, *_, mounted = ended.stdout.splitlines()
        assert kept == "made"
        assert mounted.startswith(f"{filesystem} ")
        containerd = shell.directory / "containerd"
        assert f"overlay works on {filesystem}, on which {containerd} lies as well" in ended.said("info")
        status = json.loads(ended.status.read_text())
        assert (status["path"], status["containerd_root"]) == tuple(
            str(shell.directory / name) for name in ("docker", "containerd")
        )
    assert [*(shell.directory / "containerd-share").iterdir()] == []


@pytest.mark.requires("fuse", "loop")
def test_nothing_is_mounted_over_its_files(shell: Shell) -> None:
    with_shares(shell, "true")
    theirs = shell.directory / "containerd-share" / "io.containerd.metadata.v1.bolt"
    theirs.mkdir()
    ended = with_shares(shell, "true")
    assert (ended.code, ended.error["step"]) == (78, "prepare")
    assert ended.error["message"] == (
        f"containerd keeps its data in {shell.directory}/containerd: "
        f"{shell.directory}/containerd is not empty, and a mount would hide {theirs.name}"
    )
    assert ended.error["hint"].endswith("or, if nothing uses it: KATA_DIND_CONTAINERD=none")
    assert json.loads(ended.status.read_text())["path"] == str(shell.directory / "docker")
    assert with_shares(shell, "true", CONTAINERD="none").code == 0


@pytest.mark.requires("fuse")
def test_its_own_good_file_system_is_proven_and_kept(shell: Shell) -> None:
    ended = with_shares(
        shell, "ls", "-A", str(shell.directory / "containerd"), DATA_ROOT="memory",
        before=f"mount -t tmpfs theirs {shell.directory}/containerd; touch {shell.directory}/containerd/theirs",
    )  # fmt: skip
    assert (ended.code, ended.stdout) == (0, "theirs\n"), ended.stderr
    assert any(said.startswith("overlay works on tmpfs, on which ") for said in ended.said("info"))


@pytest.mark.requires("fuse")
def test_where_overlay_works_nowhere_the_fallback_is_what_was_asked_for(shell: Shell) -> None:
    assert with_shares(shell, "true", DATA_ROOT="virtiofs").code == 78
    ended = with_shares(shell, "echo", "went on", DATA_ROOT="virtiofs", FALLBACK="vfs")
    assert (ended.code, ended.stdout) == (0, "went on\n"), ended.stderr
    (warning,) = ended.said("warning")
    assert warning.endswith("continuing with vfs, as KATA_DIND_FALLBACK says")


# --- with a real one

# What dev containers and systemd's units do: the system's containerd first, and dockerd told of it.
INIT = """#!/bin/sh
exec >"{directory}/log" 2>&1
containerd --config "{directory}/config.toml" &
until ctr --address "{directory}/sock" version >/dev/null 2>&1; do kill -0 $! && sleep 0.1 || exit 1; done
ctr --address "{directory}/sock" images import "{directory}/hello.tar"
ctr --address "{directory}/sock" images mount --snapshotter overlayfs --rw docker.io/kata-dind/hello:latest \\
	"{directory}/mounted"
rm "{directory}/mounted/hello.sh"
while read -r _ _ _ _ point rest; do
	[ "$point" != "{directory}/mounted" ] || echo "${{rest#*- }}" >"{directory}/overlay"
done </proc/self/mountinfo
umount "{directory}/mounted"
kill $! && wait
"""


@pytest.mark.requires("docker", "fuse", "loop")
def test_a_real_system_containerd_works_beside_dockerd(tmp_path: Path, entrypoint_file: Path) -> None:
    shell = Shell("sh", ("sh",), scrubbed_environment()["PATH"], entrypoint_file, tmp_path)
    (tmp_path / "mounted").mkdir()
    busybox = Path(require_tool("busybox", package="busybox-static"))
    (tmp_path / "hello.tar").write_bytes(hello_archive(busybox=busybox.read_bytes(), script=b"#!/bin/sh\n"))
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/containerd"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{tmp_path}/sock"\n'
    )
    init = tmp_path / "docker-init.sh"
    init.write_text(INIT.format(directory=tmp_path))
    init.chmod(0o755)
    ended = with_shares(shell, str(init), SIZE="512M")
    assert ended.code == 0, (ended.stderr, (tmp_path / "log").read_text())
    assert (tmp_path / "overlay").read_text().startswith("overlay overlay rw"), (tmp_path / "log").read_text()
