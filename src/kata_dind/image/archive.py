"""Small images as `docker save` archives, made in memory and the same to the byte each time. Pure."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CAPABILITY_RECORD = "SCHILY.xattr.security.capability"
"""The PAX record that carries a file capability, in layers and in exports. Source: archive/tar of Go."""


@dataclass(frozen=True)
class Layer:
    """A layer's regular files by path, without a leading slash; a whiteout is a file with the name from OCI."""

    files: Mapping[str, bytes]
    executables: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links and their targets."""
    capabilities: Mapping[str, bytes] = field(default_factory=dict)
    """Files' `security.capability` attributes in the kernel's form; no byte above 127, since PAX values are UTF-8."""


def docker_archive(reference: str, layers: Sequence[Layer], config: Mapping[str, object] | None = None) -> bytes:
    """Build an archive that `docker load` takes, from Docker 20.10 on.

    `config` is Docker's Config: Entrypoint, Cmd, Env. Source: the image specification v1.2 of moby.
    """
    tars = [_layer_tar(layer) for layer in layers]
    image = json.dumps(
        {
            "architecture": _docker_architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(tar)}" for tar in tars]},
        }
    ).encode()
    names = [f"{_digest(tar)}/layer.tar" for tar in tars]
    manifest = [{"Config": f"{_digest(image)}.json", "RepoTags": [reference], "Layers": names}]
    entries = [*zip(names, tars, strict=True), (f"{_digest(image)}.json", image)]
    return _tar([*entries, ("manifest.json", json.dumps(manifest).encode())])


def _layer_tar(layer: Layer) -> bytes:
    executables = [(name, content, 0o755) for name, content in layer.executables.items()]
    regular = [(name, content, 0o644) for name, content in layer.files.items()]
    return _tar_with_modes([*regular, *executables], layer.links, layer.capabilities)


def _tar(entries: Sequence[tuple[str, bytes]]) -> bytes:
    return _tar_with_modes([(name, content, 0o644) for name, content in entries], {}, {})


def _tar_with_modes(
    entries: Sequence[tuple[str, bytes, int]], links: Mapping[str, str], capabilities: Mapping[str, bytes]
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        names = [*(name for name, _, _ in entries), *links]
        for directory in sorted({parent for name in names for parent in _parents(name)}):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, content, mode in sorted(entries):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            if name in capabilities:
                member.pax_headers = {CAPABILITY_RECORD: capabilities[name].decode("ascii")}
            tar.addfile(member, io.BytesIO(content))
        for name, target in sorted(links.items()):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _docker_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
