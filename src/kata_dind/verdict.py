"""The proof that dockerd's storage works: load → create → export of an image that only a working overlay gets right.

`docker info` is no proof: a containerd image store on an unfit file system reports itself healthy and fails at the
first layer with a whiteout. The guest entrypoint has made the other half of the proof, a real overlay mount.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import DockerdFailed, VerdictFailed
from kata_dind.host.docker_api import DockerApi
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.vocabulary import Fallback

PROOF_IMAGE = "kata-dind/proof:latest"

_LOWER = Layer(files={"d/hidden": b"lower", "d/removed": b"lower", "kept": b"lower", "o/below": b"lower"})
_UPPER = Layer(files={"d/.wh.removed": b"", "kept": b"upper", "o/.wh..wh..opq": b"", "o/above": b"upper"})
_EXPECTED = {"d/hidden": b"lower", "kept": b"upper", "o/above": b"upper"}

_LARGEST_BYTES = 4096
"""The proof's files are smaller; the guest's word for a size is not memory of ours."""

_UNFIT_DRIVERS = {
    "vfs": "copies every layer",
    "native": "copies every layer",
    "fuse-overlayfs": "serves every file by a program of its own",
}
_ACCEPTED_WITH: dict[Fallback, frozenset[str]] = {
    Fallback.NONE: frozenset(),
    Fallback.VFS: frozenset({"vfs", "native"}),  # the same for graph drivers and for the containerd store
    Fallback.FUSE_OVERLAYFS: frozenset({"fuse-overlayfs"}),
}


@dataclass(frozen=True)
class Verdict:
    """A proof that passed."""

    docker_version: str
    storage: str
    """Driver or snapshotter, with the backing file system where Docker tells it: `overlay2 on extfs`."""
    native_diff: bool | None
    seconds: float


def prove(endpoint: Path, *, timeout_seconds: float, fallback: Fallback = Fallback.NONE) -> Verdict:
    """Make the round trip through a daemon and return the verdict.

    Raises VerdictFailed with the step that failed. `fallback` accepts its storage driver, for who has asked for it.
    """
    started = time.monotonic()
    api = DockerApi(endpoint, timeout_seconds=timeout_seconds)
    step = "info"
    try:
        info = api.info()
        driver = str(info.get("Driver"))
        if driver in _UNFIT_DRIVERS and driver not in _ACCEPTED_WITH[fallback]:
            raise VerdictFailed(
                f"dockerd fell back to the storage driver {driver}, which {_UNFIT_DRIVERS[driver]}",
                hint="choose another --data-root",
            )
        step = "load"
        api.load_image(docker_archive(PROOF_IMAGE, [_LOWER, _UPPER]))
        step = "create and export"
        found = _export(api)
    except DockerdFailed as error:
        raise VerdictFailed(
            f"the proof failed at {step}: {error.summary}", details=error.details, hint="choose another --data-root"
        ) from error
    finally:
        with contextlib.suppress(DockerdFailed):
            api.remove_image(PROOF_IMAGE)
    if found != _EXPECTED:
        raise VerdictFailed(
            "the proof failed: a container does not hold what its image's layers say",
            details=f"expected {_EXPECTED}\nfound    {found}",
            hint="choose another --data-root",
        )
    version = str(info.get("ServerVersion", ""))
    return Verdict(version, describe_storage(info), native_diff(info), time.monotonic() - started)


def describe_storage(info: dict[str, Any]) -> str:
    """Say what GET /info tells of the storage: `overlay2 on extfs`, or a snapshotter's name alone."""
    backing = _driver_status(info).get("Backing Filesystem")
    driver = str(info.get("Driver", "unknown"))
    return f"{driver} on {backing}" if backing else driver


def native_diff(info: dict[str, Any]) -> bool | None:
    """Tell whether layers are diffed by overlayfs itself; None where Docker does not say."""
    value = _driver_status(info).get("Native Overlay Diff")
    return None if value is None else value == "true"


def _driver_status(info: dict[str, Any]) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in info.get("DriverStatus") or []}
    except (TypeError, ValueError):
        return {}


def _export(api: DockerApi) -> dict[str, bytes]:
    container = api.create_container(PROOF_IMAGE, ["/none"])
    try:
        archive = api.export_container(container)
    finally:
        api.remove_container(container)
    try:
        return _proof_files(archive)
    except tarfile.TarError as error:
        raise DockerdFailed(f"dockerd exports what is no archive: {error}") from error


def _proof_files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: file.read()
            for member in tar
            if member.name.partition("/")[0] in {"d", "kept", "o"}
            and member.isreg()
            and not member.issparse()
            and member.size < _LARGEST_BYTES
            and (file := tar.extractfile(member))
        }
