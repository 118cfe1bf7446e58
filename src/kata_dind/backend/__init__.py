"""Backends turn a spec into a plan and a plan into a running guest. Other rooms know only the protocols in this file.

`Backend` and `Guest` are what every backend does. What only some backends can do has a protocol of its own: `Snapshots`
for guests whose memory can be kept and cloned, `Lasting` for guests that outlive their owner, `Ports` for guests whose
ports the host can reach.

A backend MUST NOT yield a guest before the guest answers, and MUST leave nothing behind when the block of `begin`
ends, however it ends: dockerd stops and its file systems are unmounted before the guest ends. The exception is a
guest that outlives its owner: the block's end leaves that alone, and `Lasting.stop` ends it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from kata_dind.vocabulary import BACKEND_MODULES, BackendName

if TYPE_CHECKING:
    import asyncio
    import socket

    from kata_dind.backend.events import OnEvent
    from kata_dind.backend.plan import AnyPlan
    from kata_dind.host.filesystems import Outcome
    from kata_dind.image.source import PackageSource
    from kata_dind.progress import Report
    from kata_dind.spec import SandboxSpec
    from kata_dind.store.seeds import Seed
    from kata_dind.store.volume_view import VolumeSummary
    from kata_dind.vocabulary import Transport
    from kata_dind.wire.requests import Request, Stream


class Forward(Protocol):
    """A port of a guest, as the host reaches it, until it is closed."""

    async def connect(self) -> socket.socket:
        """Return a new non-blocking socket that is connected to the port; it is the caller's to close.

        For TCP the guest may not have answered yet: where nothing listens, the socket is closed by the other side.
        Raises OSError.
        """

    async def close(self) -> None:
        """Let go of the port. Sockets that are connected stay so. Harmless for a guest that has ended."""


class Ports(Protocol):
    """The ports of a guest, and those of the host that it may reach."""

    async def forward(self, transport: Transport, port: int) -> Forward:
        """Make a port on the guest's own address reachable from the host.

        Each of several forwards of one port works until it is closed. A guest's address MUST NOT lead others to a port
        that is published on a loopback address. Raises SandboxError.
        """

    @property
    def host_ports(self) -> Sequence[int]:
        """The ports of the host's loopback that the guest may reach, as `host.docker.internal:PORT`."""

    async def listen(self, port: int) -> socket.socket:
        """Return a non-blocking socket for one of these ports, which listens to the guest alone.

        It is the caller's to close. Raises SandboxError.
        """


class Guest(Protocol):
    """A running guest, as the owner of a sandbox uses it."""

    ended: asyncio.Event
    """Set when the guest has ended, for whatever reason."""

    @property
    def ports(self) -> Ports | None:
        """The guest's ports; None where the host can't reach them."""

    def open(self, request: Request) -> Stream:
        """Send the guest a request. Raises StreamLost when the guest has ended.

        The stream of a `Container` raises, when it is received from, the error of one that this host could not start.

        A guest that was proven before (`Backend.proven`) reports `Usable` after it was asked for its `Container`.
        """

    def discard(self) -> None:
        """Don't wait, at the guest's end, for the sandbox's own disks, whose contents are not needed any more.

        What the guest has written to shares stays.
        """

    def evidence(self) -> str:
        """Return what this host knows of the guest, for an error's details; a process that has ended comes first."""

    async def testimony(self) -> str:
        """Return what the guest itself tells when something has failed; empty when it does not answer soon."""


class Begun(Protocol):
    """A guest whose start has begun, as far as that is possible without an event loop."""

    def meet(self, on_event: OnEvent) -> AbstractAsyncContextManager[Guest]:
        """Wait for the guest to answer, and serve it for the length of the block.

        Raises BootFailed and other SandboxErrors; AbnormalShutdown at the end of a block that raised nothing itself.
        """


class StoredRoot(NamedTuple):
    """A data root that outlives the sandbox: its volume, its directory, and facts from the last passing verdict."""

    volume: str
    directory: Path
    docker_version: str
    """The version of the Docker that wrote it last; empty before the first, as is `storage`."""
    storage: str


@dataclass(frozen=True)
class Wish:
    """A user's wish for a start, and the things that the start builds on."""

    spec: SandboxSpec
    directory: Path
    """The sandbox's directory, which need not exist yet."""
    stored: StoredRoot | None = None
    """The volume that holds the data root; its kind and its size are in the spec already."""
    before: AnyPlan | None = None
    """The plan of the sandbox's last start; None for a new sandbox."""
    packages: PackageSource | None = None
    """Where a backend that builds images gets packages; None for the host's own release."""
    to_snapshot: bool = False
    """Whether the guest is to become a seed."""


class Proven(NamedTuple):
    """Facts about a guest whose dockerd was proven before this start."""

    verdict: Mapping[str, Any]
    data_root: Mapping[str, Any]
    kernel: str
    warnings: Sequence[str] = ()
    dockerd_log: str = ""
    """The log of dockerd until then, where the sandbox's own log does not have it."""


