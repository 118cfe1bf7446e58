from __future__ import annotations

import json
import shutil
from subprocess import run

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_dind.cli.env import Shell, exports
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes

values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def test_env(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    sandboxes.add("default")
    assert cli("env").stdout == (
        """export DOCKER_HOST='unix:///run/it'"'"'s here/default.sock'\n"""
        "export TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE=/var/run/docker.sock\n"
    )
    assert cli("env", "--shell", "fish").stdout == (
        """set -gx DOCKER_HOST 'unix:///run/it\\'s here/default.sock';\n"""
        "set -gx TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE '/var/run/docker.sock';\n"
    )
    assert json.loads(cli("env", "--json").stdout)["DOCKER_HOST"] == "unix:///run/it's here/default.sock"


def test_env_of_a_stopped_sandbox_is_refused(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    sandboxes.add("demo").fake_state = "stopped"
    outcome = cli("env", "demo")
    assert (outcome.exit_code, outcome.stdout) == (4, "")
    assert outcome.stderr == "kata-dind: the sandbox 'demo' is stopped\nhint: kata-dind start demo\n"


@pytest.mark.parametrize("shell", [Shell.BASH, Shell.SH, Shell.ZSH, Shell.FISH])
@given(value=values)
@settings(max_examples=15, deadline=None)
def test_what_a_shell_reads_is_what_was_meant(shell: Shell, value: str) -> None:
    program = shutil.which(shell.value)
    if program is None:
        pytest.skip(f"no {shell.value} here")
    script = exports({"VALUE": value}, shell=shell) + '\nprintf %s "$VALUE"'
    assert run([program, "-c", script], capture_output=True, check=True).stdout == value.encode()
