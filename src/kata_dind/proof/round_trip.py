"""The proof that dockerd's storage works: load → create → export of an image that only a working overlay gets right.

`docker info` is no proof: a containerd image store on an unfit file system reports itself healthy and fails at the
first layer with a whiteout. The guest entrypoint has made the other half of the proof, a real overlay mount.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kata_dind.drivers import FALLBACK_DRIVERS, UNFIT_DRIVERS
from kata_dind.errors import DockerdFailed, VerdictFailed
from kata_dind.image.archive import CAPABILITY_RECORD, Layer, docker_archive
from kata_dind.proof.docker_api import DockerApi
from kata_dind.proof.verdict import Verdict
from kata_dind.vocabulary import Fallback

logger = logging.getLogger(__name__)

PROOF_IMAGE = "kata-dind/proof:latest"

_HINT = "choose another --data-root"

_LOWER = Layer(files={"d/hidden": b"lower", "d/removed": b"lower", "kept": b"lower", "o/below": b"lower"})
# CAP_NET_BIND_SERVICE, permitted and effective: struct vfs_cap_data of revision 2. Source: linux/capability.h.
_CAPABILITY = b"\x01\0\0\x02" + b"\0\x04\0\0" + bytes(12)
_UPPER = Layer(
    files={"d/.wh.removed": b"", "kept": b"upper", "o/.wh..wh..opq": b"", "o/above": b"upper"},
    executables={"program": b"upper"},
    capabilities={"program": _CAPABILITY},
)
_EXPECTED = {"d/hidden": b"lower", "kept": b"upper", "o/above": b"upper", "program": b"upper"}
_OURS = frozenset(name.partition("/")[0] for name in _EXPECTED)

_LARGEST_BYTES = 4096
"""The proof's files are smaller; a size that the guest claims must not cost us memory."""


def prove(endpoint: Path, *, timeout_seconds: float, fallback: Fallback = Fallback.NONE) -> Verdict:
    """Make the round trip through a daemon and return the verdict.

    Raises VerdictFailed with the step that failed. `fallback` is the one that the user has asked for; a driver that
    belongs to it is accepted.
    """
    started = time.monotonic()
    api = DockerApi(endpoint, timeout_seconds=timeout_seconds)
    with _step("info"):
        info = api.info()
    driver = str(info.get("Driver"))
    if driver in UNFIT_DRIVERS and driver not in FALLBACK_DRIVERS[fallback]:
        raise VerdictFailed(
            f"dockerd fell back to the storage driver {driver}, which {UNFIT_DRIVERS[driver]}",
            id="proof.unfit-driver",
            hint=_HINT,
        )
    file_capabilities = True
    try:
        _round_trip(api, _UPPER)
    except VerdictFailed as error:
        if driver not in UNFIT_DRIVERS:
            raise
        # Where overlay does not work, extended attributes mostly don't either; everything else must still be right.
        logger.warning("%s; trying %s without a file capability", error.summary, driver)
        _round_trip(api, dataclasses.replace(_UPPER, capabilities={}))
        file_capabilities = False
    version, seconds = str(info.get("ServerVersion", "")), time.monotonic() - started
    return Verdict(version, describe_storage(info), native_diff(info), seconds, file_capabilities)


def describe_storage(info: dict[str, Any]) -> str:
    """Put what GET /info says about the storage into words: `overlay2 on extfs`, or a snapshotter's name alone."""
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


def _round_trip(api: DockerApi, upper: Layer) -> None:
    """Load, create and export; raises VerdictFailed when a step fails or the content comes back changed."""
    try:
        with _step("load"):
            api.load_image(docker_archive(PROOF_IMAGE, [_LOWER, upper]))
        with _step("create and export"):
            files, capabilities = _export(api)
    finally:
        with contextlib.suppress(DockerdFailed):
            api.remove_image(PROOF_IMAGE)
    if files != _EXPECTED:
        raise VerdictFailed(
            "the proof failed: the files of a container are not those of its image's layers",
            id="proof.files-differ",
            details=f"expected {_EXPECTED}\nfound    {files}",
            hint=_HINT,
        )
    if capabilities != upper.capabilities:
        raise VerdictFailed(
            "the proof failed: the file capabilities in a container are not those of its image's layers",
            id="proof.capabilities-differ",
            details=f"expected {upper.capabilities}\nfound    {capabilities}",
            hint=_HINT,
        )


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except DockerdFailed as error:
        raise VerdictFailed(
            f"the proof failed at {name}: {error.summary}",
            id="proof.docker-failed",
            details=error.details,
            hint=_HINT,
        ) from error


_Content = tuple[dict[str, bytes], dict[str, bytes]]
"""The content of files by name, and their capabilities."""


def _export(api: DockerApi) -> _Content:
    container = api.create_container(PROOF_IMAGE, ["/none"])
    try:
        archive = api.export_container(container)
    finally:
        api.remove_container(container)
    try:
        return _proof_content(archive)
    except tarfile.TarError as error:
        raise DockerdFailed(
            f"what dockerd exports is not a tar archive: {error}", id="dockerd.answer-unreadable"
        ) from error


def _proof_content(archive: bytes) -> _Content:
    files, capabilities = {}, {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if not (member.isreg() and not member.issparse() and member.size < _LARGEST_BYTES):
                continue
            if member.name.partition("/")[0] in _OURS and (file := tar.extractfile(member)):
                files[member.name] = file.read()
                if (capability := member.pax_headers.get(CAPABILITY_RECORD)) is not None:
                    capabilities[member.name] = capability.encode(errors="surrogateescape")
    return files, capabilities
