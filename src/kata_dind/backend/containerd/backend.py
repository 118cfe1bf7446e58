"""The containerd backend behind the protocols that all backends share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.backend import Begun, Proven, Wish
from kata_dind.backend.containerd.plan import CONTAINER_LOG, POD_DIRECTORY, pod_plan
from kata_dind.backend.plan import AnyPlan
from kata_dind.errors import ContainerdError
from kata_dind.host.json_files import read_json

if TYPE_CHECKING:
    from kata_dind.backend.host_volumes import HostVolumes
    from kata_dind.progress import Report


DOCKERD_LOG = "dockerd.log"
_LOOK_SECONDS = 5.0
"""For each of the two calls that tell whether a pod runs: `ls` asks them of sandboxes whose owner is gone."""


class ContainerdBackend:
    """Pods on this host's containerd, which outlive their owner."""

    logs: Mapping[str, str] = {"dockerd": DOCKERD_LOG}
    snapshots = None
    shares_later = False

    def __init__(self) -> None:
        self.lasting = LastingPods()

    @property
    def volumes(self) -> HostVolumes:
        """Directories of this host."""
        from kata_dind.backend.host_volumes import HostVolumes  # most starts have none

        return HostVolumes()

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        """Plan a sandbox on this host's containerd; its image is pulled or imported when missing."""
        from kata_dind.backend.containerd.prepare import prepare

        return prepare(wish, report=report)

    def proven(self, plan: AnyPlan, directory: Path) -> Proven | None:
        """Return what is known of a pod that runs on since its dockerd was proven."""
        from kata_dind.backend.containerd.client import connected
        from kata_dind.backend.containerd.pods import find_pods

        own, status = pod_plan(plan).own, read_json(directory / "status.json")
        if not status.get("verdict") or status.get("state") not in ("running", "stopping"):
            return None
        with connected(own.address) as containerd:
            if not any(pod.runs and pod.container_id for pod in find_pods(containerd, own.identity)):
                return None
        return Proven(status["verdict"], status.get("data_root") or {}, str(status.get("kernel") or ""),
                      tuple(status.get("warnings") or ()))  # fmt: skip

    @contextlib.contextmanager
    def begin(
        self, plan: AnyPlan, directory: Path, *, ephemeral: bool = False, locks: Sequence[int] = ()
    ) -> Iterator[Begun]:
        """Find the sandbox's pod, or clear the way for a new one.

        No process of ours writes the data root, so the locks stay with the owner. Two guests that get at one disk are
        kept apart by its file system; see `docs/guest-entrypoint.md`.
        """
        from kata_dind.backend.containerd.start import begin_pod

        with begin_pod(pod_plan(plan), directory) as begun:
            yield begun


class LastingPods:
    """What can be asked of pods without their owner."""

    def runs(self, plan: AnyPlan, directory: Path) -> bool:
        """Tell whether a sandbox's pod runs. Raises ContainerdError."""
        from kata_dind.backend.containerd.client import connected
        from kata_dind.backend.containerd.pods import find_pods

        own = pod_plan(plan).own
        with connected(own.address) as containerd:
            found = find_pods(containerd, own.identity, timeout_seconds=_LOOK_SECONDS)
            return any(pod.runs for pod in found)

    def stop(self, plan: AnyPlan, directory: Path, *, timeout_seconds: float) -> None:
        """End a sandbox's pod, and what is left of earlier ones. Raises ContainerdError, AbnormalShutdown."""
        from kata_dind.backend.containerd.client import connected
        from kata_dind.backend.containerd.container_log import append_rest
        from kata_dind.backend.containerd.pods import end_pods, find_pods

        own = pod_plan(plan).own
        try:
            with connected(own.address) as containerd:
                try:
                    end_pods(containerd, find_pods(containerd, own.identity), name=plan.name)
                finally:
                    # Nobody follows the log by now, and how dockerd went down is what people look for in it.
                    append_rest(directory / POD_DIRECTORY / CONTAINER_LOG, directory / DOCKERD_LOG)
        except ContainerdError as error:
            if error.id == "containerd.no-socket":
                error.hint = f"start containerd; where it is gone for good, with all its pods, delete {directory}"
            raise


BACKEND = ContainerdBackend()
