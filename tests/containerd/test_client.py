"""The border to containerd: its answers, and its refusals in our words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.errors import ContainerdError, KataDindError
from tests.kube.node import Host

pytestmark = pytest.mark.requires("containerd")


@pytest.fixture
def containerd(host: Host) -> Iterator[Containerd]:
    with connected(host.address) as containerd:
        yield containerd


def test_it_answers(containerd: Containerd) -> None:
    assert containerd.call("RuntimeService/Version", failing="no").runtime_name == "containerd"


def test_it_answers_in_an_event_loop_and_a_cancelled_task_ends_at_once(containerd: Containerd) -> None:
    async def scenario() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0001):
                await containerd.ask("RuntimeService/Status", failing="no")
        return str((await containerd.ask("RuntimeService/Version", failing="no")).runtime_name)

    assert asyncio.run(scenario()) == "containerd"


def test_a_handler_that_it_has_not_is_named(containerd: Containerd) -> None:
    config = {"metadata": {"name": "a", "uid": "b", "namespace": "c"}}
    with pytest.raises(ContainerdError, match="containerd has no runtime handler kata-x") as caught:
        containerd.call("RuntimeService/RunPodSandbox", failing="no", runtime_handler="kata-x", config=config)
    assert (caught.value.id, caught.value.hint) == (
        "containerd.unknown-handler", "kata-dind backends lists those that it has"
    )  # fmt: skip


def test_what_it_does_not_know_is_gone(containerd: Containerd) -> None:
    with pytest.raises(ContainerdError) as caught:
        containerd.call("RuntimeService/PodSandboxStatus", failing="it failed", pod_sandbox_id="no-such-pod")
    assert caught.value.id == "containerd.not-found"


def test_a_call_has_a_deadline(tmp_path: Path) -> None:
    address = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(address))
        silent.listen()
        with connected(address) as containerd, pytest.raises(ContainerdError) as caught:
            containerd.call("RuntimeService/Version", failing="it was not asked", timeout_seconds=0.3)
    assert caught.value.id == "containerd.timed-out"


@pytest.mark.parametrize("there", [False, True], ids=["no socket", "nobody listens"])
def test_a_socket_without_containerd_is_told(tmp_path: Path, there: bool) -> None:
    address = tmp_path / "absent.sock"
    if there:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(address))
    with pytest.raises(ContainerdError) as caught, connected(address):
        pass
    assert caught.value.id == "containerd.no-socket"


@pytest.mark.parametrize("directory", [False, True], ids=["a file", "a directory"])
def test_what_is_no_socket_is_told(tmp_path: Path, directory: bool) -> None:
    address = tmp_path / "other"
    address.mkdir() if directory else address.write_text("")
    with pytest.raises(ContainerdError, match="is not a socket") as caught, connected(address):
        pass
    assert caught.value.id == "containerd.no-socket"


def test_a_containerd_that_goes_away_is_told(tmp_path: Path) -> None:
    address = tmp_path / "passing.sock"
    with socket.socket(socket.AF_UNIX) as passing:
        passing.bind(str(address))
        passing.listen()
        containerd = Containerd(address)
    with pytest.raises(KataDindError) as caught:
        containerd.call("RuntimeService/Version", failing="no", timeout_seconds=5)
    containerd.close()
    assert caught.value.id == "containerd.no-socket"
