"""The vm backend behind the protocol that all backends share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kata_dind.backend import GoOn, Guest, Launch, OnEvent, StoredRoot
from kata_dind.backend.vm.plan import (
    Plan,
    StartKind,
    container_request,
    plan_from_json,
    plan_to_json,
    stand_in,
    why_not_savable,
)
from kata_dind.backend.vm.saved import find_saved
from kata_dind.errors import HostError, SandboxError, SeedUnfit, SpecError
from kata_dind.host.directories import cache_directory
from kata_dind.store.seeds import Seed, load_seed
from kata_dind.vocabulary import DataRootKind

if TYPE_CHECKING:
    from kata_dind.backend.vm.begin import BegunGuest
    from kata_dind.backend.vm.start import VmGuest
    from kata_dind.image.source import PackageSource
    from kata_dind.progress import Report
    from kata_dind.spec import SandboxSpec


class VmBackend:
    """QEMU microVMs on this host."""

    def prepare(
        self,
        spec: SandboxSpec,
        directory: Path,
        source: PackageSource,
        *,
        stored: StoredRoot | None,
        before: dict[str, Any] | None = None,
        to_save: bool = False,
        report: Report,
    ) -> dict[str, Any]:
        """Plan a sandbox on this host; guest OS, kernel and image are made when missing."""
        # The owner of a running sandbox needs none of it.
        from kata_dind.backend.vm.prepare import prepare
        from kata_dind.backend.vm.seeds import clone_plan_of

        earlier = clone_plan_of(before)
        return plan_to_json(
            prepare(spec, directory, source, stored=stored, before=earlier, to_save=to_save, report=report)
        )

    def pack_seed(self, plan: dict[str, Any], directory: Path, target: Path) -> dict[str, Any]:
        """Move a saved machine into the directory of a seed, with what it runs on."""
        from kata_dind.backend.vm.seeds import host_parts, pack_machine
        from kata_dind.image.store import image_fields, require_image

        parsed = plan_from_json(plan)
        files, children = pack_machine(parsed, directory, target)
        return {
            "files": [*files, *children],
            "children": children,
            "parts": host_parts(parsed, cache=cache_directory()),
            "image": image_fields(require_image(parsed.image_id)),
        }

    def adopt_seed(self, facts: dict[str, Any], directory: Path) -> list[str]:
        """Make what the machine of an imported seed needs beside its files."""
        from kata_dind.backend.vm.seeds import adopt_machine, machine_files

        plan = plan_from_json(facts["plan"])
        numbers = (plan.cpus, plan.memory_mib, plan.data_root_mib)
        if not all(isinstance(number, int) for number in numbers) or set(machine_files(plan)) != set(facts["files"]):
            raise ValueError("the files are not those of the machine")
        return adopt_machine(plan, facts["image"], directory)

    def require_fit(self, seed: Seed) -> None:
        """Raise SeedUnfit when QEMU, the machine or the processor is another here."""
        from kata_dind.backend.vm.seeds import require_fit

        require_fit(seed, cache=cache_directory())

    def copy_disks(self, plan: dict[str, Any], directory: Path, target: Path) -> None:
        """Copy the layer and the data root's disk of a stopped sandbox, which must be of the block kind."""
        from kata_dind.backend.vm.seeds import copy_disks

        parsed = plan_from_json(plan)
        if parsed.data_root is not DataRootKind.BLOCK or parsed.data_directory != directory:
            where = f"is of the kind {parsed.data_root}" if parsed.data_directory == directory else "is a volume"
            raise SpecError(f"--from-sandbox: the data root of '{parsed.name}' {where}; only its own block disk can "
                            "become a seed's")  # fmt: skip
        copy_disks(parsed, directory, target)

    def launch(
        self, plan: dict[str, Any], *, ephemeral: bool, ahead: bool = False, locks: Sequence[int] = ()
    ) -> Launch:
        """Return how to start a plan; nobody waits for the dockerd of an ephemeral guest to shut down."""
        from kata_dind.backend.vm.begin import begin_guest  # `up` need not load it

        try:
            parsed = plan_from_json(plan)
        except (KeyError, TypeError, ValueError) as error:
            raise HostError("the plan of this sandbox is from another version", details=str(error)) from error

        @contextlib.contextmanager
        def begin(directory: Path) -> Iterator[GoOn]:
            with begin_guest(parsed, locks, directory) as begun:
                yield lambda on_event: _start(begun, on_event, ephemeral=ephemeral, ahead=ahead)

        return Launch(
            begin=begin,
            stand_in=stand_in(parsed),
            adopt=lambda guest, directory: _adopt(guest, directory, ephemeral=ephemeral),
            container_request=lambda check: container_request(parsed, check=check, entropy=os.urandom(64)),
            timeout_seconds=parsed.timeout_seconds,
            fallback=parsed.fallback,
            proven=_proven(parsed),
            goes_on_from=_GOES_ON_FROM.get(parsed.start, ""),
            unsavable=why_not_savable(parsed),
        )

    def saved_state(self, directory: Path) -> dict[str, Any] | None:
        """Return what a stopped sandbox would go on from."""
        saved = find_saved(directory)
        return {"size_bytes": saved.size_bytes, "saved_at": saved.saved_at} if saved else None


def _start(
    begun: BegunGuest, on_event: OnEvent, *, ephemeral: bool, ahead: bool
) -> AbstractAsyncContextManager[VmGuest]:
    from kata_dind.backend.vm.start import CUT_OFF, EPHEMERAL, IN_ORDER, start_guest  # while QEMU is at it

    return start_guest(begun, CUT_OFF if ahead else EPHEMERAL if ephemeral else IN_ORDER, on_event)


def _adopt(guest: Guest, directory: Path, *, ephemeral: bool) -> None:
    from kata_dind.backend.vm.start import EPHEMERAL, IN_ORDER

    cast("VmGuest", guest).move(directory, EPHEMERAL if ephemeral else IN_ORDER)


_GOES_ON_FROM = {StartKind.RESTORE: "its seed", StartKind.RESUME: "its saved state"}


def _proven(plan: Plan) -> dict[str, Any] | None:
    if plan.start is StartKind.RESUME:
        saved = find_saved(plan.data_directory)
        if saved is None:
            raise SandboxError("the saved state was used already")
        return saved.facts
    if plan.start is not StartKind.RESTORE:
        return None
    seed = load_seed(plan.seed)
    if seed is None:
        raise SeedUnfit(f"the seed '{plan.seed}' has been removed")
    return seed.facts


BACKEND = VmBackend()
