"""The guest entrypoint in a command: it runs there as it is, and is known again."""

from __future__ import annotations

import subprocess

import pytest

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy
from kata_dind.pod.wrapper import inline_command, is_intact, mounted_command, shows_data_root, wrapped_words
from kata_dind.vocabulary import DataRootKind
from tests.unit.pod.checks import SCRIPT, dind, mount, pod, repaired
from tests.unit.pod.test_patch import expand, variables

LONGEST_ARGUMENT = 128 * 1024
"""Linux's MAX_ARG_STRLEN: more than that in one word, and no process starts."""


@pytest.mark.parametrize("kind", DataRootKind)
def test_the_guest_entrypoint_runs_from_the_command(kind: DataRootKind) -> None:
    command = inline_command(entrypoint_for_pods(Copy(kind)), ["dockerd", "--host=unix:///run/docker.sock"])
    as_kubernetes_starts_it = [expand(word, variables({})) for word in command]
    assert all(len(word) < LONGEST_ARGUMENT for word in command)
    environment = {"PATH": "/usr/bin:/bin", "KATA_DIND_LOG": "$(id)", "KATA_DIND_STATUS_DIR": "/nonexistent"}
    if kind is DataRootKind.BLOCK:
        environment["KATA_DIND_DEVICE"] = "/dev/none"
    # It refuses the log level after all else that it reads from its words and its environment, and touches nothing.
    done = subprocess.run(
        as_kubernetes_starts_it, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 64, done.stderr
    assert "KATA_DIND_LOG is '$(id)'" in done.stderr


def test_a_wrapped_command_is_known_again() -> None:
    assert wrapped_words(inline_command(SCRIPT, ["tini", "--", "dockerd"])) == ["tini", "--", "dockerd"]
    assert wrapped_words(mounted_command(["dockerd"])) == ["dockerd"]


@pytest.mark.parametrize(
    "command",
    [
        None,
        "sh",
        [],
        ["dockerd"],
        ["/bin/sh", "-c", "exec dockerd", "kata-dind"],
        ["/bin/sh", "-c", "echo '# kata-dind 1 guest entrypoint, interface 1, '", "kata-dind", "dockerd"],
        ["/bin/sh", "-c", SCRIPT, "sh", "dockerd"],
        ["/bin/sh", "/opt/other/entrypoint.sh", "dockerd"],
    ],
)
def test_other_commands_are_not(command: object) -> None:
    assert wrapped_words(command) is None


def test_a_container_without_its_volume_is_not_intact() -> None:
    _, after = repaired(pod(dind()))
    container = after["spec"]["containers"][0]
    assert is_intact(after["spec"], container)
    assert not is_intact({**after["spec"], "volumes": []}, container)
    assert not is_intact(after["spec"], {**container, "volumeMounts": []})
    assert not is_intact(after["spec"], {**container, "command": ["dockerd"]})
    assert not is_intact(after["spec"], {**container, "volumeMounts": [mount("other", "/var/lib/kata-dind")]})


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["dockerd", "--data-root=/x"], True),
        (["dockerd", "--data-root", "/x"], True),
        (["-g", "/x"], True),
        (["-g=/x"], True),
        (["-g/x"], True),
        (["--group=x", "-gx", "--debug"], False),
        (["sh", "-c", "dockerd --data-root=/x"], False),
    ],
)
def test_a_data_root_shows_in_the_words_that_name_it(words: list[str], shown: bool) -> None:
    assert shows_data_root(words) is shown
