"""The dind images in the cache: content-addressed, each with a record of how its container starts, named by references.

An image lies in a directory named by its id, under a lock that running sandboxes share. A reference is a file that
holds an id; moving it leaves the older image in place, without a reference, until it is removed by its id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import ImageError
from kata_dind.host.directories import cache_directory
from kata_dind.host.locks import is_locked, locked, locked_shared
from kata_dind.image.cache import publish

_DISK = "disk.erofs"
_RECORD = "image.json"
_IN_USE = "in-use.lock"


@dataclass(frozen=True)
class DindImage:
    """A container's root file system with a dockerd in it, as a read-only disk, and how its container starts."""

    reference: str
    """What it is called; empty for an image that has lost its reference to a newer one."""
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
    """A key of what it was built from, for a built one: whether another build would give something else."""


def list_images() -> list[DindImage]:
    """Return all images, once per reference, ordered by reference; those without one come last."""
    cache = cache_directory()
    images = {path.name: path for path in (cache / "images").glob("*") if (path / _RECORD).is_file()}
    tags = _references(cache)
    named = [_load(images[image_id], reference) for reference, image_id in sorted(tags.items()) if image_id in images]
    unnamed = [_load(images[image_id], "") for image_id in sorted(set(images) - set(tags.values()))]
    return named + unnamed


def find_image(name: str) -> DindImage | None:
    """Return the image with this reference, or whose id begins so (4 digits at least, and only one's does)."""
    images = list_images()
    for image in images:
        if image.reference == name:
            return image
    ids = {image.image_id: image for image in reversed(images) if len(name) >= 4 and image.image_id.startswith(name)}
    return next(iter(ids.values())) if len(ids) == 1 else None


def require_image(name: str) -> DindImage:
    """Return the image that `find_image` finds. Raises ImageError, which names those there are."""
    image = find_image(name)
    if image is None:
        known = sorted({image.reference or image.image_id for image in list_images()})
        raise ImageError(
            f"there is no image {name}; known are: {', '.join(known) or 'none'}",
            hint=_way_to(name),
        )
    return image


def remove_image(name: str) -> None:
    """Remove a reference, and the image with the last of them; an id removes the image with all its references.

    Raises ImageError when there is none, or when a running sandbox uses it.
    """
    image = require_image(name)
    cache = cache_directory()
    with _changes(cache):
        references = [tag for tag, image_id in _references(cache).items() if image_id == image.image_id]
        removed = [name] if name in references else references
        directory = image.disk.parent
        if removed == references:
            if is_locked(directory / _IN_USE):
                raise ImageError(
                    f"image {name} is in use by a running sandbox",
                    hint="stop the sandbox that uses it: kata-dind ls names it",
                )
            _remove_directory(directory)
        for reference in removed:
            _reference_file(cache, reference).unlink(missing_ok=True)


@contextlib.contextmanager
def use_image(image: DindImage) -> Iterator[DindImage]:
    """Keep an image from being removed for the length of the block. Raises ImageError when it is gone already."""
    directory = image.disk.parent
    with contextlib.ExitStack() as stack:
        # Under the lock of changes, so that nobody removes it between our look and our lock.
        with _changes(directory.parents[1]):
            if not (directory / _RECORD).is_file():
                raise ImageError(
                    f"image {image.reference or image.image_id} has been removed", hint=_way_to(image.reference)
                )
            stack.enter_context(locked_shared(directory / _IN_USE, timeout_seconds=None))
        yield image


def add_image(directory: Path, record: DindImage, *, cache: Path) -> DindImage:
    """Publish an image whose disk lies in `directory`, and point its reference at it.

    The id, disk and size of the record are filled in. An image of the same content stays where it is and gets
    the new record.
    """
    disk = directory / _DISK
    image_id = _digest(disk)
    image = dataclasses.replace(
        record, image_id=image_id, disk=cache / "images" / image_id / _DISK, size_bytes=disk.stat().st_size
    )
    (directory / _RECORD).write_text(json.dumps(_fields(image)))
    (directory / _IN_USE).touch(mode=0o600)
    (cache / "images").mkdir(mode=0o700, exist_ok=True)
    with _changes(cache):
        home = image.disk.parent
        if (home / _RECORD).is_file():
            (directory / _RECORD).replace(home / _RECORD)
        else:
            _remove_directory(home)  # what a removal left that was killed half-way
            publish(directory, home)
        _write_reference(cache, image.reference, image_id)
    return image


def image_since(reference: str, *, since: float) -> DindImage | None:
    """Return the image that a reference names, if it was given that name after `since` (wall-clock seconds)."""
    with contextlib.suppress(FileNotFoundError):
        if _reference_file(cache_directory(), reference).stat().st_mtime >= since:
            return find_image(reference)
    return None


def now_as_text() -> str:
    """Return the time as images record it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _way_to(reference: str) -> str:
    kind, _, suite = reference.partition(":")
    if kind == "dind" and suite:
        return f"kata-dind image build --suite {suite}"
    return "kata-dind image ls; then kata-dind image build, or kata-dind image pull REFERENCE"


def _changes(cache: Path) -> contextlib.AbstractContextManager[int]:
    """Serialise whatever adds or removes images and references; nobody holds this for long."""
    return locked(cache / "images.lock", timeout_seconds=None)


def _references(cache: Path) -> dict[str, str]:
    directory = cache / "references"
    files = sorted(path for path in directory.glob("*") if not path.name.startswith("."))
    return {urllib.parse.unquote(path.name): path.read_text().strip() for path in files}


def _reference_file(cache: Path, reference: str) -> Path:
    return cache / "references" / urllib.parse.quote(reference, safe="")


def _write_reference(cache: Path, reference: str, image_id: str) -> None:
    target = _reference_file(cache, reference)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    draft = target.with_name(".draft")
    draft.write_text(f"{image_id}\n")
    draft.replace(target)


def _remove_directory(directory: Path) -> None:
    # Without its record it is no image any more, also when we are killed before the rest is gone.
    (directory / _RECORD).unlink(missing_ok=True)
    if directory.exists():
        shutil.rmtree(directory)


def _load(directory: Path, reference: str) -> DindImage:
    fields: dict[str, Any] = json.loads((directory / _RECORD).read_text())
    lists = {name: tuple(fields[name]) for name in ("entrypoint", "command", "environment")}
    return DindImage(**{**fields, **lists, "reference": reference, "disk": directory / _DISK})


def _fields(image: DindImage) -> dict[str, Any]:
    return {
        field.name: getattr(image, field.name)
        for field in dataclasses.fields(image)
        if field.name not in ("reference", "disk")
    }


def _digest(disk: Path) -> str:
    with disk.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
