"""Named volumes as users know them: those of every backend that this installation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_dind.backend import installed_backends, load_backend

if TYPE_CHECKING:
    from kata_dind.backend import KnownVolume, Volumes


def list_volumes() -> list[KnownVolume]:
    """Return this user's volumes, by backend and name; one that several backends can use is there once."""
    found: dict[str, KnownVolume] = {}
    for volumes in _all_volumes():
        for volume in volumes.all():
            found.setdefault(volume.name, volume)
    return [*found.values()]


def require_volume(name: str) -> KnownVolume:
    """Return a volume by its name. Raises SpecError for an unknown name, with the known ones."""
    *others, last = _all_volumes()
    found = (volume for volumes in others for volume in volumes.all() if volume.name == name)
    return next(found, None) or last.require(name)


def _all_volumes() -> list[Volumes]:
    backends = (load_backend(name) for name in installed_backends())
    return [backend.volumes for backend in backends if backend.volumes]
