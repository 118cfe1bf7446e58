"""What containerd's refusals mean."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kata_dind.backend.containerd.failures import explained, explained_pull, explained_socket
from kata_dind.errors import ContainerdError, ImageError, KataDindError, NoSpace, PermissionMissing

SOCKET = Path("/run/containerd/containerd.sock")


@pytest.mark.parametrize(
    ("code", "text", "id", "summary"),
    [
        (
            "UNKNOWN",
            'failed to get sandbox runtime: no runtime for "kata-x" is configured',
            "containerd.unknown-handler",
            "containerd has no runtime handler kata-x",
        ),
        (
            "UNKNOWN",
            'failed to get sandbox image "registry.k8s.io/pause:3.6": failed to pull image',
            "containerd.no-pause-image",
            "containerd lacks the image registry.k8s.io/pause:3.6, in which every pod begins, and could not pull it",
        ),
        (
            "UNKNOWN",
            'failed to pull image "pause:1": failed to pull and unpack image "pause:1": network is unreachable',
            "containerd.no-pause-image",
            "containerd lacks the image pause:1, in which every pod begins, and could not pull it",
        ),
        (
            "UNKNOWN",
            "failed to setup network for sandbox: cni plugin not initialized",
            "containerd.no-cni",
            "containerd has no network for pods",
        ),
        (
            "UNKNOWN",
            'failed to setup network for sandbox "x": plugin type="bridge" failed (add): no IP addresses available',
            "containerd.network-failed",
            "the pod's network could not be made by CNI",
        ),
        (
            "UNIMPLEMENTED",
            "unknown service runtime.v1.RuntimeService",
            "containerd.no-cri",
            "this containerd has no CRI, by which kata-dind makes pods",
        ),
        (
            "UNKNOWN",
            'failed to start shim: exec: "containerd-shim-kata-v2": executable file not found in $PATH',
            "containerd.no-shim",
            "containerd can't find containerd-shim-kata-v2, the program of this handler",
        ),
        (
            "UNKNOWN",
            'failed to resolve runtime path: runtime "io.containerd.kata.v2" binary not installed '
            '"containerd-shim-kata-v2": file does not exist: unknown',
            "containerd.no-shim",
            "containerd can't find containerd-shim-kata-v2, the program of this handler",
        ),
        (
            "UNKNOWN",
            "failed to start shim: fork/exec /usr/bin/containerd-shim-kata-v2: no such file or directory",
            "containerd.no-shim",
            "containerd can't find /usr/bin/containerd-shim-kata-v2, the program of this handler",
        ),
        (
            "UNKNOWN",
            'failed to setup network for sandbox "x": plugin type="bridge" failed (add): '
            'failed to find plugin "bridge" in path [/opt/cni/bin]',
            "containerd.no-cni-plugin",
            "the plugin bridge, which this host's network for pods names, is not in /opt/cni/bin",
        ),
        (
            "UNKNOWN",
            "CreateContainer failed: annotation io.katacontainers.config.hypervisor.kernel is not enabled: unknown",
            "containerd.annotation-refused",
            "the handler does not obey the annotation kernel, which the sandbox needs",
        ),
        (
            "UNKNOWN",
            "failed to create shim task: failed to hotplug block device &{File:/dev/loop0}: QMP command failed",
            "containerd.device-refused",
            "the virtual machine did not take a device, processors or memory that the sandbox needs",
        ),
        (
            "INTERNAL",
            "failed to create containerd task: failed to create shim task: online cpus\n\nCaused by:\n"
            "    failed to online 2 CPU(s) after 100 retries",
            "containerd.device-refused",
            "the virtual machine did not take a device, processors or memory that the sandbox needs",
        ),
        (
            "UNKNOWN",
            "failed to launch qemu: exit status 1, error messages from qemu log: Could not access KVM kernel module: "
            "No such file or directory",
            "containerd.no-kvm",
            "Kata can't use KVM on this host",
        ),
        (
            "UNKNOWN",
            "failed to create shim task: open /dev/vhost-vsock: no such file or directory",
            "containerd.no-vsock",
            "Kata can't reach its machines on this host, for want of /dev/vhost-vsock",
        ),
        (
            "UNKNOWN",
            'failed to reserve sandbox name "demo_kata-dind_1_0": name "demo_kata-dind_1_0" is reserved for "5b80"',
            "containerd.name-reserved",
            "containerd has not ended an earlier start of this sandbox yet, which was broken off",
        ),
        (
            "UNAVAILABLE",
            "connection attempt timed out before receiving SETTINGS frame",
            "containerd.not-containerd",
            f"what listens at {SOCKET} is not a containerd",
        ),
        (
            "UNKNOWN",  # of Kata 4.1.0, its Go runtime
            "failed to create containerd task: failed to create shim task: Unix syslog delivery error",
            "containerd.no-syslog",
            "Kata's shim found no system log on this host, without which it does not start",
        ),
        (
            "UNKNOWN",  # of Kata 4.1.0, its Go runtime
            "failed to create containerd task: failed to create shim task: Failed to Check if grpc server is working: "
            "rpc error: code = DeadlineExceeded desc = timed out connecting to vsock 2042425423:1024: unknown",
            "containerd.agent-silent",
            "the virtual machine runs, and Kata's agent in it did not answer in time",
        ),
        ("DEADLINE_EXCEEDED", "", "containerd.timed-out", "it failed: containerd did not answer in time"),
        ("UNAVAILABLE", "", "containerd.hung-up", f"it failed: containerd at {SOCKET} hung up"),
        ("NOT_FOUND", "not found", "containerd.not-found", "it failed: containerd does not know it"),
        ("UNKNOWN", "something else", "containerd.failed", "it failed"),
    ],
)
def test_a_call_that_fails(code: str, text: str, id: str, summary: str) -> None:
    error = explained(code, text, failing="it failed", address=SOCKET)
    assert (type(error), error.id, error.summary) == (ContainerdError, id, summary)
    assert text in error.details


@pytest.mark.parametrize(
    ("text", "error", "id"),
    [
        ("write /var/lib/containerd/x: no space left on device", NoSpace, "containerd.no-space"),
        ('failed to get sandbox image "pause": no space left on device', NoSpace, "containerd.no-space"),
        ("rpc error: code = Internal desc = the file /bin/sh was not found", ImageError,
         "containerd.image-without-shell"),
    ],
)  # fmt: skip
def test_a_cause_that_is_not_containerds_has_a_class_of_its_own(text: str, error: type[KataDindError], id: str) -> None:
    found = explained("UNKNOWN", text, failing="it failed", address=SOCKET)
    assert (type(found), found.id) == (error, id)
    assert found.hint


def test_each_has_a_way_out() -> None:
    assert explained("UNKNOWN", "something else", failing="it failed", address=SOCKET).hint


def test_a_pull_that_fails_tells_who_was_refused() -> None:
    refused = explained("UNKNOWN", "pull access denied, authorization failed", failing="no", address=SOCKET)
    error = explained_pull(refused, "docker:dind")
    assert (type(error), error.id) == (ImageError, "containerd.pull-failed")
    assert "docker login" in error.hint
    hung_up = explained("UNAVAILABLE", "", failing="no", address=SOCKET)
    assert explained_pull(hung_up, "docker:dind") is hung_up


def test_a_socket_that_is_not_ours_asks_for_root() -> None:
    assert isinstance(explained_socket(PermissionError(errno.EACCES, "no"), SOCKET), PermissionMissing)
    assert explained_socket(FileNotFoundError(errno.ENOENT, "no"), SOCKET).id == "containerd.no-socket"


def test_a_path_that_is_too_long_is_told() -> None:
    error = explained_socket(OSError("AF_UNIX path too long"), Path("/x" * 100))
    assert (error.id, "its path is too long" in error.summary) == ("containerd.no-socket", True)
