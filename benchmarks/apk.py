"""What `apk add e2fsprogs` takes, the first step of the recipe in Kata's documentation, from a repository on loopback.

The recipe (`apk add e2fsprogs && truncate … && mkfs.ext4 … && mount …`) is that of
https://github.com/kata-containers/runtime/issues/1888#issuecomment-739057384.

apk is real, and its repository ours. The two indexes list as many packages as those of Alpine 3.22, which are 26,353.
Two roots are measured, in one of which e2fsprogs is installed already, as in the official images: there apk reads the
indexes and finds nothing to do. Several things make this faster than what a pod waits for: no TLS and no network, no
signatures to verify (--allow-untrusted), no triggers and no other packages in the root, and files that are in the page
cache.

On two cores with little other load, `APK=PATH .venv/bin/python benchmarks/dataroot.py --only entrypoint` says 436 ms
where e2fsprogs is installed and 456 ms where it is not, in turn with the entrypoint's 37 ms with a used disk and 60 ms
with a new one. So apk takes 11.6 times as long as a start with a used disk. On busy cores (a load of 6) it was 616 ms
against 94 ms, 6.5 times, for the entrypoint consists of more processes, which wait for each other.

Needs apk-tools 2 on the PATH, or by APK=PATH; Alpine has it, and elsewhere its source is built by
`make LUA=no SCDOC=:` within seconds (https://gitlab.alpinelinux.org/alpine/apk-tools, branch 2.14-stable).
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

INDEXED = {"main": 5_600, "community": 20_753}
"""How many packages each index lists. `apk update` says of Alpine 3.22.4: 26353 distinct packages available."""

PACKAGES = {
    "e2fsprogs": ("mke2fs", "e2fsck"),
    "e2fsprogs-libs": ("libext2fs.so.2", "libe2p.so.2", "libss.so.2"),
    "libcom_err": ("libcom_err.so.2",),
    "libblkid": ("libblkid.so.1",),
    "libuuid": ("libuuid.so.1",),
}
"""What `apk add e2fsprogs` installs, with this machine's files in place of Alpine's."""

_ARCH = "x86_64"
_random = random.Random(1)


def find_apk() -> str | None:
    """Return the program; None when there is none."""
    return shutil.which(os.environ.get("APK", "apk"))


@contextlib.contextmanager
def apk_add(apk: str) -> Iterator[Callable[[str], float]]:
    """Make what it needs, for the length of the block.

    Yields a function that adds e2fsprogs to a new root where it is `present` or `absent`, and returns milliseconds.
    """
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-", dir="/var/tmp") as directory:
        repositories, roots = Path(directory, "repositories"), Path(directory, "roots")
        make_repositories(repositories)
        with served(repositories) as address:
            _apk(apk, "add", "--initdb", "--no-cache", "e2fsprogs", root=roots / "present", address=address)
            _apk(apk, "add", "--initdb", "--no-cache", root=roots / "absent", address=address)

            def measure(name: str) -> float:
                root = roots / "new"
                subprocess.run(["cp", "-a", roots / name, root], check=True)  # with the devices that apk has made in it
                began = time.monotonic()
                _apk(apk, "add", "e2fsprogs", root=root, address=address)
                taken = (time.monotonic() - began) * 1000
                shutil.rmtree(root)
                return taken

            yield measure


def _apk(apk: str, *words: str, root: Path, address: str) -> None:
    (root / "etc/apk").mkdir(parents=True, exist_ok=True)
    (root / "var/cache/apk").mkdir(parents=True, exist_ok=True)
    (root / "etc/apk/repositories").write_text("".join(f"{address}/{name}\n" for name in INDEXED))
    options = ["--root", str(root), "--arch", _ARCH, "--allow-untrusted", "--no-progress"]
    done = subprocess.run([apk, *options, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"apk {' '.join(words)} failed: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory by HTTP on loopback for the length of the block; yields the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def make_repositories(directory: Path) -> None:
    """Make both, with the packages in `main`."""
    for repository, count in INDEXED.items():
        (directory / repository / _ARCH).mkdir(parents=True)
        records = [_make_up_record(number) for number in range(count)]
        if repository == "main":
            records += [_make_package(directory / repository / _ARCH, name) for name in PACKAGES]
        index = _tar_gz({"DESCRIPTION": b"v3.22", "APKINDEX": "\n".join(records).encode() + b"\n"})
        (directory / repository / _ARCH / "APKINDEX.tar.gz").write_bytes(index)


def _make_up_record(number: int) -> str:
    name = f"package-{number:05}"
    return (
        f"C:{_checksum(_random.randbytes(20))}\nP:{name}\nV:1.{number % 40}.{number % 7}-r{number % 5}\nA:{_ARCH}\n"
        f"S:{_random.randrange(1 << 20)}\nI:{_random.randrange(1 << 22)}\nT:What {name} is for, in some words\n"
        f"U:https://{name}.example.org/\nL:GPL-2.0-or-later\no:{name}\nm:Somebody <somebody@example.org>\n"
        f"t:{1_700_000_000 + number}\nc:{_random.randbytes(20).hex()}\n"
        f"D:so:libc.musl-{_ARCH}.so.1 so:lib{number // 3}.so.1\n"
        f"p:so:lib{number}.so.1=1.{number % 40} cmd:{name}=1.{number % 40}.{number % 7}-r{number % 5}\n"
    )


def _make_package(directory: Path, name: str) -> str:
    """Make an .apk, and return its record."""
    data = _tar_gz({f"usr/lib/{file}": _find(file).read_bytes() for file in PACKAGES[name]}, with_checksums=True)
    needs = " ".join(other for other in PACKAGES if other != name) if name == "e2fsprogs" else ""
    info = {"pkgname": name, "pkgver": "1.47.2-r2", "arch": _ARCH, "size": "1", "pkgdesc": name, "license": "GPL"}
    lines = [f"{key} = {value}" for key, value in info.items()] + [f"depend = {one}" for one in needs.split()]
    lines.append(f"datahash = {hashlib.sha256(data).hexdigest()}")
    control = _tar_gz({".PKGINFO": "\n".join(lines).encode() + b"\n"}, ended=False)
    package = directory / f"{name}-1.47.2-r2.apk"
    package.write_bytes(control + data)
    checksum = _checksum(hashlib.sha1(control, usedforsecurity=False).digest())
    return f"C:{checksum}\nP:{name}\nV:1.47.2-r2\nA:{_ARCH}\nS:{package.stat().st_size}\nI:1\nT:{name}\nL:GPL\n" + (
        f"D:{needs}\n" if needs else ""
    )


def _find(file: str) -> Path:
    places = ("/usr/sbin", "/sbin", f"/usr/lib/{_ARCH}-linux-gnu", f"/lib/{_ARCH}-linux-gnu", "/usr/lib", "/lib")
    return next(Path(place, file).resolve() for place in places if Path(place, file).exists())


def _checksum(digest: bytes) -> str:
    return "Q1" + base64.b64encode(digest).decode()


def _tar_gz(files: dict[str, bytes], *, with_checksums: bool = False, ended: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            if with_checksums:
                digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
                member.pax_headers = {"APK-TOOLS.checksum.SHA1": digest}
            tar.addfile(member, io.BytesIO(content))
        length = tar.offset
    # The control segment of a package goes on with its data, so that it lacks the blocks that end a tar.
    return gzip.compress(buffer.getvalue() if ended else buffer.getvalue()[:length], mtime=0)
