#!/usr/bin/env python3
"""Find out which Docker opens which data root: real daemons from dind images, each pair on a copy of one ext4 disk.

    scripts/docker_versions.py [--json] [WRITER[,WRITER...] [OPENER[,OPENER...]]]

The writer fills the data root and is stopped; the opener is asked what it sees, and then the writer is asked again.
Prints a table in Markdown, or with --json a line for each pair: what was seen, and the errors in the daemon's log.
Needs root, loop devices and the images of `_DAEMONS` (scripts/build_dind29.py makes `dind:29`), but no VM and no
registry, and takes five seconds a pair. The daemons run in their own mount, pid, net, uts and ipc namespaces, without
iptables.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound

from kata_dind.errors import KataDindError
from kata_dind.host.process import daemon, run
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.store import require_image

_COMMON = {"hosts": ["unix:///run/sockets/docker.sock"], "iptables": False, "bridge": "none"}
_CONTAINERD: dict[str, object] = {"features": {"containerd-snapshotter": True}}
_DAEMONS: dict[str, tuple[str, dict[str, object]]] = {
    "20.10": ("dind:bookworm", {}),
    "26.1": ("dind:trixie", {}),
    "28.5": ("dind:forky", {}),
    "29": ("dind:29", {}),
    "26.1 containerd": ("dind:trixie", _CONTAINERD),
    "28.5 containerd": ("dind:forky", _CONTAINERD),
    "29 overlay2": ("dind:29", {"storage-driver": "overlay2"}),
    "20.10 vfs": ("dind:bookworm", {"storage-driver": "vfs"}),
    "28.5 vfs": ("dind:forky", {"storage-driver": "vfs"}),
    "29 vfs": ("dind:29", {"storage-driver": "vfs"}),
    "20.10 overlay": ("dind:bookworm", {"storage-driver": "overlay"}),
}
"""The image and the daemon.json of each; a sandbox starts with an empty daemon.json."""

_SESSION = """
set -eu
disk=$1 data=$2 sockets=$3 layers=$4
# dockerd writes into /etc/docker, so the image gets a layer that can be written to, as in a sandbox.
mount -t tmpfs tmpfs "$layers"
mkdir "$layers/lower" "$layers/upper" "$layers/work" "$layers/root"
root=$layers/root
mount -o loop,ro "$disk" "$layers/lower"
mount -t overlay -o "lowerdir=$layers/lower,upperdir=$layers/upper,workdir=$layers/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/sockets"
mount --bind "$sockets" "$root/run/sockets"
mount -o loop "$data" "$root/var/lib/docker"
ip link set lo up
trap : TERM
chroot "$root" dockerd --config-file /run/sockets/daemon.json &
# The first wait ends with the signal that stops us.
wait $! || wait $!
# Before the namespace ends, since the next session may begin before the kernel has taken the mount away.
umount "$root/var/lib/docker"
"""

_DEADLINE_SECONDS = 60
_IMAGE, _CONTAINER, _VOLUME, _NETWORK = "versions:kept", "kept-container", "kept-volume", "kept-network"
_COMMAND = ["sh", "-c", "test ! -e /removed && cp /lower /written && cp /lower /volume/written"]
_DOCKERFILE = f"FROM {_IMAGE}\nRUN cat /lower /upper >/both\n"


@dataclass
class Seen:
    """The part of another daemon's data that a daemon sees, and what it can do."""

    driver: str = ""
    """Empty when it does not start."""
    works: list[str] = field(default_factory=list)
    """The names of the `_QUESTIONS` that it answers with yes."""
    notes: list[str] = field(default_factory=list)
    """Errors, from its answers and from its log."""

    def in_a_word(self) -> str:
        """Return `all`, `blind` (its images and containers are out of sight; all else works), or what is missing."""
        missing = [name for name in _QUESTIONS if name not in self.works]
        words = {(): "all", _STORED: "blind"}
        return words.get(tuple(missing), f"no {', '.join(missing)}") if self.driver else "does not start"


