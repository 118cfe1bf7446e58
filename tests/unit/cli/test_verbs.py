from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from kata_dind.cli import hello
from kata_dind.cli.app import build_command
from kata_dind.cli.passthrough import parse_variables
from kata_dind.cli.run import docker_run_argv
from kata_dind.errors import SpecError
from kata_dind.host.process import process_started
from kata_dind.spec import SandboxSpec, parse_spec
from kata_dind.wire.client import ExecResult
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import INSPECTED, Attached, FakeSandbox, FakeSandboxes


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def demo(sandboxes: FakeSandboxes) -> FakeSandbox:
    """A sandbox that runs."""
    return sandboxes.add("demo")


def test_up_without_options_asks_for_what_the_spec_has_as_its_defaults(
    cli: CommandLine, sandboxes: FakeSandboxes
) -> None:
    outcome = cli("up")
    assert sandboxes.specs == [parse_spec(name="default")]
    assert not sandboxes.specs[0].given
    assert outcome.exit_code == 0
    assert outcome.stdout == 'default is ready. Point your Docker client at it:\n  eval "$(kata-dind env default)"\n'
    assert outcome.stderr == "kata-dind: booting\nkata-dind: ready (7.5 s)\n"


def test_up_has_an_option_for_each_field_of_a_spec() -> None:
    names = {parameter.name for parameter in build_command().commands["up"].params}
    assert set(SandboxSpec.model_fields) <= names


def test_up_passes_every_option_on(cli: CommandLine, sandboxes: FakeSandboxes, home: Path) -> None:
    words = "up ci-1 --backend vm --data-root loop --size 3G --cpus 4 --memory 1G --image docker:28-dind"
    more = "--kernel vmlinuz --accel tcg --network none --allow-link-local --share src:/src:ro --share /b:/c"
    more += " --filesystem xfs --fallback vfs --no-virtiofs-xattr --dockerd-arg --debug --dockerd-arg=--dns=198.18.0.3"
    packages = "--suite trixie --mirror http://mirror.example/debian --apt-option A::B=1; --timeout 9"
    assert cli(*words.split(), *more.split(), *packages.split()).exit_code == 0
    [spec], [source] = sandboxes.specs, sandboxes.sources
    assert spec == parse_spec(
        name="ci-1",
        data_root="loop",
        size="3G",
        cpus=4,
        memory="1G",
        image="docker:28-dind",
        kernel=Path.cwd() / "vmlinuz",
        accelerator="tcg",
        network="none",
        allow_link_local=True,
        filesystem="xfs",
        fallback="vfs",
        virtiofs_xattr=False,
        dockerd_args=["--debug", "--dns=198.18.0.3"],
        shares=[f"{Path.cwd()}/src:/src:ro", "/b:/c"],
        timeout_seconds=9,
    )
    assert source
    assert (source.suite, source.mirror, source.apt_options) == ("trixie", "http://mirror.example/debian", ("A::B=1;",))


def test_up_shares_a_path_that_is_the_same_on_both_sides(
    cli: CommandLine, sandboxes: FakeSandboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    # Shells and Docker's clients keep the name by which a directory was entered; a stale one counts for nothing.
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    assert cli("up", "a", "--share", ".", "--share", "../other:ro", "--share", "~/src").exit_code == 0
    monkeypatch.setenv("PWD", "/home")
    assert cli("up", "b", "--share", ".").exit_code == 0
    assert [Path(share.guest_path) for share in sandboxes.specs[0].shares] == [
        tmp_path / "link",
        tmp_path / "other",
        Path("/home/me/src"),
    ]
    assert [share.read_only for share in sandboxes.specs[0].shares] == [False, True, False]
    assert [str(share.guest_path) for share in sandboxes.specs[1].shares] == [str(tmp_path / "real")]
    for spec in sandboxes.specs:
        assert all(str(share.host_path) == str(share.guest_path) for share in spec.shares)


def test_up_as_json(cli: CommandLine) -> None:
    outcome = cli("up", "demo", "--json")
    assert json.loads(outcome.stdout) == INSPECTED
    assert outcome.stderr == ""


def test_up_quietly(cli: CommandLine) -> None:
    outcome = cli("up", "-q")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "")


