"""Programs other than dockerd get a proven root as well: which program it is, and where its root lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kata_dind.host.process import require_tool, scrubbed_environment
from kata_dind.image.hello import hello_archive
from tests.guest.conftest import Shell

pytestmark = pytest.mark.requires("root")


# --- which program


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["dockerd"], "dockerd"),
        (["dockerd-entrypoint.sh"], "dockerd"),
        (["tini", "--", "sh", "-c", "true"], "dockerd"),
        (["buildkitd", "--addr=tcp://0.0.0.0:1234"], "buildkitd"),
        (["/usr/bin/buildkitd-entrypoint"], "buildkitd"),
        (["rootlesskit", "buildkitd"], "buildkitd"),
        (["buildctl-daemonless.sh", "build"], "buildkitd"),
        (["tini", "--", "/usr/bin/containerd"], "containerd"),
        (["dockerd", "--containerd", "/run/x/containerd"], "dockerd"),
        (["dagger-entrypoint.sh", "--addr", "tcp://0.0.0.0:1"], "dagger"),
        (["/usr/local/bin/dagger-engine"], "dagger"),
    ],
)
def test_the_program_is_what_the_command_starts(shell: Shell, command: list[str], program: str) -> None:
    assert shell.call('find_program "$@"; echo "$program"', *command).stdout == f"{program}\n"


def test_earthlys_image_starts_a_buildkitd_of_its_own(shell: Shell) -> None:
    script = 'EARTHLY_TMP_DIR=/tmp/earthly; find_program "$@"; echo "$program"'
    command = ["/usr/bin/entrypoint.sh", "buildkitd", "--config=/etc/buildkitd.toml"]
    assert shell.call(script, *command).stdout == "earthly\n"


@pytest.mark.parametrize("program", ["dockerd", "buildkitd", "containerd", "dagger", "earthly"])
def test_the_variable_says_it_first(shell: Shell, program: str) -> None:
    script = f'KATA_DIND_PROGRAM={program}; find_program "$@"; echo "$program"'
    assert shell.call(script, "containerd").stdout == f"{program}\n"


# --- where its root lies


ROOTS: list[tuple[str, list[str], str]] = [
    ("", ["buildkitd"], "/var/lib/buildkit"),
    ("", ["buildkitd", "--root=/a b"], "/a b"),
    ("", ["buildkitd", "--root", "/a", "--debug"], "/a"),
    ("", ["buildkitd", "--root"], "/var/lib/buildkit"),
    ("BUILDKITD_FLAGS='--oci-worker-no-process-sandbox --root=/flags*'", ["buildctl-daemonless.sh"], "/flags*"),
    ("EARTHLY_TMP_DIR=/data/earthly", ["entrypoint.sh", "buildkitd", "--config=@config"], "/data/earthly"),
    ("", ["entrypoint.sh", "buildkitd", "--config=@config"], "/data/earthly/buildkit"),
    ("KATA_DIND_PROGRAM=earthly", ["entrypoint.sh"], "/tmp/earthly"),
    ("", ["dagger-entrypoint.sh"], "/var/lib/dagger"),
    ("", ["dagger-engine", "--root", "/d"], "/d"),
    ("", ["containerd", "--config=/nowhere"], "/var/lib/containerd"),
    ("", ["containerd", "-c", "/nowhere", "--root=/c"], "/c"),
]


@pytest.mark.parametrize(("environment", "command", "root"), ROOTS)
def test_the_root_is_what_the_program_takes(shell: Shell, environment: str, command: list[str], root: str) -> None:
    config = shell.directory / "config.toml"
    config.write_text('root = "/data/earthly/buildkit"\n')  # as Earthly's own entrypoint writes it
    command = [word.replace("@config", str(config)) for word in command]
    script = f"{environment}\nuser=0; " + (
        'find_program "$@"; read_other_program "$@"; echo "${data_root:-$default_data_root}"'
    )
    assert shell.call(script, *command).stdout == f"{root}\n"


@pytest.mark.parametrize("program", ["buildkitd", "containerd"])
def test_the_configuration_of_the_program_may_say_it(shell: Shell, program: str) -> None:
    config, root = shell.directory / "config.toml", shell.directory / "root"
    config.write_text(f'debug = true\nroot = "{root}" # here\n[grpc]\nroot = "/wrong"\n')
    command = [str(shell.directory / program), "--config", str(config)]
    Path(command[0]).symlink_to(shutil.which("true") or "/bin/true")
    ended = shell.entrypoint(*command, DATA_ROOT="memory", SIZE="64M")
    assert ended.code == 0, ended.stderr
    status = json.loads(ended.status.read_text())
    assert (status["program"], status["path"], status["kind"]) == (program, str(root), "memory")
    assert set(status["proof"].values()) <= {"passed", "untested"} and status["proof"]["copy-up"] == "passed"


def test_without_root_it_is_what_rootless_buildkit_takes(shell: Shell) -> None:
    asked = 'find_program buildkitd; read_other_program; echo "$default_data_root $config_file"'
    for environment, answer in {
        "HOME=/home/user": "/home/user/.local/share/buildkit /home/user/.config/buildkit/buildkitd.toml",
        "XDG_DATA_HOME=/data XDG_CONFIG_HOME=/etc/x": "/data/buildkit /etc/x/buildkit/buildkitd.toml",
    }.items():
        script = f"unset XDG_DATA_HOME XDG_CONFIG_HOME; user=1000; {environment}; {asked}"
        assert shell.call(script).stdout == f"{answer}\n"


def test_a_root_that_is_not_absolute_is_refused(shell: Shell) -> None:
    ended = shell.entrypoint("buildkitd", "--root=here")
    assert (ended.code, ended.error["hint"]) == (64, "use one like /var/lib/buildkit")


# --- TOML


TOML = {
    'version = 2\nroot = "/a b"\n': "/a b",
    "  root='/a' # \"b\"\n": "/a",
    'root\t=\t"/a"\r\n[x]\r\n': "/a",
    'root = "/last"': "/last",
    '# root = "/no"\n': "",
    '[plugins]\n  root = "/no"\n': "",
    'rootless = "/no"\nsome = [\n"x",\n]\nroot = "/a"': "/a",
    "root = 5\nstate = '/no'\n": "",
    'root = "/$(touch mark)`x`*"': "/$(touch mark)`x`*",
    'root = ""\n': "",
    "": "",
}


@pytest.mark.parametrize("text", TOML)
def test_the_root_in_toml_stands_before_the_first_table(shell: Shell, text: str) -> None:
    file = shell.directory / "x.toml"
    file.write_text(text)
    done = shell.call('read_toml "$1"; echo "$toml_root"', str(file))
    assert (done.stdout, done.stderr) == (f"{TOML[text]}\n", "")
    assert [*shell.directory.iterdir()] == [file]


def test_imported_files_count_as_they_do_for_containerd(shell: Shell) -> None:
    """Later files win, patterns and relative paths are resolved, and a circle ends."""
    config, drop_ins = shell.directory / "config.toml", shell.directory / "conf d"
    drop_ins.mkdir()
    config.write_text(
        f'root = "/main"\nimports = ["conf d/*.toml", # "x"\n  "config.toml",\n"{shell.directory}/last.toml"]\n[x]\n'
    )
    asked = 'read_toml "$1"; echo "$toml_root"'
    assert shell.call(asked, str(config)).stdout == "/main\n"
    (drop_ins / "1.toml").write_text("root = '/one'")
    (drop_ins / "2.toml").write_text("state = '/two'")
    assert shell.call(asked, str(config)).stdout == "/one\n"
    (shell.directory / "last.toml").write_text("imports = ['config.toml']\nroot = '/last'")
    assert shell.call(asked, str(config)).stdout == "/last\n"


# --- nothing of dockerd's


@pytest.mark.parametrize(("name", "program"), [("buildkitd", ""), ("dockerd", "buildkitd"), ("dockerd", "containerd")])
def test_nothing_is_changed_that_only_dockerd_understands(shell: Shell, name: str, program: str) -> None:
    stub = shell.directory / name
    stub.write_text('#!/bin/sh\necho "${DOCKER_DRIVER:-none}" "$@"\n')
    stub.chmod(0o755)
    arguments = ["--storage-driver=vfs", "-H", "tcp://0.0.0.0:2375"]
    ended = shell.entrypoint(
        str(stub), *arguments, PATH=shell.directory / "data", DATA_ROOT="memory", SIZE="64M", CONTAINERD="auto",
        before="export DOCKER_DRIVER=vfs", **({"PROGRAM": program} if program else {}),
    )  # fmt: skip
    assert (ended.code, ended.stdout) == (0, f"vfs {' '.join(arguments)}\n"), ended.stderr
    assert ended.said("warning") == []


# --- real ones


@pytest.mark.requires("fuse", "loop")
def test_a_share_that_refuses_overlay_is_refused_to_buildkit_too(shell: Shell) -> None:
    (shell.directory / "source").mkdir()
    root = shell.directory / "root"
    root.mkdir()
    ended = shell.entrypoint(
        "buildkitd", f"--root={root}", DATA_ROOT="virtiofs",
        before=f"bindfs --xattr-none {shell.directory}/source {root}",
    )  # fmt: skip
    assert (ended.code, ended.error["step"]) == (78, "verify")
    assert "overlay does not work on fuse" in ended.error["message"]


SESSION = """
{containerd} "$@" >"$0/log" 2>&1 &
until ctr --address "$0/sock" version >/dev/null 2>&1; do kill -0 $! && sleep 0.1 || exit 1; done
ctr --address "$0/sock" images import "$0/hello.tar"
ctr --address "$0/sock" images mount --snapshotter overlayfs --rw docker.io/kata-dind/hello:latest \\
	"$0/mounted" >/dev/null
