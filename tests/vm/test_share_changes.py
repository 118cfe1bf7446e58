"""Shares that come and go while a sandbox runs, binds that are refused, and shares that are saved and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from kata_dind.sandbox.api import list_sandboxes
from scripts import build_rootless
from tests.vm.driver import START_SECONDS, SandboxDriver, kata_dind, succeed

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

NAME = "changing"
SHELL = "/bin/busybox"
LOOP = "while :; do /bin/busybox cat /app/file /app/volume/kept; /bin/busybox sleep 0.3; done"


@pytest.fixture
def clone(small_seed: str) -> Iterator[SandboxDriver]:
    """A clone without shares."""
    with dropped(NAME):
        succeed("up", NAME, "--seed", small_seed)
        yield SandboxDriver(NAME)


@contextlib.contextmanager
def dropped(name: str) -> Iterator[None]:
    """Remove a sandbox in the end."""
    try:
        yield
    finally:
        if name in [summary.name for summary in list_sandboxes()]:
            succeed("rm", "--force", name)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    (shared / "volume").mkdir(parents=True)
    (shared / "file").write_text("first\n")
    return shared


def connected(clone: SandboxDriver) -> docker.DockerClient:
    return docker.DockerClient(base_url=clone.docker_host, timeout=int(START_SECONDS))


def run(client: docker.DockerClient, command: str, *binds: str, **more: Any) -> Any:
    return client.containers.run(
        "kata-dind/hello", ["sh", "-c", command], entrypoint=SHELL, volumes=list(binds), remove=not more, **more
    )


def last_lines(clone: SandboxDriver, container: str, count: int) -> list[str]:
    return clone.succeed(f"docker logs --tail {count} {container}").splitlines()


def test_a_share_comes_while_containers_run_and_is_saved_with_them(clone: SandboxDriver, shared: Path) -> None:
    client = connected(clone)
    with pytest.raises(docker.errors.APIError) as refused:
        run(client, "true", f"{shared}:/app")
    assert refused.value.explanation.endswith(f"run: kata-dind share add {NAME} {shared}")
    run(client, "i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done", detach=True, name="counter")
    client.close()

    told = kata_dind("share", "add", NAME, str(shared))
    assert told.returncode == 0, told.stderr
    assert "its containers run on" in told.stderr
    client = connected(clone)
    assert run(client, "cat /app/file", f"{shared}:/app") == b"first\n"

    # The second one needs no resume.
    (other := shared.parent / "other").mkdir()
    (note := shared.parent / "a note").write_text("note\n")
    succeed("share", "add", NAME, str(other), f"{note}:/mnt/note:ro")
    assert run(client, "echo written >/other/file; cat /note", f"{other}:/other", "/mnt/note:/note") == b"note\n"
    assert (other / "file").read_text() == "written\n"
    listed = json.loads(succeed("share", "ls", NAME, "--json"))
    assert [share["guest_path"] for share in listed] == [str(shared), str(other), "/mnt/note"]

    run(client, f"echo kept >/app/volume/kept; {LOOP}", f"{shared}:/app", "/app/volume", detach=True, name="dev")
    clone.wait_until_succeeds("docker logs dev | grep kept")
    in_use = kata_dind("share", "rm", NAME, str(shared))
    assert (in_use.returncode, "it is in use by" in in_use.stderr) == (4, True), in_use.stderr
    succeed("share", "rm", NAME, str(other))
    clone.fail(f"ls {other}/file")

    # What is open on a share can't be saved, and nothing has happened to it.
    run(client, "/bin/busybox sleep 1000", f"{shared}:/app", detach=True, name="busy", working_dir="/app")
    busy = kata_dind("stop", "--save", NAME)
    assert (busy.returncode, "files are open on a share: busybox" in busy.stderr) == (4, True), busy.stderr
    clone.succeed("docker exec busy /bin/busybox cat file", "docker rm -f busy")
    client.close()

    for word in ("second", "third"):
        succeed("stop", "--save", NAME)
        (shared / "file").write_text(f"{word}\n")
        told = kata_dind("start", NAME)
        assert "the machine has resumed from its saved state" in told.stderr, told.stderr
        clone.wait_until_succeeds(f"docker logs --tail 2 dev | grep {word}")
        assert sorted(last_lines(clone, "dev", 2)) == sorted([word, "kept"])
    numbers = [int(line) for line in clone.succeed("docker logs counter").splitlines()]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert not (shared / "volume" / "kept").exists()


def test_shares_come_and_go_where_the_guest_has_booted_with_one(shared: Path, tmp_path: Path) -> None:
    (note := tmp_path / "note").write_text("a note\n")
    (tmp_path / "link").symlink_to("note")
    (others := tmp_path / "others").mkdir()
    with dropped("booted"):
        succeed("up", "booted", "--cold", "--memory", "768M", "--network", "none", "--share", str(shared))
        booted = SandboxDriver("booted")
        succeed("share", "add", "booted", str(others), str(note), str(tmp_path / "link"), f"{note}:/etc/passwd:ro")
        places = [str(note), str(tmp_path / "link"), "/etc/passwd"]
        assert booted.succeed(f"cat {' '.join(places)}") == "a note\n" * 3
        booted.succeed(f"echo theirs >{others}/file", f"grep first {shared}/file")
        assert (others / "file").read_text() == "theirs\n"
        succeed("share", "rm", "booted", str(shared), *places)
        assert json.loads(succeed("share", "ls", "booted", "--json"))[0]["guest_path"] == str(others)
        booted.succeed("grep root: /etc/passwd", f"! grep note {note}", f"! ls {shared}/file", f"cat {others}/file")


@pytest.mark.thorough
def test_what_a_booted_sandbox_gets_and_what_it_is_refused(
    sandbox: SandboxDriver, hello: str, client: docker.DockerClient, tmp_path: Path
) -> None:
    (later := tmp_path / "later").mkdir()
    succeed("share", "add", sandbox.name, str(later))
    assert run(client, "echo here >/x/file; echo done", f"{later}:/x") == b"done\n"
    assert (later / "file").read_text() == "here\n"
    (later / "link").symlink_to("/no/where")
    with pytest.raises(docker.errors.APIError, match="leads to /no/where"):
        run(client, "true", f"{later}/link:/x")
    with pytest.raises(docker.errors.APIError, match="exists neither"):
        client.volumes.create("typo", driver_opts={"type": "none", "o": "bind", "device": str(tmp_path / "typo")})
    # Only the sandbox has this one.
    sandbox.succeed("mkdir -p /srv/of-the-guest")
    assert run(client, "echo ok", "/srv/of-the-guest:/x", "/var/run/docker.sock:/docker.sock") == b"ok\n"
    succeed("share", "rm", sandbox.name, str(later))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, why in (("socket", "neither a directory nor a file"), ("none", "does not exist")):
            told = kata_dind("share", "add", sandbox.name, str(tmp_path / path))
            assert (told.returncode, why in told.stderr) == (2, True), told.stderr
    os.symlink("loop", tmp_path / "loop")  # noqa: PTH211 - to itself
    told = kata_dind("share", "add", sandbox.name, str(tmp_path / "loop"))
    assert (told.returncode, "symbolic links" in told.stderr) == (2, True), told.stderr


@pytest.mark.thorough
def test_a_rootless_docker_gets_shares_while_it_runs(shared: Path) -> None:
    shared.chmod(0o777)
    build_rootless.require_rootless("20.10")
    with dropped("rootless"):
        succeed("up", "rootless", "--image", "dind:20.10-rootless", "--network", "none")
        rootless = SandboxDriver("rootless")
        succeed("docker", "rootless", "--", "image", "inspect", "kata-dind/hello")
        succeed("share", "add", "rootless", str(shared))
        client = connected(rootless)
        assert run(client, "cat /app/file; echo theirs >/app/new", f"{shared}:/app") == b"first\n"
        assert ((shared / "new").read_text(), (shared / "new").stat().st_uid) == ("theirs\n", 1000)
        run(client, "/bin/busybox sleep 1000", f"{shared}:/app", detach=True, name="busy")
        in_use = kata_dind("share", "rm", "rootless", str(shared))
        assert (in_use.returncode, "it is in use by busybox" in in_use.stderr) == (4, True), in_use.stderr
        rootless.succeed("docker rm -f busy")
        succeed("share", "rm", "rootless", str(shared))
        with pytest.raises(docker.errors.APIError, match="is not shared with"):
            run(client, "true", f"{shared}:/app")
        client.close()
