"""Named volumes of backends on this host: directories, as `store.volumes` keeps them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kata_dind.backend import StoredRoot
from kata_dind.progress import Event, Report
from kata_dind.store.volumes import Volume, list_volumes, require_volume, use_volume, volume_named
from kata_dind.vocabulary import Filesystem

if TYPE_CHECKING:
    from kata_dind.spec import SandboxSpec


class HostVolumes:
    """Volumes that are directories of this host."""

    def all(self) -> Sequence[Volume]:
        """Return this user's volumes by name; what killed commands have left is swept."""
        return list_volumes()

    def named(self, name: str) -> Volume:
        """Return the volume that a name has or would have."""
        return volume_named(name)

    def require(self, name: str) -> Volume:
        """Return the volume with a name. Raises SpecError for an unknown name, with the known ones."""
        return require_volume(name)

    @contextlib.contextmanager
    def use(self, spec: SandboxSpec) -> Iterator[UsedHostVolume]:
        """Use the volume that a spec names for the length of the block; it is made when there is none."""
        with use_volume(spec.volume, asked=spec.data_root) as (volume, lock):
            yield UsedHostVolume(volume, [lock])


class UsedHostVolume:
    """The directory of one start's data root."""

    def __init__(self, volume: Volume, locks: Sequence[int]) -> None:
        self._volume = volume
        self.locks = locks

    @property
    def stored(self) -> StoredRoot:
        """Where the data root lies, and which Docker wrote it last."""
        facts = self._volume.facts
        written_by, storage = str(facts.get("docker_version", "")), str(facts.get("storage", ""))
        return StoredRoot(self._volume.name, self._volume.directory, written_by, storage)

    def fitted(self, spec: SandboxSpec, *, report: Report) -> SandboxSpec:
        """Return a spec with the kind, the size and the file system that the volume has; a wish for others is told."""
        volume = self._volume

        def warn(message: str) -> None:
            report(Event("warning", message))

        settled: dict[str, Any] = {"data_root": volume.kind}
        if spec.size and volume.disk is None:
            warn(
                f"--size: the volume '{volume.name}' is of the kind {volume.kind}, "
                "whose size is that of the host's disk"
            )
        if present := volume.size_bytes:
            if spec.size and spec.size_bytes < present:
                warn(f"--size: the volume '{volume.name}' keeps its {present >> 20}M; a volume only grows")
            settled["size"] = f"{max(present, spec.size_bytes if spec.size else 0) >> 20}M"
        if found := volume.filesystem:
            if "filesystem" in spec.given and spec.filesystem != found:
                warn(
                    f"--filesystem: the volume '{volume.name}' keeps its {found}; "
                    f"only a new one can have {spec.filesystem}"
                )
            settled["filesystem"] = Filesystem(found)
        return spec.settled(**settled)

    def grow(self, size_bytes: int) -> None:
        """Let the volume's disk have at least a size; one that is larger keeps it."""
        self._volume.grow(size_bytes)