def test_start_stop_and_rm(cli: CommandLine, sandboxes: FakeSandboxes, demo: FakeSandbox) -> None:
    other = sandboxes.add("other")
    assert cli("start", "demo").stdout == "demo is ready.\n"
    assert sandboxes.started == ["demo"]
    assert cli("stop", "demo", "other", "demo", "--timeout", "5").exit_code == 0
    assert (demo.stopped_within, other.stopped_within) == ([5], [5])
    assert cli("stop", "demo", "--save").exit_code == 0
    assert (demo.saved, other.saved) == ([False, True], [False])
    assert cli("rm", "demo").exit_code == 0
    assert cli("rm", "-f", "demo", "other").exit_code == 0
    assert (demo.removed, other.removed) == ([False, True], [True])


def test_ls(cli: CommandLine, sandboxes: FakeSandboxes, demo: FakeSandbox) -> None:
    sandboxes.add("a-longer-name")
    assert cli("ls").stdout == (
        "NAME           STATE    DOCKER    DATA ROOT  VOLUME  ACCELERATOR  IMAGE               PORTS  UPTIME  DISK\n"
        "demo           running  20.10.24  block      -       tcg          kata-dind/bookworm  -      2m      312M\n"
        "a-longer-name  running  20.10.24  block      -       tcg          kata-dind/bookworm  -      2m      312M\n"
    )
    assert cli("ls", "-q").stdout == "demo\na-longer-name\n"
    assert [row["name"] for row in json.loads(cli("ls", "--json").stdout)] == ["demo", "a-longer-name"]


def test_ls_tells_of_problems_beside_its_table(cli: CommandLine, demo: FakeSandbox) -> None:
    demo.problem = "the disk is full"
    listed = cli("ls")
    assert listed.stdout.splitlines()[1].split()[:2] == ["demo", "running"]
    assert listed.stderr == "kata-dind: demo: the disk is full\n"
    assert cli("ls", "-q").stderr == ""
    assert json.loads(cli("ls", "--json").stdout)[0]["problem"] == "the disk is full"


def test_ls_of_none(cli: CommandLine) -> None:
    assert cli("ls").stdout == "NAME  STATE  DOCKER  DATA ROOT  VOLUME  ACCELERATOR  IMAGE  PORTS  UPTIME  DISK\n"
    assert cli("ls", "-q").stdout == ""
    assert json.loads(cli("ls", "--json").stdout) == []


def test_inspect(cli: CommandLine, demo: FakeSandbox) -> None:
    assert json.loads(cli("inspect", "demo", "--json").stdout) == INSPECTED
    assert cli("inspect", "demo").stdout == (
        "name:        demo\n"
        "state:       running\n"
        "accelerator: tcg\n"
        "data_root:\n"
        "  kind:       block\n"
        "  filesystem: ext4\n"
        "docker:\n"
        "  version: 20.10.24\n"
        "  storage: overlay2 on extfs\n"
        "phases:\n"
        "  name boot, seconds 3.25\n"
        "  name docker, seconds 6\n"
        "timings:\n"
        "  boot_seconds:   3.21\n"
        "  docker_seconds: 6.04\n"
        "  ready_seconds:  7.5\n"
        "  proof_seconds:  1.2\n"
        "error:       -\n"
    )


@pytest.mark.parametrize("dashes", [["--"], []])
def test_docker(cli: CommandLine, demo: FakeSandbox, dashes: list[str]) -> None:
    demo.exit_code = 125
    outcome = cli("docker", "demo", *dashes, "ps", "-a", "--quiet", "--", "--json")
    assert demo.attached == [Attached(["docker", "ps", "-a", "--quiet", "--", "--json"], "container", False, {}, "")]
    assert (outcome.exit_code, outcome.stderr) == (125, "")
    assert not demo.ran


def test_docker_with_nothing_to_do(cli: CommandLine, demo: FakeSandbox) -> None:
    cli("docker", "demo")
    assert demo.attached[0].argv == ["docker"]


def test_docker_loads_the_built_in_image_when_it_is_named(cli: CommandLine, demo: FakeSandbox) -> None:
    cli("docker", "demo", "--", "run", "--rm", "kata-dind/hello")
    [[shell, flag, script]] = demo.ran
    assert (shell, flag) == ("sh", "-c")
    assert "docker load --quiet --input /usr/share/kata-dind/hello.tar" in script


def test_exec(cli: CommandLine, demo: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "value")
    demo.exit_code = 3
    options = "-e A=b=c --env OURS -e UNKNOWN -w /tmp --guest"
    assert cli("exec", *options.split(), "demo", "--", "ls", "--help", "--", "x").exit_code == 3
    assert demo.attached == [
        Attached(["ls", "--help", "--", "x"], "guest", False, {"A": "b=c", "OURS": "value"}, "/tmp")
    ]


