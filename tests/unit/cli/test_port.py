from __future__ import annotations

import json
from typing import Any

import pytest

from kata_dind.cli.ls import short_ports
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes

WEB = {"protocol": "tcp", "port": 8080, "container_port": 80, "addresses": ["127.0.0.1", "::1", "127.64.0.1"],
       "shared": True, "warnings": []}  # fmt: skip
DNS = {"protocol": "udp", "port": 53, "container_port": 53, "addresses": ["127.64.0.1"], "shared": False,
       "warnings": ["port 53/udp of 127.0.0.1 belongs to the sandbox 'a'"]}  # fmt: skip


@pytest.fixture
def ports(sandboxes: FakeSandboxes) -> list[dict[str, Any]]:
    sandbox = sandboxes.add("default")
    sandbox.fake_ports = [WEB, DNS]
    return sandbox.fake_ports


@pytest.mark.usefixtures("ports")
def test_all_ports_with_what_is_wrong_with_them(cli: CommandLine) -> None:
    shown = cli("port")
    assert shown.stdout.splitlines() == [
        "8080/tcp -> 127.0.0.1:8080",
        "8080/tcp -> [::1]:8080",
        "8080/tcp -> 127.64.0.1:8080",
        "53/udp -> 127.64.0.1:53",
    ]
    assert shown.stderr == "kata-dind: default: port 53/udp of 127.0.0.1 belongs to the sandbox 'a'\n"
    assert json.loads(cli("port", "--json").stdout) == [WEB, DNS]


@pytest.mark.usefixtures("ports")
def test_one_port(cli: CommandLine) -> None:
    assert cli("port", "default", "8080").stdout == "127.0.0.1:8080\n[::1]:8080\n127.64.0.1:8080\n"
    assert cli("port", "default", "53/udp").stdout == "127.64.0.1:53\n"
    absent = cli("port", "default", "53/tcp")
    assert (absent.exit_code, absent.stderr) == (
        2,
        "kata-dind: no container of 'default' publishes the port 53/tcp\nhint: kata-dind port default\n",
    )


@pytest.mark.usefixtures("ports")
@pytest.mark.parametrize("word", ["0", "65536", "web", "80/sctp", "80/", "-80", "8 0", "٨٠"])
def test_what_is_no_port_is_refused(cli: CommandLine, word: str) -> None:
    refused = cli("port", "default", "--", word)
    assert refused.exit_code == 2
    assert f"PORT: {word!r} is not a port; use a number up to 65535, like 8080 or 53/udp" in refused.stderr


def test_a_sandbox_that_does_not_run_has_none(cli: CommandLine, sandboxes: FakeSandboxes) -> None:
    sandboxes.add("demo").fake_state = "stopped"
    assert cli("port", "demo").stderr == "kata-dind: the sandbox 'demo' is stopped\nhint: kata-dind start demo\n"


def test_the_column_of_ls() -> None:
    assert short_ports([WEB, DNS]) == "8080, 127.64.0.1:53/udp"
    assert short_ports([WEB] * 5) == "8080, 8080, 8080, 8080, …"
    assert short_ports([]) == ""
