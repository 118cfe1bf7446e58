"""The one channel under load: fifty streams at once, half-closed input, an image as large as the guest's memory."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.vm.driver import SandboxDriver
from tests.vm.streams import STDERR, STDOUT, DockerStream, open_stream

pytestmark = pytest.mark.requires("qemu", "virtiofsd")

SUPERVISOR_MIB = 60
"""What a supervisor may take at its worst."""

GROWTH_MIB = 8
"""What an image of any size may add on either side; the windows of fifty streams fit into it."""

_MIB = 1 << 20


@pytest.fixture
def cat(client: docker.DockerClient, hello: str) -> Iterator[Container]:
    """A container that gives back what it reads, whose input outlives those who attach to it."""
    api = client.api
    config = api.create_container_config(hello, ["cat"], stdin_open=True)
    # A log would be written by json for every byte that comes back, which takes an emulated guest its time.
    config |= {"StdinOnce": False, "HostConfig": api.create_host_config(log_config={"Type": "none"})}
    container = client.containers.get(api.create_container_from_config(config)["Id"])
    container.start()
    try:
        yield container
    finally:
        container.remove(force=True)


def test_fifty_streams_carry_data_both_ways(
    sandbox: SandboxDriver, client: docker.DockerClient, cat: Container
) -> None:
    endpoint, attached_count, block_bytes = sandbox.sandbox.endpoint, 40, 2048
    payloads = [os.urandom(100_000) for _ in range(10)]
    with ExitStack() as stack, ThreadPoolExecutor(50) as pool:
        attached = [stack.enter_context(open_attached(endpoint, cat)) for _ in range(attached_count)]
        executed = [stack.enter_context(open_executed(endpoint, client, cat)) for _ in payloads]
        for number, stream in enumerate(attached):
            stream.send(bytes([number]) * block_bytes)
        echoes = pool.map(lambda stream: stream.read(attached_count * block_bytes)[STDOUT], attached)
        answers = pool.map(_echo, executed, payloads)
        for echo in echoes:  # one input, so everybody hears everybody, in one order
            assert [echo.count(number) for number in range(attached_count)] == [block_bytes] * attached_count
        assert [*answers] == [{STDOUT: payload, STDERR: b"end\n"} for payload in payloads]


@pytest.mark.slow(minutes=3)
def test_fifty_commands_run_in_a_container_at_once(
    sandbox: SandboxDriver, client: docker.DockerClient, cat: Container
) -> None:
    payloads = [os.urandom(100_000) for _ in range(50)]
    with ExitStack() as stack, ThreadPoolExecutor(50) as pool:
        endpoint = sandbox.sandbox.endpoint
        streams = [stack.enter_context(open_executed(endpoint, client, cat)) for _ in payloads]
        assert [*pool.map(_echo, streams, payloads)] == [{STDOUT: payload, STDERR: b"end\n"} for payload in payloads]


def test_fifty_of_our_own_commands_run_at_once(sandbox: SandboxDriver) -> None:
    payloads = [os.urandom(100_000) for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        results = [*pool.map(lambda payload: sandbox.sandbox.run(["cat"], input=payload), payloads)]
    assert [result.stdout for result in results] == payloads


def test_an_unread_stream_does_not_hold_up_others(sandbox: SandboxDriver, client: docker.DockerClient) -> None:
    config = client.api.create_host_config(log_config={"Type": "none"})
    flood = client.api.create_container("kata-dind/hello", ["sh", "-c", "exec cat /dev/zero"], host_config=config)
    try:
        with open_stream(sandbox.sandbox.endpoint, f"/containers/{flood['Id']}/attach?stream=1&stdout=1"):
            client.api.start(flood)
            time.sleep(2)
            began = time.monotonic()
            assert sandbox.sandbox.run(["echo", "through"]).stdout == b"through\n"
            assert client.ping()
            assert time.monotonic() - began < 20
    finally:
        client.api.remove_container(flood, force=True)


@pytest.mark.parametrize(
    "size_mib",
    [
        pytest.param(128, marks=pytest.mark.thorough),
        pytest.param(1024, marks=[pytest.mark.slow(minutes=10), pytest.mark.timeout(1800)]),
    ],
)
def test_an_image_passes_through_with_flat_memory(
    sandbox: SandboxDriver, client: docker.DockerClient, size_mib: int
) -> None:
    before = _agent_peak_mib(sandbox)
    client.api.timeout = 1700
    (image,) = client.images.load(image_archive("big:latest", size_mib=size_mib))
    try:
        assert int(image.attrs["Size"]) >= size_mib * _MIB
        assert _peak_mib(Path(f"/proc/{sandbox.supervisor_pid}/status").read_text()) <= SUPERVISOR_MIB
        assert _agent_peak_mib(sandbox) - before <= GROWTH_MIB
    finally:
        client.images.remove("big:latest")


# --- streams


@contextmanager
def open_attached(endpoint: Path, container: Container) -> Iterator[DockerStream]:
    path = f"/containers/{container.id}/attach?stream=1&stdin=1&stdout=1"
    with open_stream(endpoint, path) as stream:
        yield stream


@contextmanager
def open_executed(endpoint: Path, client: docker.DockerClient, container: Container) -> Iterator[DockerStream]:
    command = ["sh", "-c", "cat; echo end >&2"]
    execution = client.api.exec_create(container.id, command, stdin=True)
    with open_stream(endpoint, f"/exec/{execution['Id']}/start", {"Detach": False, "Tty": False}) as stream:
        yield stream


def _echo(stream: DockerStream, payload: bytes) -> dict[int, bytes]:
    stream.send(payload)
    stream.half_close()
    return stream.read_to_end()


# --- a large image


def image_archive(reference: str, *, size_mib: int) -> Iterator[bytes]:
    """Give out a `docker save` archive of one layer with one file, without ever holding it."""
    digest = hashlib.sha256()
    for piece in _layer(size_mib):
        digest.update(piece)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    yield from _member("config.json", [json.dumps(config).encode()])
    yield from _member("manifest.json", [json.dumps(manifest).encode()])
    yield from _member("layer.tar", _layer(size_mib), size=sum(map(len, _layer(size_mib))))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _layer(size_mib: int) -> Iterator[bytes]:
    block = hashlib.shake_128(b"big").digest(_MIB)  # what does not compress
    yield from _member("file", (block for _ in range(size_mib)), size=size_mib * _MIB)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, pieces: Iterator[bytes] | Sequence[bytes], *, size: int = -1) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    member.size = size if size >= 0 else sum(map(len, pieces))
    yield member.tobuf()
    yield from pieces
    yield bytes(-member.size % tarfile.BLOCKSIZE)


# --- memory


def _agent_peak_mib(sandbox: SandboxDriver) -> float:
    return _peak_mib(sandbox.succeed("cat /proc/1/status", where="guest"))


def _peak_mib(status: str) -> float:
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
