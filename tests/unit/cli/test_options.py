"""The options of a sandbox: what was given is handed over and nothing else, and each belongs to a group."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from typer.core import TyperOption

from kata_dind.cli.app import build_command
from kata_dind.cli.options.groups import OWN_OPTIONS, own_title, sandbox_groups
from kata_dind.cli.verb import group_title, shown_default
from kata_dind.spec import SandboxSpec, _OnlyOn
from kata_dind.vocabulary import BACKEND_MODULES
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes


def options_of(verb: str) -> dict[str, TyperOption]:
    parameters = build_command().commands[verb].params
    return {parameter.name: parameter for parameter in parameters if isinstance(parameter, TyperOption)}


@pytest.fixture
def other_backend(monkeypatch: pytest.MonkeyPatch) -> str:
    """A second backend of this installation."""
    monkeypatch.setitem(BACKEND_MODULES, "containerd", "tests.contract.fake_backend")
    return "containerd"


# --- what was given


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], set()),
        (["--cpus", "2"], {"cpus"}),
        (["--memory", "2G", "--network", "nat"], {"memory", "network"}),
        (["--no-cold"], {"cold"}),
        (["--virtiofs-xattr"], {"virtiofs_xattr"}),
        (["--share", "/a:/b"], {"shares"}),
        (["--timeout", "180"], {"timeout_seconds"}),
        (["--kernel", "vmlinuz"], {"kernel"}),
    ],
)
@pytest.mark.parametrize("command", [["up"], ["run", "alpine"]])
def test_only_what_is_on_the_command_line_is_given(
    cli: CommandLine, sandboxes: FakeSandboxes, command: list[str], words: list[str], given: set[str]
) -> None:
    verb, *rest = command
    assert cli(verb, "--quiet", *words, *rest).exit_code == 0
    assert sandboxes.specs[0].given == given


def test_variables_and_the_file_give_as_well_and_an_empty_variable_does_not(
    cli: CommandLine, sandboxes: FakeSandboxes, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CPUS": "2", "COLD": "0", "MEMORY": "", "SEED": "", "SHARE": "", "VIRTIOFS_XATTR": ""}.items():
        monkeypatch.setenv(f"KATA_DIND_{name}", value)
    config = home / "config" / "kata-dind" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('network = "nat"\nallow_link_local = false\nshare = ["/a:/b"]')
    assert cli("up", "--quiet").exit_code == 0
    [spec] = sandboxes.specs
    assert spec.given == {"cpus", "cold", "network", "allow_link_local", "shares"}
    assert (spec.cold, spec.virtiofs_xattr, spec.memory) == (False, True, "2G")


def test_a_list_on_the_command_line_takes_the_place_of_one_in_the_file(
    cli: CommandLine, sandboxes: FakeSandboxes, home: Path
) -> None:
    config = home / "config" / "kata-dind" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('share = ["/a:/b", "/c:/d"]')
    assert cli("up", "--quiet", "--share", "/e:/f").exit_code == 0
    assert [str(share.guest_path) for share in sandboxes.specs[0].shares] == ["/f"]


# --- what the help says


@pytest.mark.parametrize("name", sorted(SandboxSpec.model_fields.keys() - {"name"}))
def test_the_help_says_the_default_that_the_spec_has(name: str) -> None:
    said, default = shown_default(options_of("up")[name]), SandboxSpec.model_fields[name].get_default()
    if isinstance(default, bool):
        assert said.startswith("--no-") is not default
    elif default in ("", (), None):  # something that only words can say, if anything
        assert said not in {"None", "()", "[]"}
    else:
        assert said == (f"{default:g}" if isinstance(default, float) else str(default))


def test_the_help_says_the_size_that_a_spec_has_without_one() -> None:
    said = shown_default(options_of("up")["size"])
    assert said.startswith(f"{SandboxSpec(name='x').size_bytes >> 30}G, ")


def test_the_help_says_what_the_file_has_for_a_default(cli: CommandLine, home: Path) -> None:
    config = home / "config" / "kata-dind" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('memory = "7G"\ncold = true\nsize = "9G"')
    said = " ".join(cli("up", "--help").stdout.split())
    for default in ("7G", "--cold", "9G"):
        assert f"[default: {default}]" in said


# --- groups


def owners(name: str) -> set[str]:
    return {str(mark.backend) for mark in SandboxSpec.model_fields[name].metadata if isinstance(mark, _OnlyOn)}


def test_every_field_has_its_option_in_the_group_that_the_spec_says() -> None:
    options = {name: title for title, group in sandbox_groups().items() for name in group}
    assert options.keys() == SandboxSpec.model_fields.keys() - {"name"}
    for backend, group in OWN_OPTIONS.items():
        assert {name for name in options if owners(name) == {backend}} == group.keys()
    for name, option in options_of("up").items():
        if name in options:
            assert group_title(option) == options[name]


def headings(text: str) -> list[str]:
    return [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]


def test_the_help_has_a_heading_for_each_group(cli: CommandLine) -> None:
    expected = ["Arguments", "Options", "Options of the sandbox", own_title("vm"), own_title("containerd")]
    assert headings(cli("up", "--help").stdout) == [*expected, "Options for building from packages"]
    assert headings(cli("seed", "build", "--help").stdout) == headings(cli("up", "--help").stdout)
    assert headings(cli("ls", "--help").stdout) == ["Options"]


@pytest.mark.parametrize("verb", ["up", "run"])
@pytest.mark.parametrize(
    "place", ["before --help", "after --help", "environment", "file", "file for all", "with another before"]
)
def test_the_help_for_a_backend_has_no_option_of_another(
    cli: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, other_backend: str, place: str, verb: str
) -> None:
    config = home / "config" / "kata-dind" / "config.toml"
    config.parent.mkdir(parents=True)
    words = [verb, "--help"]
    match place:
        case "before --help":
            words = [verb, "--backend", other_backend, "--help"]
        case "after --help":
            words = [verb, "--help", f"--backend={other_backend}"]
        case "environment":
            monkeypatch.setenv("KATA_DIND_BACKEND", other_backend)
        case "file":
            config.write_text(f'[{verb}]\nbackend = "{other_backend}"')
        case "file for all":
            config.write_text(f'backend = "{other_backend}"')
        case _:
            monkeypatch.setenv("KATA_DIND_BACKEND", "vm")
            words = [verb, "--backend", other_backend, "-h"]
    said = cli(*words).stdout
    assert "--cpus" in said
    assert "--network" in said
    for option in ("--accel", "--seed", "--cold", "--allow-link-local", "--host-port", "--virtiofs-xattr", "--watch"):
        assert f"  {option} " not in said
    assert own_title("vm") not in headings(said)


def test_the_help_without_a_backend_or_for_an_unknown_one_has_all(cli: CommandLine, other_backend: str) -> None:
    for words in ([], ["--backend", "vm"], ["--backend", "xen"]):
        assert "--accel" in cli("up", "--help", *words).stdout


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("accelerator", ["--accel", "auto"]),
        ("seed", ["--seed", "web"]),
        ("cold", ["--no-cold"]),
        ("allow_link_local", ["--allow-link-local"]),
        ("host_ports", ["--host-port", "5432"]),
        ("virtiofs_xattr", ["--virtiofs-xattr"]),
        ("watch", ["--watch"]),
    ],
)
def test_an_option_that_the_backend_does_not_have_is_refused_by_name(
    cli: CommandLine, sandboxes: FakeSandboxes, other_backend: str, field: str, words: list[str]
) -> None:
    outcome = cli("up", "--backend", other_backend, *words)
    option = options_of("up")[field].opts[0]
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        f"kata-dind: {option}: only the backend vm has this option, and this sandbox is for containerd; leave it out\n",
    )
    assert not sandboxes.specs
    assert cli("up", "--backend", other_backend, "--cpus", "2", "--share", "/a:/b").exit_code == 0


def test_an_option_that_the_backend_does_not_have_is_named_by_where_it_came_from(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, other_backend: str
) -> None:
    monkeypatch.setenv("KATA_DIND_ACCEL", "tcg")
    outcome = cli("up", "--backend", other_backend)
    assert outcome.stderr.startswith("kata-dind: KATA_DIND_ACCEL: only the backend vm has this option")


# --- which backends there are

_WITH_ANOTHER = """
import sys
from kata_dind.vocabulary import BACKEND_MODULES
BACKEND_MODULES["kubernetes"] = "tests.contract.fake_backend"
from kata_dind.__main__ import main
sys.argv = ["kata-dind", *sys.argv[1:]]
sys.exit(main())
"""


def with_another(*words: str) -> Any:
    return run([sys.executable, "-c", _WITH_ANOTHER, *words], check=False, capture_output=True, text=True)


def test_only_the_backends_of_this_installation_are_offered(cli: CommandLine) -> None:
    assert "--backend vm|containerd " in cli("up", "--help").stdout
    assert cli("up", "--backend", "kubernetes").stderr == (
        "kata-dind: --backend: 'kubernetes' is not available in this installation; use vm or containerd\n"
    )
    assert cli("up", "--backend", "xen").stderr == "kata-dind: --backend: 'xen' is unknown; use vm or containerd\n"
    assert "--backend vm|containerd|kubernetes" in with_another("up", "--help").stdout
