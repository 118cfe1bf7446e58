"""The dind image of a pod: one that containerd has, pulls through CRI, or is given from our own images."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kata_dind.backend.containerd.client import Containerd
from kata_dind.backend.containerd.failures import explained_pull
from kata_dind.dataroot.kinds import GUEST_PATH
from kata_dind.errors import ContainerdError, ImageError, KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.host.json_files import read_json
from kata_dind.host.process import require_tool
from kata_dind.image.store import DindImage, find_image, use_image
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from kata_dind.progress import Event, Report
from kata_dind.registry.keyring import Keyring, entries_of_config
from kata_dind.registry.remote import remote_image

DEFAULT_REFERENCE = "docker:dind"
_IMPORTED = "kata-dind.io/dind"

_PULL_SECONDS = 1800.0
_IMPORT_SECONDS = 900.0
_KNOWN_SECONDS = 20.0
"""CRI learns of an image that another client has made from an event; measured: 10 ms."""
_PART_BYTES = 1 << 20
"""containerd takes messages of up to 16 MiB; larger parts were not quicker (measured)."""


class PodImage(NamedTuple):
    """An image that containerd has, and how its container starts."""

    reference: str
    image_id: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    docker_version: str
    """Empty where the image doesn't tell."""


def require_image(containerd: Containerd, asked: str, *, earlier: str = "", report: Report) -> PodImage:
    """Return the image with a reference or an id, pulled or imported if containerd doesn't have it.

    `earlier` is the reference of an id that is asked for, from which it can be fetched again. Raises ImageError.
    """
    name = asked or DEFAULT_REFERENCE
    own = find_image(name)
    if own is not None:
        reference = f"{_IMPORTED}:{own.image_id[:40]}"
        found = _find(containerd, reference, shown=own.reference or name, own=own)
        return found or _imported(containerd, own, reference, report=report)
    found = _find(containerd, name, shown=earlier or name)
    if found is not None:
        return found
    if name.startswith("sha256:"):
        if not earlier:
            raise ImageError(
                f"containerd has no image {name}",
                id="image.unknown",
                hint="name one by its reference, which containerd can pull, or one of kata-dind image ls",
            )
        return require_image(containerd, earlier, report=report)
    return _pulled(containerd, name, report=report)


def _find(containerd: Containerd, name: str, *, shown: str, own: DindImage | None = None) -> PodImage | None:
    answer = containerd.call("ImageService/ImageStatus", failing=f"containerd was asked for the image {name}",
                             image={"image": name}, verbose=True)  # fmt: skip
    if not answer.HasField("image"):
        return None
    return _from_status(answer.image.id, json.loads(answer.info.get("info") or "{}"), shown, own)


def _from_status(image_id: str, info: Mapping[str, Any], reference: str, own: DindImage | None) -> PodImage:
    config = (info.get("imageSpec") or {}).get("config") or {}
    named = [each.partition("=")[2] for each in config.get("Env") or () if each.startswith("DOCKER_VERSION=")]
    docker_version = own.docker_version if own else next(iter(named), "")
    return PodImage(
        reference,
        image_id,
        tuple(config.get("Entrypoint") or ()),
        tuple(config.get("Cmd") or ()),
        docker_version,
    )


# --- pulled


def _pulled(containerd: Containerd, name: str, *, report: Report) -> PodImage:
    report(Event("pull", f"containerd pulls {name}"))
    refused: KataDindError | None = None
    for credentials in [*_credentials(name), {}]:
        try:
            containerd.call(
                "ImageService/PullImage",
                failing=f"containerd could not pull {name}",
                timeout_seconds=_PULL_SECONDS,
                image={"image": name},
                **({"auth": credentials} if credentials else {}),
            )
        except ContainerdError as error:
            refused = refused or error
            continue
        found = _find(containerd, name, shown=name)
        if found is not None:
            return found
    assert refused is not None
    raise explained_pull(refused, name) from refused


def _credentials(name: str) -> Iterator[dict[str, str]]:
    """Yield what Docker's configuration has for an image, the most specific first."""
    remote = remote_image(name)
    directory = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    if remote is None:
        return
    for credential in Keyring(entries_of_config(read_json(directory / "config.json"))).credentials_for(remote):
        yield {"username": credential.user, "password": credential.password}


# --- imported


