"""From a plan to a pod that runs: found again or made anew, with its container, which the owner asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from kata_dind.backend.containerd.client import Containerd, connected, pid_behind
from kata_dind.backend.containerd.disks import attached_disk, has_data, require_data_place, require_unused
from kata_dind.backend.containerd.guest import PodGuest
from kata_dind.backend.containerd.plan import POD_DIRECTORY, PodPlan, container_config, data_disk, pod_config
from kata_dind.backend.containerd.pods import FoundPod, end_pods, find_pods
from kata_dind.backend.containerd.ports import PodPorts, guest_script
from kata_dind.backend.events import OnEvent, Phase
from kata_dind.errors import AbnormalShutdown, KataDindError
from kata_dind.host.process import run
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.model import Copy
from kata_dind.vocabulary import NetworkMode
from kata_dind.wire.channel import background

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def begin_pod(plan: PodPlan, directory: Path) -> Iterator[BegunPod]:
    """Find the pod of a sandbox, or clear the way for a new one. The block's end leaves a pod that is ready alone."""
    with connected(plan.own.address) as containerd:
        pods = find_pods(containerd, plan.own.identity)
        found = next((pod for pod in pods if pod.runs), None)
        is_fresh = False
        if found is None:
            with contextlib.suppress(KataDindError):
                end_pods(containerd, pods, name=plan.name)
            shutil.rmtree(directory / POD_DIRECTORY, ignore_errors=True)
            (directory / POD_DIRECTORY).mkdir(mode=0o700)
            require_unused(plan)
            is_fresh = not has_data(plan)
            require_data_place(plan)
        yield BegunPod(containerd, plan, directory, found, is_fresh=is_fresh)


class BegunPod:
    """A pod that is about to be made, or was found."""

    def __init__(
        self, containerd: Containerd, plan: PodPlan, directory: Path, found: FoundPod | None, *, is_fresh: bool
    ) -> None:
        self._containerd = containerd
        self._is_fresh = is_fresh
        self._plan = plan
        self._directory = directory
        self._found = found

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[PodGuest]:
        """Let the pod run, and serve it for the length of the block."""
        return self._meet(on_event)

    @contextlib.asynccontextmanager
    async def _meet(self, on_event: OnEvent) -> AsyncIterator[PodGuest]:
        containerd, plan, found = self._containerd, self._plan, self._found
        config = pod_config(plan, self._directory)
        async with contextlib.AsyncExitStack() as stack:
            if found is None:
                stack.push_async_exit(_Undoing(containerd, plan))
                pod_id = await _run_pod(containerd, plan, config)
            else:
                pod_id = found.pod_id
            # We have it open until our end: whoever has it open then keeps it, and with nobody it is detached.
            device = stack.enter_context(attached_disk(data_disk(plan) if not (found and found.container_id) else None))
            on_event(Phase("machine", "the guest is found" if found else f"the pod runs, by {plan.own.handler}"))

            async def start_container(check: bool) -> str:
                script = entrypoint_for_pods(Copy(plan.data_root, filesystem=plan.own.filesystem,
                                                  fallback=plan.fallback != "none"))  # fmt: skip
                wanted = container_config(plan, script=script, published_port=guest_script("published_port.sh"),
                                          check=check)  # fmt: skip
                if device:
                    wanted["devices"] = [device]
                return await _start_container(containerd, plan, pod_id, config, wanted)

            guest = PodGuest(
                containerd,
                pod_id,
                PodPorts(containerd, pod_id, plan.own.network),
                directory=self._directory,
                container_id=found.container_id if found else "",
                is_fresh=self._is_fresh,
                start_container=start_container,
                on_event=on_event,
            )
            stack.push_async_callback(guest.close)
            async with background(guest.watch()):
                yield guest


async def _run_pod(containerd: Containerd, plan: PodPlan, config: dict[str, object]) -> str:
    answer = await containerd.ask(
        "RuntimeService/RunPodSandbox",
        failing=f"the pod of '{plan.name}' could not be started",
        timeout_seconds=plan.timeout_seconds,
        config=config,
        runtime_handler=plan.own.handler,
    )
    if plan.own.network is NetworkMode.NONE:
        await asyncio.to_thread(_cut_network, containerd, plan, answer.pod_sandbox_id)
    return str(answer.pod_sandbox_id)


def _cut_network(containerd: Containerd, plan: PodPlan, pod_id: str) -> None:
    """Put down all interfaces of a pod but its loopback, outside of the machine, whose root can't undo that."""
    answer = containerd.call("RuntimeService/PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True,
                             failing="the pod's network namespace could not be found")  # fmt: skip
    namespaces = json.loads(answer.info["info"])["runtimeSpec"]["linux"]["namespaces"]
    named = next(each["path"] for each in namespaces if each["type"] == "network").replace("/var/run/", "/run/", 1)
    # containerd may see other mounts than we do.
    path = next(filter(os.path.exists, (named, f"/proc/{pid_behind(plan.own.address)}/root{named}")), named)
    script = 'for each in /sys/class/net/*; do name=${each##*/}; [ "$name" = lo ] || ip link set "$name" down; done'
    run(["nsenter", f"--net={path}", "unshare", "--mount", "sh", "-euc", f"mount -t sysfs sysfs /sys; {script}"],
        timeout_seconds=20)  # fmt: skip


async def _start_container(
    containerd: Containerd, plan: PodPlan, pod_id: str, pod: dict[str, object], container: dict[str, object]
) -> str:
    made = await containerd.ask(
        "RuntimeService/CreateContainer",
        failing=f"the container of '{plan.name}' could not be made",
        timeout_seconds=plan.timeout_seconds,
        pod_sandbox_id=pod_id,
        config=container,
        sandbox_config=pod,
    )
    await containerd.ask(
        "RuntimeService/StartContainer",
        failing=f"the container of '{plan.name}' could not be started",
        timeout_seconds=plan.timeout_seconds,
        container_id=made.container_id,
    )
    return str(made.container_id)


def note_of_end(failure: KataDindError) -> str:
    """Return what is to be said of a pod's end that was not in order; one whose dockerd was cut off has ended."""
    return failure.summary if isinstance(failure, AbnormalShutdown) else f"its pod is still there: {failure.summary}"


class _Undoing:
    """Ends a pod whose start fails or is broken off: it outlives its owner only once the sandbox is ready."""

    def __init__(self, containerd: Containerd, plan: PodPlan) -> None:
        self._containerd = containerd
        self._plan = plan

    async def __call__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leave the pod alone at an end in order."""
        if error is None:
            return
        try:
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._end)))
        except KataDindError as failure:
            error.add_note(note_of_end(failure))

    def _end(self) -> None:
        end_pods(self._containerd, find_pods(self._containerd, self._plan.own.identity), name=self._plan.name)