class KnownVolume(Protocol):
    """A named volume, whether a sandbox uses it or not."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def unclean(self) -> Path:
        """A mark that is there while a guest uses the volume; found at a start, it demands a check."""

    def note_verdict(self, *, sandbox: str, docker_version: str, storage: str) -> None:
        """Remember what a passing verdict said; from the first on, the volume stays. Raises OSError on a full host."""

    def summary(self) -> VolumeSummary:
        """Return the volume's row of `volume ls`."""

    def inspect(self) -> dict[str, Any]:
        """Return all that is known of the volume."""

    def resize(self, size_bytes: int) -> None:
        """Grow a volume that no sandbox uses now. Raises SpecError, DataRootError."""

    def fsck(self) -> Outcome:
        """Check the file system of a volume that no sandbox uses now, and repair what needs no decision."""

    def require_unused(self) -> None:
        """Raise SpecError when a sandbox, running or not, refers to the volume."""

    def remove(self) -> None:
        """Delete the volume and all in it. Raises SpecError, DataRootBusy, HostError."""


class UsedVolume(Protocol):
    """The volume of one start, which no other sandbox uses meanwhile."""

    @property
    def stored(self) -> StoredRoot:
        """Where the data root lies, and what is known of it."""

    @property
    def locks(self) -> Sequence[int]:
        """The descriptors that keep others from it; whoever inherits them uses it as well."""

    def fitted(self, spec: SandboxSpec, *, report: Report) -> SandboxSpec:
        """Return a spec with the kind, the size and the file system that the volume has; a wish for others is told."""

    def grow(self, size_bytes: int) -> None:
        """Let the volume have at least a size. Raises DataRootError, NoSpace."""


class Volumes(Protocol):
    """The named volumes of a backend: data roots that outlive their sandboxes."""

    def all(self) -> Sequence[KnownVolume]:
        """Return this user's volumes by name."""

    def named(self, name: str) -> KnownVolume:
        """Return the volume that a name has or would have."""

    def require(self, name: str) -> KnownVolume:
        """Return the volume with a name. Raises SpecError for an unknown name, with the known ones."""

    def use(self, spec: SandboxSpec) -> AbstractContextManager[UsedVolume]:
        """Use the volume that a spec names for the length of the block; it is made when there is none.

        Raises SpecError when it is of another kind than asked, DataRootBusy, HostError.
        """


class Backend(Protocol):
    """One way to run sandboxes."""

    @property
    def volumes(self) -> Volumes | None:
        """Its named volumes; None where a data root always goes with its sandbox."""

    @property
    def logs(self) -> Mapping[str, str]:
        """The logs in a sandbox's directory: the users' name of each, and its file's name. `dockerd` is among them."""

    @property
    def snapshots(self) -> Snapshots | None:
        """The backend's ways with the memory of guests; None where it has none."""

    @property
    def shares_later(self) -> bool:
        """Whether its guests are `SharingGuest`s."""

    @property
    def lasting(self) -> Lasting | None:
        """The backend's ways with guests that outlive their owner; None where a guest ends with its owner."""

    def prepare(self, wish: Wish, *, report: Report) -> AnyPlan:
        """Check a wish against this host, make what is missing, and return the plan; the directory is not touched.

        A guest that was suspended resumes, or a warning in the plan says why it can't. Raises SpecError, HostError,
        ImageError.
        """

    def proven(self, plan: AnyPlan, directory: Path) -> Proven | None:
        """Return the facts about a plan's guest if it was proven before; None for one that boots.

        Raises SandboxError or SeedUnfit when its saved state or its seed is gone.
        """

    def begin(
        self, plan: AnyPlan, directory: Path, *, ephemeral: bool = False, locks: Sequence[int] = ()
    ) -> AbstractContextManager[Begun]:
        """Begin to start a sandbox's guest, as far as that needs no event loop; the end of the block stops the guest.

        The contents of an ephemeral guest's own disks are lost when it ends. `locks` are descriptors; each process that
        writes the data root MUST inherit them, so that a lock ends with the last one, also after an owner that was
        killed. Raises PlanOutdated, NoSpace, HostError.
        """


class Lasting(Protocol):
    """Guests that outlive their owner, which is then a relay: it may come and go."""

    def runs(self, plan: AnyPlan, directory: Path) -> bool:
        """Tell whether the guest of a sandbox runs. Raises BackendError when that can't be found out."""

    def stop(self, plan: AnyPlan, directory: Path, *, timeout_seconds: float) -> None:
        """End a guest in order: dockerd, its file systems, the guest itself. Harmless for one that does not run.

        Raises BackendError, AbnormalShutdown when the guest had to be cut off.
        """


