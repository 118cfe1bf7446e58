"""The dind images in the cache: content-addressed, named by references, each with the command of its container.

disk.erofs    the root file system          image.json   the facts about the image
in-use.lock   shared by the sandboxes that run on the image

A reference is a file elsewhere in the cache, with an id in it. When it moves to a newer image, the older one stays in
place without a reference until it is removed by its id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import ImageError, SpecError
from kata_dind.host.directories import cache_directory, make_private
from kata_dind.host.json_files import read_json, write_json
from kata_dind.host.locks import is_locked
from kata_dind.store.shelf import ErrorIds, Shelf, delete, set_aside

_DISK = "disk.erofs"
_FACTS = "image.json"
_IN_USE = "in-use.lock"


@dataclass(frozen=True)
class DindImage:
    """A container's root file system with a dockerd in it, as a read-only disk, and how its container starts."""

    reference: str
    """The image's name; empty for an image that has lost its reference to a newer one."""
    image_id: str
    disk: Path
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    docker_version: str
    created: str
    """RFC 3339, UTC."""
    size_bytes: int
    origin: str
    recipe: str = ""
    """For a built image, a key of its sources: when it differs, another build would give another image."""


def list_images() -> list[DindImage]:
    """Return all images, once per reference, ordered by reference; those without a reference come last.

    The leftovers of killed removals are swept.
    """
    cache = cache_directory()
    _shelf(cache).sweep()
    images = _load_all(cache)
    tags = _references(cache)
    named = [
        dataclasses.replace(images[image_id], reference=reference)
        for reference, image_id in sorted(tags.items())
        if image_id in images
    ]
    return named + [images[image_id] for image_id in sorted(set(images) - set(tags.values()))]


def find_image(name: str) -> DindImage | None:
    """Return the image with this reference, or the only one whose id begins with the name (4 digits at least)."""
    images = list_images()
    for image in images:
        if image.reference in _spellings(name):
            return image
    ids = {image.image_id: image for image in reversed(images) if len(name) >= 4 and image.image_id.startswith(name)}
    return next(iter(ids.values())) if len(ids) == 1 else None


def require_image(name: str) -> DindImage:
    """Return the image that `find_image` finds. Raises ImageError, which names the known images."""
    image = find_image(name)
    if image is None:
        known = sorted({image.reference or image.image_id for image in list_images()})
        raise ImageError(
            f"there is no image {name}; known are: {', '.join(known) or 'none'}",
            id="image.unknown",
            hint=_way_to(name),
        )
    return image


def remove_image(name: str) -> None:
    """Remove a reference, and the image with its last reference; an id removes the image with all its references.

    Raises ImageError when there is no such image, or when a running sandbox uses it.
    """
    image, doomed = require_image(name), None
    cache = cache_directory()
    shelf = _shelf(cache)
    with shelf.changing():
        references = [tag for tag, image_id in _references(cache).items() if image_id == image.image_id]
        removed = [tag for tag in references if tag in _spellings(name)] or references
        home = shelf.path(image.image_id)
        if removed == references and is_locked(home / _IN_USE):
            raise ImageError(
                f"the image {name} is in use by a running sandbox",
                id="image.in-use",
                hint="stop the sandbox that uses it: kata-dind ls names it",
            )
        for reference in removed:
            _reference_file(cache, reference).unlink(missing_ok=True)
        if removed == references and home.exists():
            doomed = set_aside(home)
    if doomed:
        delete(doomed)


@contextlib.contextmanager
def use_image(image: DindImage) -> Iterator[DindImage]:
    """Keep an image from being removed for the length of the block. Raises ImageError when it has been removed."""
    home = image.disk.parent
    name = image.reference or image.image_id
    gone = ImageError(f"the image {name} has been removed", id="image.removed", hint=_way_to(image.reference))
    with _shelf(home.parents[1]).shared(home.name, gone=gone):
        yield image


