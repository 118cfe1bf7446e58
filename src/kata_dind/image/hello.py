"""The built-in image kata-dind/hello, as an archive that `docker load` of Docker 20.10 to 29 takes.

The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable

from kata_dind.image.busybox import APPLETS

REFERENCE = "kata-dind/hello:latest"
_CREATED = "2020-01-01T00:00:00Z"


def hello_archive(*, busybox: bytes, script: bytes, architecture: str) -> bytes:
    """Return the archive: one layer with a static busybox, and a script as the entrypoint.

    `architecture` is Docker's word, such as amd64.
    """
    layer = _layer(busybox, script)
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(_config(layer_digest, architecture), sort_keys=True).encode()
    config_digest = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{config_digest}.json", "RepoTags": [REFERENCE], "Layers": [f"{layer_digest}/layer.tar"]}]
    return _tar(
        [
            (_directory(layer_digest), b""),
            (_file(f"{layer_digest}/layer.tar", 0o644), layer),
            (_file(f"{config_digest}.json", 0o644), config),
            (_file("manifest.json", 0o644), json.dumps(manifest).encode()),
        ]
    )


def _layer(busybox: bytes, script: bytes) -> bytes:
    links = [(_link(f"bin/{applet}", "busybox"), b"") for applet in APPLETS]
    return _tar(
        [
            (_directory("bin"), b""),
            (_file("bin/busybox", 0o755), busybox),
            *links,
            *((_directory(name), b"") for name in ("dev", "etc", "proc", "sys")),
            (_file("hello.sh", 0o755), script),
        ]
    )


def _config(layer_digest: str, architecture: str) -> dict[str, object]:
    return {
        "architecture": architecture,
        "os": "linux",
        "created": _CREATED,
        "config": {"Entrypoint": ["/hello.sh"], "Cmd": None, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": _CREATED, "created_by": "kata-dind"}],
    }


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _file(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode = mode
    return member


def _directory(name: str) -> tarfile.TarInfo:
    member = _file(name, 0o755)
    member.type = tarfile.DIRTYPE
    return member


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = _file(name, 0o777)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member