def main(argv: list[str]) -> int:
    """Print the table, or one line of JSON a pair."""
    as_json = "--json" in argv
    chosen = [argument.split(",") for argument in argv if argument != "--json"]
    writers, openers = [*chosen, *[list(_DAEMONS)] * 2][:2]
    if unknown := {*writers, *openers} - set(_DAEMONS):
        print(f"unknown: {', '.join(sorted(unknown))}; known are: {', '.join(_DAEMONS)}", file=sys.stderr)
        return 2
    try:
        _print_table(writers, openers, as_json=as_json)
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    return 0


def _print_table(writers: list[str], openers: list[str], *, as_json: bool) -> None:
    if not as_json:
        print(f"| written by ↓ opened by → | {' | '.join(openers)} |\n|---|{'---|' * len(openers)}")
    with tempfile.TemporaryDirectory(prefix="versions-") as directory:
        for writer in writers:
            pairs = list(_pairs(writer, openers, Path(directory)))
            lines = [json.dumps(pair) for pair in pairs] if as_json else [_row(writer, pairs)]
            print("\n".join(lines), flush=True)


def _row(writer: str, pairs: list[dict[str, Any]]) -> str:
    cells = []
    for pair in pairs:
        opened, again = (Seen(**pair[when]).in_a_word() for when in ("opened", "again"))
        cells.append(opened if again == "all" else f"{opened}, then {again}")
    return f"| **{writer}** | {' | '.join(cells)} |"


def _pairs(writer: str, openers: list[str], directory: Path) -> Iterator[dict[str, Any]]:
    original, data = directory / "original.img", directory / "data.img"
    original.unlink(missing_ok=True)
    run(["mkfs.ext4", "-q", original, "4G"], timeout_seconds=30)
    with _dockerd(writer, original, directory) as client:
        _fill(client)
    for opener in openers:
        run(["cp", "--sparse=always", original, data], timeout_seconds=60)
        seen = {when: asdict(_look(name, data, directory)) for when, name in (("opened", opener), ("again", writer))}
        yield {"writer": writer, "opener": opener, **seen}


def _look(name: str, data: Path, directory: Path) -> Seen:
    seen = Seen()
    try:
        with _dockerd(name, data, directory) as client:
            seen.driver = client.info()["Driver"]
            _ask(client, seen)
    except KataDindError as error:
        seen.notes.append(error.summary)
    log = (directory / "dockerd.log").read_text()
    seen.notes += dict.fromkeys(re.findall(r"(?:level=error msg=|^failed to ).*", log, re.MULTILINE))
    return seen


def _ask(client: docker.DockerClient, seen: Seen) -> None:
    for name, question in _QUESTIONS.items():
        try:
            question(client)
        except NotFound:
            continue
        except (APIError, RuntimeError) as error:
            seen.notes.append(f"{name}: {error}")
        else:
            seen.works.append(name)


@contextlib.contextmanager
def _dockerd(name: str, data: Path, directory: Path) -> Iterator[docker.DockerClient]:
    reference, storage = _DAEMONS[name]
    log, sockets, layers = (directory / file for file in ("dockerd.log", "sockets", "layers"))
    for path in (sockets, layers):
        path.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    (sockets / "docker.sock").unlink(missing_ok=True)
    (sockets / "daemon.json").write_text(json.dumps({**_COMMON, **storage}))
    namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
    session = ["sh", "-c", _SESSION, "sh", str(require_image(reference).disk), str(data), str(sockets), str(layers)]
    with daemon([*namespaces, *session], name="dockerd", log=log) as process:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not _answers(sockets / "docker.sock"):
            if process.ended(within_seconds=0.1) or time.monotonic() > deadline:
                raise KataDindError("dockerd does not start", id="dockerd.not-started", details=process.describe_end())
        with _client(sockets / "docker.sock") as client:
            yield client
        process.stop(rung_seconds=_DEADLINE_SECONDS)
        if process.returncode() != 0:
            evidence = process.describe_end()
            raise KataDindError("dockerd does not stop cleanly", id="dockerd.stop-failed", details=evidence)


def _answers(socket: Path) -> bool:
    try:
        with _client(socket) as client:
            return bool(client.ping())
    except DockerException:
        return False