class PackedSeed(NamedTuple):
    """The contents of a new seed's directory."""

    files: tuple[str, ...]
    """The names of all files that belong to the seed."""
    children: tuple[str, ...]
    """The names of those files that an import makes anew."""
    parts: Mapping[str, str]
    """The parts of this host that the seed depends on, each with its version or digest."""
    image: Mapping[str, Any]
    """The fields by which its dind image is known."""


class SnapshotGuest(Guest, Protocol):
    """A guest whose memory can be kept."""

    async def snapshot(self) -> None:
        """End a guest that was planned to become a seed, with its state in the sandbox's directory.

        Raises NoSpace or SandboxError.
        """

    def require_suspendable(self) -> None:
        """Raise NoSpace or SandboxError when the guest can't be suspended at the moment."""

    async def suspend(self, facts: Mapping[str, Any]) -> None:
        """End the guest with its state and some facts in the sandbox's directory, from which its next start resumes.

        Raises SandboxError or NoSpace when its state can't be kept: then the guest runs on, but all its streams are
        closed, and the first one to be opened must be its `Container`. Raises AbnormalShutdown when it can't run on.
        """


class SharingGuest(Guest, Protocol):
    """A guest to which files of this host can be given, and from which they can be taken, while it runs."""

    async def share(self, host_path: Path, guest_path: str, *, read_only: bool) -> AnyPlan:
        """Give the guest a further share, and return the plan that has it.

        Raises SpecError for a path that can't be shared; SandboxError with the id `share.needs-resume` where the guest
        gets it when it has been suspended and resumes; other SandboxErrors and HostError.
        """

    async def unshare(self, guest_path: str) -> AnyPlan:
        """Take away the share that the guest has at a path, and return the plan without it.

        Raises SandboxError while a container uses it, HostError.
        """

    async def touch(self, guest_paths: Sequence[str]) -> None:
        """Let inotify in the guest report a change of paths in its shares; the files MUST stay as they are.

        What is not there, or can't be touched, is left out. Raises SandboxError, StreamLost.
        """


class Snapshots(Protocol):
    """Ways with the memory of guests: seeds, `stop --save`, and guests that are started early."""

    def pack_seed(self, plan: AnyPlan, directory: Path, target: Path) -> PackedSeed:
        """Move the files of a snapshot from a sandbox's directory into that of a seed."""

    def adopt_seed(self, facts: Mapping[str, Any], directory: Path) -> list[str]:
        """Make what an imported seed needs beside its files, and return the names of its children.

        Raises PlanOutdated, KeyError, TypeError or ValueError for facts that this backend can't have written.
        """

    def require_fit(self, seed: Seed) -> None:
        """Raise SeedUnfit, with the reason, when a seed can't be restored on this host."""

    def copy_disks(self, plan: AnyPlan, directory: Path, target: Path) -> None:
        """Copy the disks of a stopped sandbox into the directory of a new one, which can boot from them.

        Raises SpecError for a sandbox whose data root does not lie in its own directory, NoSpace.
        """

    def suspended(self, directory: Path) -> dict[str, Any] | None:
        """Return `size_bytes` and `saved_at` of the state from which a stopped sandbox would resume, or None."""

    def why_not_suspendable(self, plan: AnyPlan) -> str:
        """Return why the guest of a plan can't be suspended, as a part of a sentence; empty when it can."""

    def stand_in_key(self, plan: AnyPlan) -> str:
        """Return a key that two plans share if a guest started for one can be adopted for the other.

        Empty for a plan whose guest can't be started early.
        """

    def begin_early(self, plan: AnyPlan, directory: Path) -> AbstractContextManager[Begun]:
        """Begin to start a guest for a sandbox that does not exist yet; unless adopted, the block's end cuts it off."""

    def adopt(self, guest: Guest, plan: AnyPlan, directory: Path) -> None:
        """Give a guest that was started early, for a plan with the same key, to a sandbox, and move its files there."""


_MODULES = BACKEND_MODULES
_EARLY: dict[str, str] = {
    BackendName.VM: "kata_dind.backend.vm.start",
    BackendName.CONTAINERD: "kata_dind.backend.containerd.early",
}


def installed_backends() -> list[str]:
    """Return the names of the backends that this installation has."""
    return [*_MODULES]


def load_backend(name: str) -> Backend:
    """Return a backend by its name; only the chosen one is imported. Raises KeyError for an unknown name."""
    return cast(Backend, importlib.import_module(_MODULES[name]).BACKEND)


def require_snapshots(backend: Backend) -> Snapshots:
    """Return a backend's `Snapshots`, for callers that have something which only a backend with snapshots makes."""
    assert backend.snapshots is not None
    return backend.snapshots


def load_early(name: str) -> None:
    """Import the modules of a backend's start, in a process that has nothing else to do yet. Harmless without it."""
    importlib.import_module(_EARLY.get(name, _EARLY[BackendName.VM]))
