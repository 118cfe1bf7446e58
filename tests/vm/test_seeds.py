"""Seeds with a name: what is in one is in each of its clones, and what a clone does is in none other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.image.archive import Layer, docker_archive
from kata_dind.sandbox.api import list_sandboxes
from kata_dind.store.seeds import list_seeds, require_seed
from tests.vm.driver import SandboxDriver, kata_dind, succeed

pytestmark = [pytest.mark.requires("qemu"), pytest.mark.thorough]


@pytest.fixture(autouse=True)
def removed_at_the_end(private_directories: object) -> Iterator[None]:
    kept = {seed.seed_id for seed in list_seeds()}
    yield
    if names := [summary.name for summary in list_sandboxes() if summary.name.startswith("clone-")]:
        succeed("rm", "--force", *names)
    if seeds := [seed.seed_id for seed in list_seeds() if seed.seed_id not in kept]:
        succeed("seed", "rm", *seeds)


def images(sandbox: SandboxDriver) -> list[str]:
    return sorted(sandbox.succeed("docker image ls --format '{{.Repository}}:{{.Tag}}'").split())


def inspect(name: str) -> dict[str, Any]:
    return dict(json.loads(succeed("seed", "inspect", name, "--json")))


def flip_a_byte(file: Path) -> None:
    """Change a file as a failing disk would: its size, time and inode stay."""
    status = file.stat()
    with file.open("r+b") as opened:
        byte = opened.read(1)[0]
        os.pwrite(opened.fileno(), bytes([byte ^ 1]), 0)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_seed_from_its_making_to_another_host_and_back(tmp_path: Path) -> None:
    archive = tmp_path / "one.tar"
    archive.write_bytes(docker_archive("one:1", [Layer(files={"a": b"b"})]))
    succeed("seed", "build", "web", "kata-dind/hello", "--from-archive", str(archive), "--memory", "1G")
    facts = inspect("web")
    assert (facts["images"], facts["fits"], facts["used_by"]) == (["kata-dind/hello:latest", "one:1"], True, [])
    assert facts["machine"]["memory_mib"] == 1024
    assert "web" in succeed("seed", "ls", "--quiet").split()
    assert "there is a seed 'web' already" in kata_dind("seed", "build", "web").stderr

    # Both clones have its images at once, and neither sees what the other loads.
    for name in ("clone-one", "clone-two"):
        succeed("up", name, "--seed", "web")
    one, two = SandboxDriver("clone-one"), SandboxDriver("clone-two")
    assert images(one) == images(two) == ["kata-dind/hello:latest", "one:1"]
    assert one.sandbox.inspect()["start"]["how"] == "restore"
    other = docker_archive("two:1", [Layer(files={"c": b"d"})])
    one.succeed("docker load", input=other)
    assert "two:1" in images(one)
    assert "two:1" not in images(two)

    refused = kata_dind("seed", "rm", "web")
    assert (refused.returncode, refused.stderr) == (
        2,
        "kata-dind: the seed 'web' is used by the sandboxes clone-one, clone-two\n"
        "hint: kata-dind rm clone-one clone-two\n",
    )
    assert inspect("web")["used_by"] == ["clone-one", "clone-two"]
    succeed("rm", "--force", "clone-two")

    file = str(tmp_path / "web.seed")
    succeed("seed", "export", "web", file)
    assert succeed("seed", "import", file, "copy") == "copy\n"
    assert succeed("seed", "verify", "web", "copy") == "web: ok\ncopy: ok\n"
    flip_a_byte(require_seed("web").directory / "memory")
    damaged = kata_dind("seed", "verify", "web", "copy")
    assert (damaged.returncode, damaged.stdout) == (3, "copy: ok\n")
    assert "the seed 'web' is damaged: the file memory has changed" in damaged.stderr

    succeed("up", "clone-three", "--seed", "copy")
    three = SandboxDriver("clone-three")
    assert images(three) == ["kata-dind/hello:latest", "one:1"]
    assert three.succeed("docker run --rm kata-dind/hello sh -c 'echo runs'") == "runs\n"


def test_a_sandbox_becomes_a_seed_with_all_that_it_holds(tmp_path: Path) -> None:
    succeed("up", "clone-one", "--memory", "1G")
    one = SandboxDriver("clone-one")
    one.succeed("echo kept > /etc/kept")
    one.succeed("docker load", input=docker_archive("one:1", [Layer(files={"a": b"b"})]))
    refused = kata_dind("seed", "build", "mine", "--from-sandbox", "clone-one")
    assert (refused.returncode, refused.stderr) == (
        2,
        "kata-dind: --from-sandbox: the sandbox 'clone-one' is running\nhint: kata-dind stop clone-one\n",
    )
    succeed("stop", "clone-one")

    failed = kata_dind("seed", "build", "mine", "registry.invalid/none:1", "--from-sandbox", "clone-one")
    assert failed.returncode == 4
    assert "the image 'registry.invalid/none:1' could not be pulled" in failed.stderr
    assert "mine" not in succeed("seed", "ls", "--quiet").split()

    succeed("seed", "build", "mine", "--from-sandbox", "clone-one")
    assert inspect("mine")["images"] == ["one:1"]
    succeed("rm", "clone-one")
    succeed("up", "clone-two", "--seed", "mine")
    two = SandboxDriver("clone-two")
    assert two.succeed("cat /etc/kept") == "kept\n"
    assert images(two) == ["one:1"]
