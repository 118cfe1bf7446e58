"""The vm backend behind the protocol that all backends share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.backend import Launch, StoredRoot
from kata_dind.backend.vm.plan import container_request, plan_from_json, plan_to_json
from kata_dind.backend.vm.start import start_guest
from kata_dind.errors import HostError
from kata_dind.host.progress import Report
from kata_dind.machine.machine import StopDeadlines

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec


# Shares are written through, and the agent syncs; dockerd's own files go with the sandbox.
EPHEMERAL = StopDeadlines(dockerd_seconds=0)


class VmBackend:
    """QEMU microVMs on this host."""

    def prepare(
        self, spec: SandboxSpec, directory: Path, source: PackageSource, *, stored: StoredRoot | None, report: Report
    ) -> dict[str, Any]:
        """Plan a sandbox on this host; guest OS, kernel and image are made when missing."""
        from kata_dind.backend.vm.prepare import prepare  # the owner of a running sandbox needs none of it

        return plan_to_json(prepare(spec, directory, source, stored=stored, report=report))

    def launch(self, plan: dict[str, Any], *, ephemeral: bool, locks: Sequence[int] = ()) -> Launch:
        """Return how to start a plan; nobody waits for the dockerd of an ephemeral guest to shut down."""
        try:
            parsed = plan_from_json(plan)
        except (KeyError, TypeError, ValueError) as error:
            raise HostError("the plan of this sandbox is from another version", details=str(error)) from error
        return Launch(
            start=functools.partial(start_guest, parsed, EPHEMERAL if ephemeral else StopDeadlines(), tuple(locks)),
            container_request=lambda check: container_request(parsed, check=check),
            timeout_seconds=parsed.timeout_seconds,
            fallback=parsed.fallback,
        )


BACKEND = VmBackend()