def _client(socket: Path) -> contextlib.closing[docker.DockerClient]:
    return contextlib.closing(docker.DockerClient(f"unix://{socket}", timeout=_DEADLINE_SECONDS))


def _fill(client: docker.DockerClient) -> None:
    client.images.load(_archive(_IMAGE))
    client.volumes.create(_VOLUME)
    client.networks.create(_NETWORK, driver="bridge")
    mounts = {_VOLUME: {"bind": "/volume", "mode": "rw"}}
    _end(client.containers.create(_IMAGE, _COMMAND, name=_CONTAINER, network=_NETWORK, volumes=mounts))
    # BuildKit's own database is part of what has to be opened.
    _build(client, "versions:built")


def _has_image(client: docker.DockerClient) -> None:
    client.images.get(_IMAGE)


def _has_container(client: docker.DockerClient) -> None:
    container = client.containers.get(_CONTAINER)
    _require(_content(container, "/written"), b"lower")
    _end(container)


def _has_volume(client: docker.DockerClient) -> None:
    client.volumes.get(_VOLUME)
    with _fresh_container(client, ["true"], volumes={_VOLUME: {"bind": "/volume", "mode": "ro"}}) as reader:
        _require(_content(reader, "/volume/written"), b"lower")


def _has_network(client: docker.DockerClient) -> None:
    client.networks.get(_NETWORK)


def _builds_upon_it(client: docker.DockerClient) -> None:
    client.images.get(_IMAGE)
    _build(client, f"versions:built-{time.time_ns()}")


def _runs(client: docker.DockerClient) -> None:
    with _fresh_container(client, ["cat", "/upper"], network=_NETWORK) as container:
        _end(container)
        _require(container.logs(), b"upper")


_STORED = ("image", "container", "build")
_QUESTIONS = {
    "image": _has_image,
    "container": _has_container,
    "volume": _has_volume,
    "network": _has_network,
    "build": _builds_upon_it,
    "run": _runs,
}
"""A function that raises nothing means yes. A container must still have its file and start; `run` uses a new image."""


@contextlib.contextmanager
def _fresh_container(client: docker.DockerClient, command: list[str], **options: Any) -> Iterator[Any]:
    client.images.load(_archive("versions:fresh"))
    container = client.containers.create("versions:fresh", command, **options)
    try:
        yield container
    finally:
        container.remove(force=True)


def _build(client: docker.DockerClient, tag: str) -> None:
    """Build with BuildKit, which docker-py cannot use; a context in the body needs no session, and so no buildx."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(_DOCKERFILE)
        tar.addfile(member, io.BytesIO(_DOCKERFILE.encode()))
    api = client.api
    # BuildKit in 26.1's containerd store looks for such a context in the network: "lookup build-context-… on [::1]:53".
    old = client.info()["Driver"] == "overlayfs" and client.version()["Version"].startswith("26.")
    parameters = {"version": "1" if old else "2", "t": tag, "networkmode": "none"}
    answer = api.post(
        api._url("/build"), data=context.getvalue(), params=parameters, headers={"Content-Type": "application/x-tar"}
    )
    if answer.status_code != 200:
        raise RuntimeError(answer.text.strip())
    for line in answer.text.splitlines():
        if error := json.loads(line).get("error"):
            raise RuntimeError(error)
    client.images.get(tag)


def _end(container: Any) -> None:
    container.start()
    code = container.wait()["StatusCode"]
    if code != 0:
        raise RuntimeError(f"exit {code}: {container.logs()!r}")


def _content(container: Any, path: str) -> bytes:
    chunks, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        file = tar.extractfile(tar.next() or "")
        return file.read() if file else b""


def _archive(reference: str) -> bytes:
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    applets = {f"bin/{name}": "busybox" for name in ("sh", "cat", "cp", "true")}
    lower = Layer({"lower": b"lower", "removed": b"lower"}, executables={"bin/busybox": busybox}, links=applets)
    upper = Layer({"upper": b"upper", ".wh.removed": b""})
    return docker_archive(reference, [lower, upper], {"Env": ["PATH=/bin"]})


def _require(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise RuntimeError(f"expected {expected!r}, found {found!r}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