def _imported(containerd: Containerd, image: DindImage, reference: str, *, report: Report) -> PodImage:
    shown = image.reference or image.image_id
    report(Event("import", f"giving containerd the image {shown}"))
    began = time.monotonic()
    with use_image(image), open_workspace(cache_directory(), Goal(f"import {shown}", needs_mib=2048)) as workspace:
        layer = _packed(image, workspace)
        _Import(containerd, shown).write_image(reference, layer, _config_of(image))
    deadline = time.monotonic() + _KNOWN_SECONDS
    while (found := _find(containerd, reference, shown=shown, own=image)) is None:
        if time.monotonic() > deadline:
            raise ContainerdError(f"containerd took the image {shown}, and does not show it by CRI",
                                  id="containerd.image-not-seen")  # fmt: skip
        time.sleep(0.02)
    report(Event("imported", f"containerd has {shown}", time.monotonic() - began))
    return found


def _packed(image: DindImage, workspace: Workspace) -> Path:
    """Return the image's root file system as an archive."""
    tree, layer = workspace.directory / "tree", workspace.directory / "layer.tar"
    workspace.run(require_tool("fsck.erofs", package="erofs-utils"), f"--extract={tree}", "--preserve", image.disk)
    workspace.run("tar", "--create", f"--file={layer}", f"--directory={tree}", "--numeric-owner", "--xattrs", ".")
    return layer


def _config_of(image: DindImage) -> dict[str, Any]:
    return {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "Env": list(image.environment),
        # As in the official images: what Docker writes is not the container's own layer.
        "Volumes": {GUEST_PATH: {}},
    }


class _Import:
    """The writing of one image, whose parts a lease keeps from containerd's garbage collector until it has a name."""

    def __init__(self, containerd: Containerd, shown: str) -> None:
        self._containerd = containerd
        self._failing = f"containerd did not take the image {shown}"
        self._lease = f"kata-dind-{os.urandom(8).hex()}"

    def write_image(self, reference: str, layer: Path, config: Mapping[str, Any]) -> None:
        """Write an image of one layer, and give it a name."""
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _IMPORT_SECONDS))
        self._call("Leases/Create", id=self._lease, labels={"containerd.io/gc.expire": expires})
        try:
            with layer.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = layer.stat().st_size
            self._write(_parts_of(layer), f"sha256:{digest}", size, {})
            descriptor = {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": f"sha256:{digest}",
                "size": size,
            }
            manifest = self._write_manifest(descriptor, config)
            self._name(reference, manifest)
        finally:
            self._call("Leases/Delete", id=self._lease)

    def _write_manifest(self, layer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        image = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        described = self._write_json("application/vnd.oci.image.config.v1+json", image, {})
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": [layer]}
        children = {"config": described["digest"], "l.0": layer["digest"]}
        labels = {f"containerd.io/gc.ref.content.{name}": digest for name, digest in children.items()}
        return self._write_json(kind, manifest, labels)

    def _name(self, reference: str, manifest: Mapping[str, Any]) -> None:
        target = {"media_type": manifest["mediaType"], "digest": manifest["digest"], "size": manifest["size"]}
        image = {"name": reference, "target": target, "labels": {"io.cri-containerd.image": "managed"}}
        try:
            self._call("Images/Create", image=image)
        except ContainerdError as error:
            if "already exists" not in error.details:
                raise

    def _write_json(self, kind: str, value: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
        content = json.dumps(value, sort_keys=True).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._write(iter([content]), digest, len(content), labels)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _write(self, parts: Iterator[bytes], digest: str, size: int, labels: Mapping[str, str]) -> None:
        requests = _write_requests(parts, digest, size, labels, reference=f"{self._lease}-{digest}")
        try:
            for _ in self._containerd.exchange("Content/Write", requests, failing=self._failing,
                                               timeout_seconds=_IMPORT_SECONDS, metadata=self._metadata):  # fmt: skip
                pass
        except ContainerdError as error:
            if "already exists" not in error.details:
                raise

    def _call(self, name: str, **fields: Any) -> None:
        self._containerd.call(name, failing=self._failing, metadata_of_call=self._metadata, **fields)

    @property
    def _metadata(self) -> Sequence[tuple[str, str]]:
        return [("containerd-lease", self._lease)]


def _parts_of(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(_PART_BYTES):
            yield part


def _write_requests(
    parts: Iterator[bytes], digest: str, size: int, labels: Mapping[str, str], *, reference: str
) -> Iterator[Any]:
    from kata_dind.backend.containerd.stubs import content_pb2

    offset = 0
    for part in parts:
        yield content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=reference, offset=offset, data=part)
        offset += len(part)
    yield content_pb2.WriteContentRequest(
        action=content_pb2.COMMIT, ref=reference, offset=offset, total=size, expected=digest, labels=labels
    )
