from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes


@pytest.fixture
def config_file(home: Path) -> Path:
    """Where the user's configuration lies; there is none yet."""
    path = home / "config" / "kata-dind" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def test_precedence(
    cli: CommandLine, sandboxes: FakeSandboxes, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size() -> str | None:
        assert cli("up", "--quiet").exit_code == 0
        return sandboxes.specs[-1].size

    assert size() is None
    config_file.write_text('size = "2G"')
    assert size() == "2G"
    config_file.write_text('size = "2G"\n[up]\nsize = "3G"')
    assert size() == "3G"
    monkeypatch.setenv("KATA_DIND_SIZE", "4G")
    assert size() == "4G"
    assert cli("up", "--quiet", "--size", "5G").exit_code == 0
    assert sandboxes.specs[-1].size == "5G"


def test_every_kind_of_value(cli: CommandLine, sandboxes: FakeSandboxes, config_file: Path) -> None:
    config_file.write_text(
        """
        data-root = "loop"
        cpus = 3
        timeout = 90
        allow_link_local = true
        quiet = true
        share = ["/a:/x", "/b:/y:ro"]
        [run]
        data_root = "memory"
        env = ["A=1", "B=2"]
        """
    )
    assert cli("up").stderr == ""
    [spec] = sandboxes.specs
    assert (spec.data_root, spec.cpus, spec.timeout_seconds, spec.allow_link_local) == ("loop", 3, 90, True)
    assert [str(share.guest_path) for share in spec.shares] == ["/x", "/y"]
    cli("run", "alpine")
    assert sandboxes.specs[-1].data_root == "memory"
    assert "A=1" in sandboxes.known["ephemeral"].attached[0].argv


def test_every_kind_of_value_from_the_environment(
    cli: CommandLine, sandboxes: FakeSandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DATA_ROOT": "loop",
        "CPUS": "3",
        "TIMEOUT": "90.5",
        "ALLOW_LINK_LOCAL": "1",
        "QUIET": "yes",
        "SHARE": "/a:/x /b:/y:ro",
    }.items():
        monkeypatch.setenv(f"KATA_DIND_{name}", value)
    assert cli("up").stderr == ""
    [spec] = sandboxes.specs
    assert (spec.data_root, spec.cpus, spec.timeout_seconds, spec.allow_link_local) == ("loop", 3, 90.5, True)
    assert [str(share.guest_path) for share in spec.shares] == ["/x", "/y"]
    assert cli("up", "--no-allow-link-local").exit_code == 0
    assert not sandboxes.specs[-1].allow_link_local


def test_tables_of_inner_commands(cli: CommandLine, config_file: Path) -> None:
    config_file.write_text('[image.build]\nsuite = "trixie"\n[image.ls]\nquiet = true')
    assert cli("image", "ls").stdout == ""
    assert cli("image", "build", "--help").exit_code == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("size = ", "it is not TOML: Invalid value (at end of document)"),
        ("kernels = '1G'", "kernels: there is no such option or command; did you mean kernel?"),
        ("name = 'x'", "name: there is no such option or command"),
        ("nonsense = 1", "nonsense: there is no such option or command"),
        ("size = 20", """size: 20 is not allowed; use a string, in quotes, like "20G\""""),
        ("cpus = '2'", "cpus: '2' is not allowed; use a whole number"),
        ("cpus = true", "cpus: True is not allowed; use a whole number"),
        ("cpus = 1.5", "cpus: 1.5 is not allowed; use a whole number"),
        ("timeout = '3'", "timeout: '3' is not allowed; use a number"),
        ("quiet = 1", "quiet: 1 is not allowed; use true or false"),
        ("share = '/a:/b'", "share: '/a:/b' is not allowed; use a list of strings"),
        ("share = [1]", "share: [1] is not allowed; use a list of strings"),
        ("[upp]\nsize = '1G'", "upp: there is no such command; did you mean up?"),
        ("[zzz]\nsize = '1G'", "zzz: there is no such command"),
        ("[up]\nname = 'x'", "up.name: there is no such option"),
        ("[up]\nkernels = 'x'", "up.kernels: there is no such option; did you mean kernel?"),
        ("[up.size]\nx = 1", "up.size: there is no such command"),
        ("[image.built]\nsuite = 'x'", "image.built: there is no such command; did you mean build?"),
        ("[stop]\ntimeout = 'x'", "stop.timeout: 'x' is not allowed; use a number"),
    ],
)
@pytest.mark.parametrize("argv", [["ls"], ["up"], ["image", "ls"]])
def test_a_bad_file_is_refused_by_every_command(
    cli: CommandLine, sandboxes: FakeSandboxes, config_file: Path, argv: list[str], content: str, complaint: str
) -> None:
    config_file.write_text(content)
    outcome = cli(*argv)
    begins, lists, _ = outcome.stderr.partition(" (there are: ")
    told = begins + "\n" if lists else outcome.stderr
    assert (outcome.exit_code, told) == (2, f"kata-dind: {config_file}: {complaint}\n")
    assert outcome.stderr.count("\n") == 1
    assert not sandboxes.specs


