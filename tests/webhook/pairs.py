"""Certificates for tests, and files that lie in a directory as kubelet mounts them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kata_dind.host.process import run

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """A certificate that is its own authority, with its key, both in PEM."""

    name: str
    """Its common name."""
    certificate: bytes
    key: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """What a Secret of the type kubernetes.io/tls holds."""
        return {"tls.crt": self.certificate, "tls.key": self.key}


def make_pair(directory: Path, *, hosts: str = "IP:127.0.0.1,DNS:localhost") -> Pair:
    """Make a certificate for a server on loopback, for two days."""
    name = f"pair-{next(_NUMBERS)}"
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}", "-days", "2"),
            *("-keyout", key, "-out", certificate),
        ],
        timeout_seconds=30,
    )
    return Pair(name, certificate.read_bytes(), key.read_bytes())


def expired(pair: Pair, directory: Path) -> Pair:
    """Return a certificate like another that has ended yesterday."""
    key, old, new = directory / "key", directory / "old", directory / "new"
    key.write_bytes(pair.key)
    old.write_bytes(pair.certificate)
    run(["openssl", "x509", "-in", old, "-signkey", key, "-days", "-1", "-out", new], timeout_seconds=30)
    return Pair(pair.name, new.read_bytes(), pair.key)


class Mounted:
    """A directory of files that change all at once: symbolic links to `..data`, which is a link that is swapped.

    Source: pkg/volume/util/atomic_writer.go in kubernetes/kubernetes.
    """

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        self.directory = directory
        directory.mkdir()
        self.swap(files)
        for name in files:
            (directory / name).symlink_to(f"..data/{name}")

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def swap(self, files: Mapping[str, bytes]) -> None:
        """Put other files in the place of all that there are."""
        data = self.directory / "..data"
        before = data.resolve() if data.is_symlink() else None
        made = self.directory / f"..{next(_NUMBERS)}"
        made.mkdir()
        for name, content in files.items():
            (made / name).write_bytes(content)
        link = self.directory / "..data_tmp"
        link.symlink_to(made.name)
        link.rename(data)
        if before is not None:
            for path in before.iterdir():
                path.unlink()
            before.rmdir()
