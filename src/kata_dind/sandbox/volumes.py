"""Named volumes as users know them: those of every backend that this installation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata_dind.backend import installed_backends, load_backend
from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from kata_dind.backend import KnownVolume


def list_volumes() -> list[KnownVolume]:
    """Return this user's volumes, by backend and name."""
    shelves = [load_backend(name).volumes for name in installed_backends()]
    return [volume for volumes in shelves if volumes for volume in volumes.all()]


def require_volume(name: str) -> KnownVolume:
    """Return a volume by its name. Raises SpecError for an unknown one, naming those that exist."""
    volumes = {volume.name: volume for volume in list_volumes()}
    if name not in volumes:
        known = ", ".join(volumes) or "none"
        raise SpecError(f"there is no volume '{name}' (there are: {known})", id="volume.unknown",
                        hint=f"kata-dind up --volume {name}")  # fmt: skip
    return volumes[name]