@pytest.mark.parametrize(
    ("content", "those"),
    [
        ("nonsense = 1", "accel, accel_forget, allow_known_holes, allow_link_local, "),
        ("[zzz]\nsize = '1G'", "accel, backends, cluster, docker, entrypoint, env, "),
        ("[up]\nname = 'x'", "accel, allow_known_holes, allow_link_local, "),
        ("[volume.zzz]\nx = 1", "fsck, inspect, ls, resize, rm)\n"),
    ],
)
def test_an_unknown_key_is_answered_with_those_that_exist(
    cli: CommandLine, config_file: Path, content: str, those: str
) -> None:
    config_file.write_text(content)
    assert cli("ls").stderr.partition(" (there are: ")[2].startswith(those)


def test_a_file_that_is_not_text(cli: CommandLine, config_file: Path) -> None:
    config_file.write_bytes(b"size = '\xff'")
    outcome = cli("ls")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(f"kata-dind: {config_file}: it is not TOML: ")


def test_help_and_version_come_before_a_bad_file(cli: CommandLine, config_file: Path) -> None:
    config_file.write_text("size =")
    assert cli("--help").exit_code == cli("--version").exit_code == 0


def test_a_file_may_be_named(
    cli: CommandLine, sandboxes: FakeSandboxes, config_file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text("cpus = 5")
    (home / "other.toml").write_text("cpus = 6")
    monkeypatch.setenv("KATA_DIND_CONFIG", str(home / "other.toml"))
    cli("up")
    monkeypatch.setenv("KATA_DIND_CONFIG", "")
    cli("up")
    assert [spec.cpus for spec in sandboxes.specs] == [6, 2]
    monkeypatch.setenv("KATA_DIND_CONFIG", "/nowhere/x.toml")
    outcome = cli("up")
    assert outcome.exit_code == 2
    assert outcome.stderr == "kata-dind: KATA_DIND_CONFIG: there is no file '/nowhere/x.toml'\n"


def test_a_bad_value_is_named_by_where_it_came_from(
    cli: CommandLine, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text("size = '20X'\ntimeout = 0")
    assert cli("up", "--timeout", "5").stderr.startswith(f"kata-dind: {config_file}: size: '20X' is not a size; ")
    assert cli("up").stderr == f"kata-dind: {config_file}: timeout: '0' is not a number of seconds above zero\n"
    monkeypatch.setenv("KATA_DIND_SIZE", "20Y")
    monkeypatch.setenv("KATA_DIND_TIMEOUT", "1")
    assert cli("up").stderr.startswith("kata-dind: KATA_DIND_SIZE: '20Y' is not a size; ")
    monkeypatch.setenv("KATA_DIND_CPUS", "none")
    assert cli("up").stderr == "kata-dind: KATA_DIND_CPUS: 'none' is not a whole number above zero\n"
    assert cli("up", "--cpus", "2", "--size", "20Z").stderr.startswith("kata-dind: --size: '20Z' is not a size; ")