echo made >"$0/mounted/made" && rm "$0/mounted/hello.sh"
while read -r _ _ _ _ point rest; do [ "$point" != "$0/mounted" ] || echo "${{rest#*- }}"; done </proc/self/mountinfo
umount "$0/mounted"
kill $! && wait
"""


@pytest.mark.requires("docker", "fuse", "loop")
def test_a_real_containerd_works_on_a_share_that_refuses_overlay(tmp_path: Path, entrypoint_file: Path) -> None:
    shell = Shell("sh", ("sh",), "/usr/sbin:/usr/bin:/sbin:/bin", entrypoint_file, tmp_path)
    for name in ("source", "root", "mounted"):
        (tmp_path / name).mkdir()
    busybox = Path(require_tool("busybox", package="busybox-static"))
    (tmp_path / "hello.tar").write_bytes(hello_archive(busybox=busybox.read_bytes(), script=b"#!/bin/sh\n"))
    config = tmp_path / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{tmp_path}/sock"\n'
    )
    ended = shell.entrypoint(
        "sh", "-c", SESSION.format(containerd="containerd"), str(tmp_path), "--config", str(config),
        PROGRAM="containerd", SIZE="512M", DIR=tmp_path / "disk",
        before=f"bindfs --xattr-none {tmp_path}/source {tmp_path}/root",
    )  # fmt: skip
    assert ended.code == 0, (ended.stderr, ended.stdout)
    status = json.loads(ended.status.read_text())
    assert (status["program"], status["path"], status["kind"]) == ("containerd", f"{tmp_path}/root", "loop")
    assert ended.stdout.splitlines()[-1].startswith("overlay overlay rw")
    assert (tmp_path / "disk" / "kata-dind.img").exists()
    assert ended.said("warning") == []


BUILD = """
mount -t cgroup2 cgroup /sys/fs/cgroup # in place of the cover, which the entrypoint was to see
buildkitd --root="$0/root" --addr="unix://$0/sock" --oci-worker-net=host --containerd-worker=false >>"$0/log" 2>&1 &
b() { buildctl --addr="unix://$0/sock" "$@"; }
until b debug workers >/dev/null 2>&1; do kill -0 $! && sleep 0.1 || exit 1; done
b debug workers --verbose | grep snapshotter
b build --frontend=dockerfile.v0 --local=context="$0/context" --local=dockerfile="$0/context" \\
	--output="type=local,dest=$0/out" --progress=plain >>"$0/log" 2>&1
