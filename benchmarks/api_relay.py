"""What it costs that the endpoint's relay follows Docker's API to see the binds that are asked for.

A running sandbox is used, and Docker's own client on this host. The relay's work is repeated beside it, on the very
bytes that go through: what a client sends and dockerd answers is followed once more by a `Conversation`, and the time
that takes is compared with what the command took. This does not depend on how quick the machine is at the moment,
which differs by more than what is measured.

    run     `docker run --rm IMAGE true`, the median of some rounds
    load    `docker load` of an archive with random bytes
    import  the modules that the first connection to the endpoint imports, once for each sandbox

Bars: run and load <= 2 %. Exits with 1 when one is missed.

    .venv/bin/python benchmarks/api_relay.py SANDBOX [--rounds 5] [--load-mib 1024] [--image kata-dind/hello] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kata_dind.life.binds import asked_sources, may_bind
from kata_dind.sandbox.api import require_sandbox
from kata_dind.wire.http_messages import Conversation, Held, path_of

BAR = 0.02
READ_BYTES = 64 * 1024


class Following:
    """A proxy that follows each connection, and adds up how long that takes."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.seconds = 0.0
        self.bytes = 0

    def serve(self, listener: socket.socket) -> None:
        """Serve until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._carry, args=(listener.accept()[0],), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        conversation = Conversation(may_bind, most_held_bytes=16 << 20)
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._endpoint))
            waiting = [client, server]
            while waiting:
                for source in select.select(waiting, [], [])[0]:
                    target = server if source is client else client
                    data = source.recv(READ_BYTES)
                    if not data:
                        waiting.remove(source)
                        with contextlib.suppress(OSError):
                            target.shutdown(socket.SHUT_WR)
                        continue
                    self._follow(conversation, data, from_client=source is client)
                    with contextlib.suppress(OSError):
                        target.sendall(data)

    def _follow(self, conversation: Conversation, data: bytes, *, from_client: bool) -> None:
        started = time.perf_counter()
        if not from_client:
            conversation.from_server(data)
        elif not conversation.is_raw:
            for step in conversation.from_client(data):
                if isinstance(step, Held):
                    asked_sources(path_of(step.request.target), step.body)
        self.seconds += time.perf_counter() - started
        self.bytes += len(data)


@contextlib.contextmanager
def following(endpoint: Path) -> Iterator[tuple[Following, str]]:
    """Serve a proxy for the length of the block; yields it and its DOCKER_HOST."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "docker.sock")
        listener.bind(str(path))
        listener.listen(64)
        proxy = Following(endpoint)
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy, f"unix://{path}"


def docker(host: str, *words: str, stdin: BinaryIO | None = None) -> float:
    """Run a command of Docker's client, and return its seconds."""
    started = time.perf_counter()
    subprocess.run(["docker", *words], env={**os.environ, "DOCKER_HOST": host}, stdin=stdin, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - started


def archive(file: BinaryIO, size_mib: int) -> None:
    """Write an image of one layer with random bytes."""
    with tempfile.TemporaryFile() as layer:
        with tarfile.open(fileobj=layer, mode="w") as inner:
            member = tarfile.TarInfo("random")
            member.size = size_mib << 20
            with Path("/dev/urandom").open("rb") as random:
                inner.addfile(member, random)
        import hashlib

        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()  # fmt: skip
        manifest = [{"Config": "config.json", "RepoTags": ["kata-dind/benchmark:latest"], "Layers": ["layer.tar"]}]
        with tarfile.open(fileobj=file, mode="w") as image:
            for name, content in (("config.json", config), ("manifest.json", json.dumps(manifest).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                image.addfile(member, io.BytesIO(content))
            member = tarfile.TarInfo("layer.tar")
            member.size = layer.seek(0, os.SEEK_END)
            layer.seek(0)
            image.addfile(member, layer)
    file.seek(0)


def import_seconds() -> float:
    """Return how long the first connection's imports take in a process that has the owner's modules already."""
    script = (
        "import time, kata_dind.life.owner; start = time.perf_counter(); import kata_dind.life.guarded; "
        "print(time.perf_counter() - start)"
    )
    return min(float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(5))


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sandbox")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-mib", type=int, default=1024)
    parser.add_argument("--image", default="kata-dind/hello")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    endpoint = require_sandbox(arguments.sandbox).endpoint
    measured = {"import_seconds": import_seconds()}
    with following(endpoint) as (proxy, host):
        runs, shares = [], []
        for _ in range(arguments.rounds):
            before = proxy.seconds
            runs.append(docker(host, "run", "--rm", arguments.image))
            shares.append((proxy.seconds - before) / runs[-1])
        measured |= {"run_seconds": statistics.median(runs), "run_share": statistics.median(shares)}
        if arguments.load_mib:
            with tempfile.TemporaryFile() as file:
                archive(file, arguments.load_mib)
                before = proxy.seconds
                seconds = docker(host, "load", "--quiet", stdin=file)
            measured |= {"load_seconds": seconds, "load_share": (proxy.seconds - before) / seconds}
            docker(host, "rmi", "kata-dind/benchmark:latest")
    if arguments.json:
        print(json.dumps(measured, indent=2))
    else:
        for name, value in measured.items():
            print(f"{name:16} {value:.3%}" if name.endswith("_share") else f"{name:16} {value:.4f}")
    return int(any(value > BAR for name, value in measured.items() if name.endswith("_share")))


if __name__ == "__main__":
    sys.exit(main())