def test_shell(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    default = sandboxes.add("default")
    default.exit_code = 1
    assert cli("shell").exit_code == 1
    assert default.attached[0].argv[:2] == ["sh", "-c"]


def test_a_terminal_is_passed_on(cli: CommandLine, demo: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    cli("exec", "demo", "--", "top")
    assert (demo.attached[0].tty, demo.attached[0].environment) == (True, {"TERM": "xterm-256color"})


def test_half_a_terminal_is_none(cli: CommandLine, demo: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    cli("exec", "demo", "--", "top")
    assert not demo.attached[0].tty


@pytest.mark.parametrize("variable", ["", "=x", "a b=c", "a\n=c"])
def test_variables_that_are_none(variable: str) -> None:
    with pytest.raises(SpecError, match="--env: "):
        parse_variables([variable])


def test_run(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    ephemeral = sandboxes.add("ephemeral")
    ephemeral.exit_code = 42
    outcome = cli("run", "-it", "--size", "1G", "-e", "A=1", "alpine:3", "ls", "--size", "-l", "--", "--json")
    [spec] = sandboxes.specs
    assert spec.size == "1G"
    assert spec.name.startswith("run-")
    assert [call.argv for call in ephemeral.attached] == [
        ["docker", "run", "--rm", "--interactive", "--env", "A=1", "alpine:3", "ls", "--size", "-l", "--", "--json"]
    ]
    assert outcome.exit_code == 42
    assert sandboxes.closed == [spec.name]


def test_each_run_has_a_name_of_its_own(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    cli("run", "alpine")
    cli("run", "alpine")
    assert len({spec.name for spec in sandboxes.specs}) == 2


def test_run_of_the_built_in_image(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    assert cli("run", "kata-dind/hello").exit_code == 0
    ephemeral = sandboxes.known["ephemeral"]
    assert len(ephemeral.ran) == 1
    argv = ephemeral.attached[0].argv
    assert argv[-1] == "kata-dind/hello"
    assert "KATA_DIND_HELLO_ACCELERATOR=tcg" in argv


def test_an_image_without_the_built_in_one(cli: CommandLine, demo: FakeSandbox) -> None:
    demo.run_result = ExecResult(1, b"", b"open /usr/share/kata-dind/hello.tar: no such file\n")
    outcome = cli("docker", "demo", "--", "run", "kata-dind/hello")
    assert outcome.exit_code == 4
    assert "no such file" in outcome.stderr


def test_the_guests_docker_run() -> None:
    assert docker_run_argv("alpine", [], environment={}, tty=True) == [
        "docker", "run", "--rm", "--interactive", "--tty", "alpine",
    ]  # fmt: skip
    spec = parse_spec(name="demo", shares=["/src", "/data:/etc/data:ro"])
    argv = docker_run_argv("alpine", ["ls"], environment={"A": "b"}, published=["80"], shares=spec.shares, tty=False)
    assert argv == [
        "docker", "run", "--rm", "--interactive", "--env", "A=b", "--publish", "80",
        "--volume", "/src:/src:rw", "--volume", "/etc/data:/etc/data:ro", "alpine", "ls",
    ]  # fmt: skip


def test_facts_for_the_built_in_image() -> None:
    facts = hello.facts(INSPECTED)
    started = float(facts.pop("KATA_DIND_HELLO_STARTED"))
    assert facts == {
        "KATA_DIND_HELLO_ACCELERATOR": "tcg",
        "KATA_DIND_HELLO_DATA_ROOT": "block (ext4)",
        "KATA_DIND_HELLO_STORAGE": "overlay2 on extfs",
        "KATA_DIND_HELLO_DOCKER": "20.10.24",
        "KATA_DIND_HELLO_BOOT_SECONDS": "3.2",
        "KATA_DIND_HELLO_DOCKER_SECONDS": "6.0",
    }
    assert started == pytest.approx(process_started(), abs=0.05)


@pytest.mark.parametrize("inspected", [{}, {"data_root": None, "docker": None, "timings": None}])
def test_facts_that_are_not_known_are_left_out(inspected: dict[str, Any]) -> None:
    assert list(hello.facts(inspected)) == ["KATA_DIND_HELLO_STARTED"]
