"""Backends turn a plan into a running sandbox; everything above knows one by the protocols in this file only.

A backend MUST leave nothing behind when the block of `Launch.start` ends, however it ends; MUST NOT yield from it
before the guest answers; and MUST stop the guest's dockerd and file systems before it takes the guest away.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from kata_dind.vocabulary import BACKEND_MODULES, Fallback

if TYPE_CHECKING:
    import asyncio

    from kata_dind.image.source import PackageSource
    from kata_dind.progress import Report
    from kata_dind.spec import SandboxSpec
    from kata_dind.store.seeds import Seed
    from kata_dind.wire.channel import ChannelStream

OnEvent = Callable[[dict[str, Any]], None]
"""Takes what the guest reports: `event` names it."""


class Guest(Protocol):
    """A running guest, as the owner of a sandbox uses it."""

    ended: asyncio.Event
    """Set when the guest is gone, by whatever cause."""

    def open(self, request: dict[str, Any]) -> ChannelStream:
        """Open a stream to the guest: `docker`, `exec`, `container`. Raises ChannelClosed when the guest is gone."""

    async def save(self) -> None:
        """End the guest, whose launch was planned to become a seed, with its state in the sandbox's directory.

        Raises SandboxError when it can't be saved.
        """

    def require_suspendable(self) -> None:
        """Raise NoSpace or SandboxError when the guest can't be suspended at the moment."""

    async def suspend(self, facts: dict[str, Any]) -> None:
        """End the guest with its state and some facts in the sandbox's directory, from which its next start goes on.

        Raises SandboxError or NoSpace when it can't be saved: then it goes on, but all its streams are closed, and what
        is opened first must be its launch's request for the container. Raises AbnormalShutdown when it can't go on.
        """

    def discard(self) -> None:
        """Nobody will miss what the guest has on disks of the sandbox's own, so its end need not wait for them.

        What it has written to shares stays.
        """

    def evidence(self) -> str:
        """Return what is known of the guest, for an error's details; what has ended comes first, in one line."""


GoOn = Callable[[OnEvent], AbstractAsyncContextManager[Guest]]
"""Meets a guest that was begun, for the length of a block."""


def _adopts_none(guest: Guest, directory: Path) -> None:
    raise NotImplementedError


@dataclass(frozen=True)
class Launch:
    """How one sandbox is started."""

    begin: Callable[[Path], AbstractContextManager[GoOn]]
    """Start the guest of a sandbox's directory for the length of a block, as far as that needs no event loop."""
    container_request: Callable[[bool], dict[str, Any]]
    """What the guest is asked to run; True demands a check of the data root's file system."""
    timeout_seconds: float
    """For the whole start, to a passing verdict."""
    fallback: Fallback = Fallback.NONE
    """The storage driver beside overlay that the proof is to accept."""
    stand_in: str = ""
    """Equal for launches whose guests could be each other's until something is asked of them; empty for none."""
    adopt: Callable[[Guest, Path], None] = _adopts_none
    """Make a guest that was started ahead, by an equal launch, that of a sandbox's directory, with all its files."""
    proven: dict[str, Any] | None = None
    """For a guest that goes on: what is known of it, its proof among it, as in a `seed.json`. None for a boot."""
    goes_on_from: str = ""
    """What it goes on from, in the user's words."""
    unsavable: str = ""
    """Why the guest can't be suspended; empty when it can."""

    @contextlib.asynccontextmanager
    async def start(self, directory: Path, on_event: OnEvent) -> AsyncIterator[Guest]:
        """Start the guest of a sandbox's directory for the length of a block."""
        with self.begin(directory) as go_on:
            async with go_on(on_event) as guest:
                yield guest


class StoredRoot(NamedTuple):
    """A data root that outlives the sandbox: of which volume, where it lies, and what the last passing verdict said."""

    volume: str
    directory: Path
    docker_version: str
    """Of the Docker that wrote it last; empty for none yet, as `storage`."""
    storage: str


class Backend(Protocol):
    """One way to run sandboxes."""

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
        """Check the spec against the host and return a plan as JSON values; `directory` is not touched.

        The data root is `stored`, or lies in `directory`. Kind and size of a stored one are in the spec already.
        `before` is the plan of the sandbox's last start, None for a new one; if the sandbox was suspended then, it goes
        on from there, or a warning says why it can't; a plan's `start` is `resume` then. `to_save` demands a guest that
        can become a seed. A plan's `seed` names the seed that it uses, `seed_key` the one that it would use, which has
        `seed_cpus`, `seed_memory_mib` and a data root of `seed_root_mib`.
        """

    def pack_seed(self, plan: dict[str, Any], directory: Path, target: Path) -> dict[str, Any]:
        """Move what a saved guest has left in a sandbox's directory into that of a seed.

        Returns `files`, the names of all that belong to it; `children`, those of them that an import makes anew;
        `parts`, what of this host it depends on; and `image`, how its dind image is known.
        """

    def adopt_seed(self, facts: dict[str, Any], directory: Path) -> list[str]:
        """Make what a seed that came from elsewhere needs beside its files, and return the names of its children.

        Raises KeyError, TypeError or ValueError for facts that no backend of this kind has written.
        """

    def require_fit(self, seed: Seed) -> None:
        """Raise SeedUnfit, with the reason, when a seed can't be restored on this host."""

    def copy_disks(self, plan: dict[str, Any], directory: Path, target: Path) -> None:
        """Copy what a stopped sandbox has written into the directory of a new one, on which that can boot.

        Raises SpecError for one whose data root does not lie in its own directory, NoSpace.
        """

    def saved_state(self, directory: Path) -> dict[str, Any] | None:
        """Return `size_bytes` and `saved_at` of what a stopped sandbox would go on from; None for nothing."""

    def launch(
        self, plan: dict[str, Any], *, ephemeral: bool, ahead: bool = False, locks: Sequence[int] = ()
    ) -> Launch:
        """Return how to start a plan; what an ephemeral guest has on its own disks is lost when it ends.

        A guest that is started `ahead` is cut off at its end, unless it was adopted.

        `locks` are descriptors. Every process that writes the data root MUST inherit them, so that a lock ends with the
        last one, also after an owner that was killed. Raises HostError for a plan that another version made.
        """


_MODULES = BACKEND_MODULES


def load_backend(name: str) -> Backend:
    """Return a backend by its name; only the chosen one is imported. Raises KeyError for a name that has none."""
    return cast(Backend, importlib.import_module(_MODULES[name]).BACKEND)


def load_ahead() -> None:
    """Import what the default backend will need at a start, for a process that has nothing else to do yet."""
    importlib.import_module("kata_dind.backend.vm.start")
