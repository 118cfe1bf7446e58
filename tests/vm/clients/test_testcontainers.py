"""testcontainers for Python and for Node, with its reaper and without, set up by `kata-dind env` alone.

The reaper, Ryuk, is the stand-in of tests/vm/clients/reaper; it is asked for by the name of the real one, its port is
published as any other, and it gets the Docker socket of the sandbox by a bind.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.vm.clients.places import HERE, Place, own
from tests.vm.driver import wait_until

pytestmark = [pytest.mark.requires("qemu", "virtiofsd", "mmdebstrap", "docker-cli", "compose", "ordinary-user")]

QUICKLY = {"RYUK_RECONNECTION_TIMEOUT": "2s", "TESTCONTAINERS_RYUK_RECONNECTION_TIMEOUT": "2s"}
"""Else the reaper waits for ten seconds; the names of Python's library and of Node's."""


def names(place: Place, sandbox: str) -> list[str]:
    return place.succeed("docker", "ps", "--all", "--format", "{{.Names}}", sandbox=sandbox).split()


def check(place: Place, sandbox: str, project: Path, *argv: str) -> None:
    """Run a suite as its user would: it cleans up itself, or its reaper does, or nobody does."""

    def run(*more: str, **environment: str) -> dict[str, Any]:
        told = place.succeed(*argv, *more, cwd=project, sandbox=sandbox, **environment)
        return dict(json.loads(told.splitlines()[-1]))

    address = place.address_of(sandbox)
    ended = run(**QUICKLY)
    assert {(host, value) for host, _, value in ended["seen"].values()} == {(address, "33554432")}
    assert len({port for _, port, _ in ended["seen"].values()}) == 2
    wait_until(lambda: names(place, sandbox) == [], what="the reaper has ended")

    left = run("leave", **QUICKLY)
    assert len(left["containers"]) == 2
    wait_until(lambda: names(place, sandbox) == [], what="the reaper has removed what was left")

    without = run("leave", TESTCONTAINERS_RYUK_DISABLED="true")
    assert not [name for name in names(place, sandbox) if "ryuk" in name]
    assert place.succeed("docker", "rm", "--force", *without["containers"], sandbox=sandbox).split() == [
        *without["containers"]
    ]


def test_testcontainers_for_python(place: Place) -> None:
    project = place.copy(HERE / "python", "python-suite")
    with place.clone("python", "--share", ".", cwd=project) as sandbox:
        check(place, sandbox, project, place.python, "suite.py")


@pytest.mark.requires("npm")
def test_testcontainers_for_node(place: Place, node_modules: Path) -> None:
    project = place.home / "node-suite"
    project.mkdir()
    shutil.copyfile(HERE / "node" / "suite.mjs", project / "suite.mjs")
    (project / "node_modules").symlink_to(node_modules / "node_modules")
    own(project, place.uid)
    with place.clone("node", "--share", ".", cwd=project) as sandbox:
        check(place, sandbox, project, "node", "suite.mjs")
