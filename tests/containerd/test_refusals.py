"""A containerd that can't run a sandbox says why in its own words, and users learn in ours what to do about it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.errors import ContainerdError, KataDindError
from kata_dind.sandbox.api import list_sandboxes
from scripts import build_dind29
from tests import requirements
from tests.containerd.sandboxes import HANDLER, Sandboxes, wait_until
from tests.kube.node import Host, start_host
from tests.kube.pod_images import PAUSE

pytestmark = pytest.mark.requires("containerd")

_NUMBERS = itertools.count()
_BROKEN_HANDLERS = """
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.no-shim]
      runtime_type = "io.containerd.kata-absent.v2"
      privileged_without_host_devices = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.no-program]
      runtime_type = "io.containerd.runc.v2"
      privileged_without_host_devices = true
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.no-program.options]
        BinaryName = "/absent/runc"
"""


@pytest.fixture(scope="module", params=["the distribution's", "newer"])
def broken(request: pytest.FixtureRequest, private_directories: Path) -> Iterator[Host]:
    """A host whose handlers lack their programs."""
    programs = None
    if request.param == "newer" and (programs := build_dind29.find_programs()) is None:
        requirements.refuse(request.config, "docker29", "it has not been built (python -m scripts.build_dind29)")
    directory = private_directories / f"broken-{request.param[:3]}"
    directory.mkdir(mode=0o711)
    with start_host(directory, programs=programs, handlers=_BROKEN_HANDLERS) as host, host.namespaces.entered_network():
        yield host


def run_pod(containerd: Containerd, handler: str = HANDLER, *, uid: str = "") -> str:
    uid = uid or str(next(_NUMBERS))  # one that can't be ended keeps its name
    config = {"metadata": {"name": "demo", "uid": uid, "namespace": "tests"}}
    answer = containerd.call("RuntimeService/RunPodSandbox", failing="the pod could not be started",
                             timeout_seconds=60, runtime_handler=handler, config=config)  # fmt: skip
    return str(answer.pod_sandbox_id)


def end_all(containerd: Containerd) -> None:
    """End all pods, once containerd has its network again."""
    wait_until(lambda: _ended_all(containerd))


def _ended_all(containerd: Containerd) -> bool:
    try:
        for pod in containerd.call("RuntimeService/ListPodSandbox", failing="no").items:
            for call in ("StopPodSandbox", "RemovePodSandbox"):
                containerd.call(f"RuntimeService/{call}", failing="no", pod_sandbox_id=pod.id, timeout_seconds=60)
    except KataDindError:
        return False
    return True


def refused(containerd: Containerd, handler: str = HANDLER, *, uid: str = "") -> KataDindError:
    with pytest.raises(ContainerdError) as caught:
        run_pod(containerd, handler, uid=uid)
    assert caught.value.details.startswith("the pod could not be started: ")
    assert caught.value.hint
    return caught.value


def test_a_handler_without_its_program_is_told_by_its_name(broken: Host) -> None:
    with connected(broken.address) as containerd:
        no_shim, no_program = (refused(containerd, name) for name in ("no-shim", "no-program"))
    assert (no_shim.id, no_program.id) == ("containerd.no-shim", "containerd.no-runtime-program")
    assert "containerd-shim-kata-absent-v2" in no_shim.summary
    assert "/absent/runc" in no_program.summary


def test_a_network_without_its_plugin_or_its_configuration_is_told(broken: Host) -> None:
    file = broken.directory / "cni" / "10-pods.conflist"
    whole = file.read_text()
    with connected(broken.address) as containerd:
        try:
            file.write_text(whole.replace('"bridge"', '"no-such-plugin"', 1))
            wait_until(lambda: refused(containerd).id == "containerd.no-cni-plugin")
            assert "no-such-plugin" in refused(containerd).summary
            file.unlink()
            wait_until(lambda: refused(containerd).id == "containerd.no-cni")
        finally:
            file.write_text(whole)
            end_all(containerd)


def test_a_start_that_goes_on_somewhere_keeps_the_name(broken: Host) -> None:
    with connected(broken.address) as containerd:
        wait_until(lambda: _runs_again(containerd))
        assert refused(containerd, uid="twice").id == "containerd.name-reserved"
        end_all(containerd)


def _runs_again(containerd: Containerd) -> bool:
    try:
        return bool(run_pod(containerd, uid="twice"))
    except KataDindError:  # until containerd has read the network's configuration again
        return False


def test_a_host_without_the_pause_image_is_told(broken: Host) -> None:
    broken.succeed(*broken.ctr("images", "remove", PAUSE))
    with connected(broken.address) as containerd:
        wait_until(lambda: refused(containerd).id == "containerd.no-pause-image")
        assert PAUSE in refused(containerd).summary


@pytest.mark.requires("mmdebstrap")
def test_what_can_not_be_run_is_told_with_containerds_id(sandboxes: Sandboxes) -> None:
    """An image without a shell can't even be begun with."""
    with pytest.raises(KataDindError) as caught:
        sandboxes.up(image=PAUSE)
    assert caught.value.id == "containerd.image-without-shell"
    assert caught.value.summary == "the image has no /bin/sh, in which the guest entrypoint runs"
    assert "docker:dind" in caught.value.hint
    assert list_sandboxes() == []