kill $! && wait
find /sys/fs/cgroup/buildkit -depth -type d -exec rmdir {} + || :
"""
DOCKERFILE = """\
FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "sh", "-c", "echo 1 >/one; echo 1 >/two"]
RUN ["/bin/busybox", "sh", "-c", "echo 2 >>/one; rm /two; mv /bin /moved"]
"""


@pytest.mark.requires("buildkitd", "fuse", "loop")
def test_a_real_buildkitd_does_not_copy_on_a_share_that_refuses_overlay(tmp_path: Path, entrypoint_file: Path) -> None:
    shell = Shell("sh", ("sh",), scrubbed_environment()["PATH"], entrypoint_file, tmp_path)
    for name in ("source", "root", "context"):
        (tmp_path / name).mkdir()
    shutil.copy(require_tool("busybox", package="busybox-static"), tmp_path / "context" / "busybox")
    (tmp_path / "context" / "Dockerfile").write_text(DOCKERFILE)
    before = f"bindfs --xattr-none {tmp_path}/source {tmp_path}/root"
    ended = shell.entrypoint(
        "sh", "-c", BUILD, str(tmp_path), PROGRAM="buildkitd", PATH=tmp_path / "root", SIZE="512M",
        DIR=tmp_path / "disk",
        before=before,
    )  # fmt: skip
    log = (tmp_path / "log").read_text()
    assert ended.code == 0, (ended.stderr, log)
    assert "overlayfs" in ended.stdout, log
    assert (tmp_path / "out" / "one").read_text() == "1\n2\n"
    assert not (tmp_path / "out" / "two").exists() and (tmp_path / "out" / "moved" / "busybox").exists()
    assert json.loads(ended.status.read_text())["kind"] == "loop"
