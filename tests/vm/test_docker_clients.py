"""Unmodified Docker clients of the host, pointed at a sandbox: Docker's own CLI and docker-py."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from docker.utils.socket import frames_iter

from tests.vm.conftest import SharedPaths
from tests.vm.driver import COMMAND_SECONDS, SandboxDriver, wait_until

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

_DOCKERFILE = """\
FROM kata-dind/hello
COPY greeting /greeting
RUN cat /greeting /greeting >/twice && rm /greeting
CMD ["cat", "/twice"]
"""


@pytest.fixture
def sleeper(client: docker.DockerClient, hello: str) -> Iterator[Container]:
    container = client.containers.run(hello, ["sleep", "100000"], detach=True)
    try:
        yield container
    finally:
        container.remove(force=True)


# --- the CLI


@pytest.mark.requires("docker-cli")
class TestCli:
    def run(self, sandbox: SandboxDriver, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        # buildx would fetch its builder from a registry; the daemon's own is the one that needs none.
        environment = {**os.environ, "DOCKER_HOST": sandbox.docker_host, "DOCKER_BUILDKIT": "0"}
        return subprocess.run(
            ["docker", *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=COMMAND_SECONDS,
        )

    @pytest.mark.thorough
    def test_it_builds_an_image_and_runs_it(self, sandbox: SandboxDriver, hello: str, tmp_path: Path) -> None:
        (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
        (tmp_path / "greeting").write_text("hello, build\n")
        built = self.run(sandbox, "build", "--tag", "built-by-cli", str(tmp_path))
        assert built.returncode == 0, built.stderr
        done = self.run(sandbox, "run", "--rm", "built-by-cli")
        assert (done.returncode, done.stdout) == (0, "hello, build\n" * 2), done.stderr
        assert self.run(sandbox, "image", "rm", "built-by-cli").returncode == 0

    @pytest.mark.thorough
    def test_it_half_closes_what_it_runs(self, sandbox: SandboxDriver, hello: str) -> None:
        done = self.run(sandbox, "run", "--rm", "-i", hello, "sh", "-c", "wc -l; echo late; exit 5", input="a\nb\n")
        assert (done.returncode, done.stdout.split()) == (5, ["2", "late"]), done.stderr

    def test_it_copies_files_both_ways(self, sandbox: SandboxDriver, sleeper: Container, tmp_path: Path) -> None:
        (tmp_path / "there").write_bytes(os.urandom(100_000))
        assert self.run(sandbox, "cp", str(tmp_path / "there"), f"{sleeper.name}:/file").returncode == 0
        assert self.run(sandbox, "cp", f"{sleeper.name}:/file", str(tmp_path / "back")).returncode == 0
        assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()

    def test_it_binds_a_directory_that_has_one_path_on_both_sides(
        self, sandbox: SandboxDriver, hello: str, shared_paths: SharedPaths
    ) -> None:
        (shared_paths.same / "source").write_text("from the host\n")
        bind = f"{shared_paths.same}:/app"
        done = self.run(sandbox, "run", "--rm", "-v", bind, hello, "sh", "-c", "cat /app/source >/app/product")
        assert done.returncode == 0, done.stderr
        assert (shared_paths.same / "product").read_text() == "from the host\n"


# --- docker-py


def test_docker_py_builds_and_runs(client: docker.DockerClient) -> None:
    dockerfile = 'FROM kata-dind/hello\nENV WORD=built\nCMD ["sh", "-c", "echo $WORD"]\n'
    image, _ = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag="built-by-docker-py", rm=True)
    try:
        assert client.containers.run("built-by-docker-py", remove=True) == b"built\n"
    finally:
        client.images.remove(image.id, force=True)


def test_docker_py_runs_commands_in_a_container(sleeper: Container) -> None:
    code, (out, err) = sleeper.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"out\n", b"err\n")


def test_a_failed_run_says_so(client: docker.DockerClient, hello: str) -> None:
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run(hello, ["sh", "-c", "echo reason >&2; exit 3"], remove=True)
    assert failed.value.exit_status == 3
    assert failed.value.stderr == b"reason\n"


def test_attach_half_closes_stdin_and_hears_what_comes_after(client: docker.DockerClient, hello: str) -> None:
    container = client.containers.create(hello, ["sh", "-c", "wc -c; echo late"], stdin_open=True)
    try:
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        with attached._sock as connected:  # what docker-py gives out cannot half-close
            connected.sendall(b"x" * 100_000)
            connected.shutdown(socket.SHUT_WR)
            output = b"".join(data for _, data in frames_iter(attached, tty=False))
        attached.close()
        assert output == b"100000\nlate\n"
        assert container.wait()["StatusCode"] == 0
    finally:
        container.remove(force=True)


@pytest.mark.thorough
def test_logs_follow_a_container_to_its_end(client: docker.DockerClient, hello: str) -> None:
    script = "for word in one two three; do echo $word; sleep 0.3; done"
    container = client.containers.run(hello, ["sh", "-c", script], detach=True)
    try:
        assert b"".join(container.logs(stream=True, follow=True)) == b"one\ntwo\nthree\n"
    finally:
        container.remove(force=True)


@pytest.mark.thorough
def test_events_stream_while_other_calls_are_made(client: docker.DockerClient, hello: str) -> None:
    events = client.events(decode=True, filters={"type": "container", "event": ["create", "die", "destroy"]})
    seen: list[str] = []

    def listen() -> None:
        seen.extend(event["Action"] for event in events)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        client.containers.run(hello, ["true"], remove=True)
        wait_until(lambda: len(seen) == 3, what="three events")
    finally:
        events.close()
        listener.join(COMMAND_SECONDS)
    assert seen == ["create", "die", "destroy"]


@pytest.mark.thorough
def test_a_container_reaches_another_by_name(client: docker.DockerClient, hello: str) -> None:
    network = client.networks.create("inside")
    # Containers that share a network's own resolver and bridge: netfilter and bridge modules work in the guest.
    serve = ["busybox", "httpd", "-f", "-p", "80", "-h", "/bin"]
    server = client.containers.run(hello, serve, detach=True, network="inside", name="server")
    try:
        fetch = ["busybox", "wget", "-q", "-O", "/dev/null", "http://server/cat"]
        client.containers.run(hello, fetch, network="inside", remove=True)
    finally:
        server.remove(force=True)
        network.remove()
