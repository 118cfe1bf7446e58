"""The vm backend behind the protocols that all backends share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kata_dind.backend import Begun, Guest, PackedSeed, Proven, Wish
from kata_dind.backend.events import OnEvent
from kata_dind.backend.plan import AnyPlan, StartKind, plan_from_json
from kata_dind.backend.vm.plan import stand_in, vm_plan, why_not_suspendable
from kata_dind.backend.vm.saved import find_saved
from kata_dind.errors import SandboxError, SeedUnfit, SpecError
from kata_dind.host.directories import cache_directory
from kata_dind.machine.shape import CUT_OFF, EPHEMERAL, IN_ORDER, StopDeadlines
from kata_dind.store.seeds import Seed, load_seed
from kata_dind.vocabulary import DataRootKind

if TYPE_CHECKING:
    from kata_dind.backend.host_volumes import HostVolumes
    from kata_dind.backend.vm.begin import BegunGuest
    from kata_dind.backend.vm.start import VmGuest
    from kata_dind.progress import Report


class VmBackend:
    """QEMU microVMs on this host, which end with their owner."""

    logs: Mapping[str, str] = {"dockerd": "dockerd.log", "guest": "guest.log", "vmm": "vmm.log"}
    lasting = None
    shares_later = True

    def __init__(self) -> None:
        self.snapshots = VmSnapshots()

    @property
    def volumes(self) -> HostVolumes:
        """Directories of this host."""
        from kata_dind.backend.host_volumes import HostVolumes  # most starts have none

        return HostVolumes()

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        """Plan a sandbox on this host; guest OS, kernel and image are made when missing."""
        from kata_dind.backend.vm.prepare import prepare  # which the owner of a running sandbox need not load

        return prepare(wish, report=report)

    def proven(self, plan: AnyPlan, directory: Path) -> Proven | None:
        """Return what the seed, or the sandbox's saved state, tells about the guest."""
        if plan.start is StartKind.RESUME:
            state = find_saved(directory)
            if state is None:
                raise SandboxError("the saved state was used already", id="sandbox.state-used")
            return _proven_by(state.facts)
        if plan.start is not StartKind.RESTORE:
            return None
        seed = load_seed(plan.seed)
        if seed is None:
            raise SeedUnfit(f"the seed '{plan.seed}' has been removed", id="seed.removed")
        return _proven_by(seed.facts)

    @contextlib.contextmanager
    def begin(
        self, plan: AnyPlan, directory: Path, *, ephemeral: bool = False, locks: Sequence[int] = ()
    ) -> Iterator[Begun]:
        """Start the machine's processes; the dockerd of an ephemeral guest is not waited for when it shuts down."""
        from kata_dind.backend.vm.begin import begin_guest  # `up` need not load it

        with begin_guest(vm_plan(plan), locks, directory) as begun:
            yield _Begun(begun, EPHEMERAL if ephemeral else IN_ORDER)


class VmSnapshots:
    """Seeds and saved states: the memory and the disks of machines."""

    def pack_seed(self, plan: AnyPlan, directory: Path, target: Path) -> PackedSeed:
        """Move a snapshot into the directory of a seed, with the files that the machine runs on."""
        from kata_dind.backend.vm.seeds import host_parts, pack_machine
        from kata_dind.image.store import image_fields, require_image

        parsed = vm_plan(plan)
        files, children = pack_machine(parsed, directory, target)
        image = image_fields(require_image(parsed.image.image_id))
        return PackedSeed((*files, *children), tuple(children), host_parts(parsed, cache=cache_directory()), image)

    def adopt_seed(self, facts: Mapping[str, Any], directory: Path) -> list[str]:
        """Make the children of an imported seed's disks, and register its image."""
        from kata_dind.backend.vm.seeds import adopt_machine, machine_files

        plan = vm_plan(plan_from_json(facts["plan"]))
        if set(machine_files(plan)) != set(facts["files"]):
            raise ValueError("its files are not those of its machine")
        return adopt_machine(plan, facts["image"], directory)

    def require_fit(self, seed: Seed) -> None:
        """Raise SeedUnfit when QEMU, the machine or the processor differs on this host."""
        from kata_dind.backend.vm.seeds import require_fit

        require_fit(seed, cache=cache_directory())

    def copy_disks(self, plan: AnyPlan, directory: Path, target: Path) -> None:
        """Copy the layer and the data root's disk of a stopped sandbox; its data root must be of the block kind."""
        from kata_dind.backend.vm.seeds import copy_disks

        parsed = vm_plan(plan)
        own_data = parsed.own.data_directory == directory
        if parsed.data_root is not DataRootKind.BLOCK or not own_data:
            where = f"is of the kind {parsed.data_root}" if own_data else "is a volume"
            raise SpecError(
                f"--from-sandbox: the data root of '{parsed.name}' {where}; "
                "a seed can only be made from a block disk of the sandbox's own",
                id="seed.source-unfit",
            )
        copy_disks(parsed, directory, target)

    def suspended(self, directory: Path) -> dict[str, Any] | None:
        """Return the size and the time of the state from which a stopped sandbox would resume."""
        state = find_saved(directory)
        return {"size_bytes": state.size_bytes, "saved_at": state.saved_at} if state else None

    def why_not_suspendable(self, plan: AnyPlan) -> str:
        """Return why the guest of a plan can't be suspended."""
        return why_not_suspendable(vm_plan(plan))

    def stand_in_key(self, plan: AnyPlan) -> str:
        """Return a key that two plans share if a clone started for one can be adopted for the other."""
        return stand_in(vm_plan(plan))

    @contextlib.contextmanager
    def begin_early(self, plan: AnyPlan, directory: Path) -> Iterator[Begun]:
        """Restore a clone that may never be adopted."""
        from kata_dind.backend.vm.begin import begin_guest

        with begin_guest(vm_plan(plan), (), directory) as begun:
            yield _Begun(begun, CUT_OFF)

    def adopt(self, guest: Guest, plan: AnyPlan, directory: Path) -> None:
        """Give a clone to a sandbox: its name, and its directory."""
        cast("VmGuest", guest).move(vm_plan(plan), directory, IN_ORDER)


class _Begun:
    """A machine whose processes have started."""

    def __init__(self, begun: BegunGuest, deadlines: StopDeadlines) -> None:
        self._begun = begun
        self._deadlines = deadlines

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[VmGuest]:
        """Wait for the agent's answer."""
        from kata_dind.backend.vm.start import start_guest  # while QEMU starts

        return start_guest(self._begun, self._deadlines, on_event)


def _proven_by(facts: Mapping[str, Any]) -> Proven:
    return Proven(facts["verdict"], facts["data_root"], str(facts["kernel"]), tuple(facts["warnings"]),
                  str(facts.get("dockerd_log") or ""))  # fmt: skip


BACKEND = VmBackend()