def add_image(directory: Path, image: DindImage, *, cache: Path) -> DindImage:
    """Publish an image whose disk lies in `directory`, and move its reference, if it has one, to it.

    The id, disk and size are filled in. When an image with the same content exists, it stays where it is and gets the
    facts of the new one.
    """
    from kata_dind.host.disks import (
        make_durable,
    )  # imported here, since only builders need it: `image ls` must be quick

    image_id, shelf = _identify(directory / _DISK, image), _shelf(cache)
    home = shelf.path(image_id)
    size_bytes = (directory / _DISK).stat().st_size
    image = dataclasses.replace(image, image_id=image_id, disk=home / _DISK, size_bytes=size_bytes)
    (directory / _IN_USE).touch(mode=0o600)
    write_json(directory / _FACTS, image_fields(image))
    make_durable(directory)
    make_private(shelf.directory)
    with shelf.changing():
        if (home / _FACTS).is_file():
            write_json(home / _FACTS, image_fields(image))
        else:
            if home.exists():  # an earlier version was killed in the middle of a removal
                set_aside(home)
            shelf.place(directory, image_id)
        if image.reference:
            reference_file = _reference_file(cache, image.reference)
            make_private(reference_file.parent)
            write_json(reference_file, {"reference": image.reference, "image_id": image_id})
    return image


def adopt_image(disk: Path, fields: dict[str, Any]) -> None:
    """Add an image from another machine, by its `image_fields`; if it is here already, `disk` becomes a link to ours.

    It gets no reference, since a reference decides which image a start uses. Raises SpecError when the content of the
    disk is not that of the image.
    """
    from kata_dind.host.disks import link_or_copy
    from kata_dind.image.workspace import Goal, open_workspace

    cache = cache_directory()
    image = image_from_fields(fields, disk=disk)
    if _identify(disk, image) != image.image_id:
        raise SpecError(f"the content of the disk is not that of the image {image.image_id}", id="image.disk-differs")
    if found := find_image(image.image_id):
        disk.unlink()
        link_or_copy(found.disk, disk)
        return
    with open_workspace(cache, Goal(f"add the image {image.image_id}", needs_mib=64)) as workspace:
        product = workspace.directory / "product"
        product.mkdir()
        link_or_copy(disk, product / _DISK)
        add_image(product, image, cache=cache)


def image_since(reference: str, *, since: float) -> DindImage | None:
    """Return the image that a reference names, if the reference was set after `since` (wall-clock seconds)."""
    with contextlib.suppress(FileNotFoundError):
        if _reference_file(cache_directory(), reference).stat().st_mtime >= since:
            return find_image(reference)
    return None


def now_as_text() -> str:
    """Return the present time in the form of `created`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _way_to(reference: str) -> str:
    kind, _, suite = reference.partition(":")
    if kind == "dind" and suite:
        return f"kata-dind image build --suite {suite}"
    return "kata-dind image ls; then kata-dind image build, or kata-dind image pull REFERENCE"


def _shelf(cache: Path) -> Shelf:
    ids = ErrorIds(name_taken="image.name-taken", unknown="image.unknown", in_use="image.in-use")
    return Shelf(cache / "images", "image", ids=ids, lock=_IN_USE)


def _references(cache: Path) -> dict[str, str]:
    """Return all references with the ids of their images."""
    files = (read_json(path) for path in (cache / "references").glob("*.json"))
    return {fields["reference"]: fields["image_id"] for fields in files if fields}  # a file may be removed this moment


def _reference_file(cache: Path, reference: str) -> Path:
    from kata_dind.image.cache import content_key

    return cache / "references" / f"{content_key(reference)}.json"


def _spellings(name: str) -> tuple[str, str]:
    return name, f"{name}:latest"


def _load_all(cache: Path) -> dict[str, DindImage]:
    found = {home: read_json(home / _FACTS) for home in _shelf(cache).paths()}
    return {home.name: image_from_fields(fields, disk=home / _DISK) for home, fields in found.items() if fields}


def image_from_fields(fields: dict[str, Any], *, disk: Path) -> DindImage:
    """Rebuild an image from `image_fields`, without a reference. Raises KeyError or TypeError for other fields."""
    lists = {name: tuple(fields[name]) for name in ("entrypoint", "command", "environment")}
    return DindImage(**{**fields, **lists, "reference": "", "disk": disk})


def image_fields(image: DindImage) -> dict[str, Any]:
    """Return the facts about an image as JSON values, without its place and its reference."""
    return {
        field.name: getattr(image, field.name)
        for field in dataclasses.fields(image)
        if field.name not in ("reference", "disk")
    }


def _identify(disk: Path, image: DindImage) -> str:
    """Return an image's id: a key of its files and of the command of its container."""
    import hashlib

    with disk.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps([image.entrypoint, image.command, image.environment]).encode())
    return digest.hexdigest()[:12]
