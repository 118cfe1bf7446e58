"""Pods of sandboxes on a containerd: found by their labels, and ended rung by rung; pods of others are not touched."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kata_dind.backend.containerd.client import CALL_SECONDS, Containerd
from kata_dind.backend.containerd.failures import is_gone
from kata_dind.backend.containerd.plan import IDENTITY
from kata_dind.errors import AbnormalShutdown, ContainerdError, KataDindError

logger = logging.getLogger(__name__)

POD_READY = 0
CONTAINER_CREATED, CONTAINER_RUNNING, CONTAINER_EXITED, CONTAINER_UNKNOWN = range(4)


@dataclass(frozen=True)
class StopSeconds:
    """How long each rung of a stop may take."""

    dockerd: float = 25.0
    """After TERM. dockerd itself gives its containers 15 s."""
    processes: float = 5.0
    """After the processes in the container were killed one by one."""
    pod: float = 20.0
    """For the pod, its network and its machine."""


# A container's SIGKILL reaches nobody under Kata once its processes stand in groups below its own (measured): they are
# killed from inside, all but the one that does so and the first, which then ends by itself or by the next rung.
_KILL_ALL = 'trap "" TERM; kill -TERM -1; sleep 1; kill -KILL -1'


@dataclass(frozen=True)
class FoundPod:
    """A pod of a sandbox."""

    pod_id: str
    is_ready: bool
    containers: tuple[tuple[str, int], ...]
    """Their ids and states."""

    @property
    def runs(self) -> bool:
        """Whether the sandbox runs in it, or is being started."""
        return self.is_ready and all(state != CONTAINER_EXITED for _, state in self.containers)

    @property
    def container_id(self) -> str:
        """The id of its container that runs; empty without one."""
        return next((found for found, state in self.containers if state == CONTAINER_RUNNING), "")


def find_pods(containerd: Containerd, identity: str, *, timeout_seconds: float = CALL_SECONDS) -> list[FoundPod]:
    """Return the pods of a sandbox: one, or those that a start has left that was cut off. Raises ContainerdError."""
    labels = {"label_selector": {IDENTITY: identity}}
    pods = containerd.call("RuntimeService/ListPodSandbox", filter=labels, timeout_seconds=timeout_seconds,
                           failing="the pods could not be listed")  # fmt: skip
    if not pods.items:
        return []
    containers = containerd.call("RuntimeService/ListContainers", filter=labels, timeout_seconds=timeout_seconds,
                                 failing="the containers could not be listed")  # fmt: skip
    return [
        FoundPod(
            pod.id,
            pod.state == POD_READY,
            tuple((each.id, each.state) for each in containers.containers if each.pod_sandbox_id == pod.id),
        )
        for pod in pods.items
    ]


def end_pods(
    containerd: Containerd, pods: Sequence[FoundPod], *, name: str, seconds: StopSeconds | None = None
) -> None:
    """End pods in order: dockerd by TERM, then the processes, then the pod with its network and its machine.

    Raises AbnormalShutdown when the guest had to be cut off, ContainerdError when a pod can't be ended.
    """
    seconds = seconds or StopSeconds()
    cut_off = False
    for pod in pods:
        for container_id, state in pod.containers:
            if state == CONTAINER_RUNNING:
                cut_off = not _end_container(containerd, container_id, seconds) or cut_off
        _remove_pod(containerd, pod.pod_id, name=name, seconds=seconds)
    if cut_off:
        raise AbnormalShutdown(
            f"dockerd in '{name}' did not stop by itself and was cut off; its data root is checked at the next start",
            id="containerd.cut-off",
        )


def _end_container(containerd: Containerd, container_id: str, seconds: StopSeconds) -> bool:
    """End a container; return whether dockerd went down by itself, which nobody can tell of one that is cut off."""
    began = time.monotonic()
    with _tolerated("dockerd did not stop by TERM"):
        _stop(containerd, container_id, grace=seconds.dockerd, deadline=seconds.dockerd + seconds.processes)
        # containerd answers as well when it has killed the container.
        return time.monotonic() - began < seconds.dockerd
    with _tolerated("the processes in the container could not be killed"):
        containerd.call("RuntimeService/ExecSync", failing="the processes could not be killed",
                        timeout_seconds=seconds.processes, container_id=container_id,
                        cmd=["sh", "-c", _KILL_ALL], timeout=int(seconds.processes))  # fmt: skip
    with _tolerated("the container did not end"):
        _stop(containerd, container_id, grace=0, deadline=seconds.processes)
    return False


def _stop(containerd: Containerd, container_id: str, *, grace: float, deadline: float) -> None:
    containerd.call("RuntimeService/StopContainer", failing="the container could not be stopped",
                    timeout_seconds=deadline, container_id=container_id, timeout=int(grace))  # fmt: skip


def _remove_pod(containerd: Containerd, pod_id: str, *, name: str, seconds: StopSeconds) -> None:
    failure: KataDindError | None = None
    for call in ("StopPodSandbox", "RemovePodSandbox"):
        try:
            containerd.call(f"RuntimeService/{call}", failing=f"the pod of '{name}' could not be ended",
                            timeout_seconds=seconds.pod, pod_sandbox_id=pod_id)  # fmt: skip
            failure = None
        except KataDindError as error:
            if is_gone(error):
                return
            failure = error
    if failure is not None:
        raise _not_ended(failure, pod_id, name=name) from failure


def _not_ended(failure: KataDindError, pod_id: str, *, name: str) -> ContainerdError:
    if failure.id == "containerd.timed-out":
        why = "its shim does not answer"
        hint = f"kill the process of containerd-shim that has `-id {pod_id}` among its words, and try again"
    else:
        why = "containerd can't tidy up after it"
        hint = "try the same again; if it stays so, restart containerd, which leaves other pods running"
    return ContainerdError(f"the pod of '{name}' can't be ended: {why}", id="containerd.pod-does-not-end",
                           details=f"{failure.summary}\n{failure.details}", hint=hint)  # fmt: skip


@contextlib.contextmanager
def _tolerated(what: str) -> Any:
    try:
        yield
    except KataDindError as error:
        logger.warning("%s: %s %s", what, error.summary, error.details)
