"""A daemon that speaks as much of the Docker Engine API as the proof needs, over a real Unix socket.

Images are loaded, merged with their whiteouts and exported for real, so that the proof proves something. What goes
wrong is chosen by `Faults`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

_CAPABILITY_RECORD = "SCHILY.xattr.security.capability"


@dataclass
class Faults:
    """What a daemon does wrong; the defaults are a healthy one with a classic storage driver."""

    driver: str = "overlay2"
    driver_status: list[list[str]] = field(
        default_factory=lambda: [["Backing Filesystem", "extfs"], ["Native Overlay Diff", "true"]]
    )
    load_error: str = ""
    """Said in the stream of a load that was answered with 200."""
    keeps_whiteouts: bool = False
    """Layers are laid over each other as if whiteouts were files, as on a file system that has none."""
    loses_capabilities: bool = False
    """Layers are unpacked without file capabilities, as the containerd store does where there are no attributes."""
    refuses_capabilities: bool = False
    """A layer with a file capability is not loaded, as with vfs where there are no attributes."""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Status and body by `METHOD /path`, instead of the right ones."""
    silent_on: frozenset[str] = frozenset()
    """`METHOD /path` that are never answered."""
    pings_before_ready: int = 0
    """How many pings are answered with 503 first."""


class File(NamedTuple):
    """A file of a layer or a container; an empty capability is none."""

    content: bytes
    capability: str = ""


class FakeDockerd:
    """The daemon's state; `respond` is all of its API."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.images: dict[str, dict[str, File]] = {}
        self.containers: dict[str, dict[str, File]] = {}
        self.calls: list[str] = []
        self._pings = 0

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request with a status and a body."""
        called = f"{method} {path}"
        self.calls.append(called)
        if called in self.faults.answers:
            return self.faults.answers[called]
        match method, path.strip("/").split("/"):
            case "GET", ["_ping"]:
                return self._ping()
            case "GET", ["version"]:
                return 200, _json({"Version": "99.1", "ApiVersion": "1.41"})
            case "GET", ["info"]:
                return 200, _json(self._info())
            case "POST", ["images", "load"]:
                return self._load(body)
            case "POST", ["containers", "create"]:
                return self._create(json.loads(body))
            case "GET", ["containers", container, "export"] if container in self.containers:
                return 200, _tar(self.containers[container])
            case "DELETE", ["containers", container] if self.containers.pop(container, None) is not None:
                return 204, b""
            case "DELETE", ["images", *rest] if self.images.pop("/".join(rest), None) is not None:
                return 200, b"[]"
        return 404, _json({"message": f"there is nothing at {path}"})

    def _ping(self) -> tuple[int, bytes]:
        self._pings += 1
        return (200, b"OK") if self._pings > self.faults.pings_before_ready else (503, b"starting")

    def _info(self) -> dict[str, Any]:
        return {
            "ServerVersion": "99.1",
            "Driver": self.faults.driver,
            "DriverStatus": self.faults.driver_status,
        }

    def _load(self, body: bytes) -> tuple[int, bytes]:
        if self.faults.load_error:
            return 200, _json({"errorDetail": {}, "error": self.faults.load_error}) + b"\r\n"
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            (image,) = json.loads(_member(archive, "manifest.json"))
            layers = [_files(_member(archive, name)) for name in image["Layers"]]
        capable = [name for layer in layers for name, file in layer.items() if file.capability]
        if capable and self.faults.refuses_capabilities:
            error = f"lsetxattr security.capability /{capable[0]}: operation not supported"
            return 200, _json({"errorDetail": {}, "error": error}) + b"\r\n"
        if self.faults.loses_capabilities:
            layers = [{name: File(file.content) for name, file in layer.items()} for layer in layers]
        (reference,) = image["RepoTags"]
        self.images[reference] = _merged(layers, keeps_whiteouts=self.faults.keeps_whiteouts)
        return 200, _json({"stream": f"Loaded image: {reference}\n"}) + b"\r\n"

    def _create(self, request: dict[str, Any]) -> tuple[int, bytes]:
        if request["Image"] not in self.images:
            return 404, _json({"message": f"No such image: {request['Image']}"})
        container = f"c{len(self.calls)}"
        self.containers[container] = self.images[request["Image"]]
        return 201, _json({"Id": container, "Warnings": []})


@contextlib.contextmanager
def serve_dockerd(dockerd: FakeDockerd, endpoint: Path) -> Iterator[None]:
    """Serve a daemon on a Unix socket for the length of the block."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if f"{self.command} {path}" in dockerd.faults.silent_on:
                over.wait()
                return
            status, content = dockerd.respond(self.command, path, body)
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        request_queue_size = 128
        connections: ClassVar[set[socket.socket]] = set()

        def process_request(self, request: Any, client_address: Any) -> None:
            self.connections.add(request)
            super().process_request(request, client_address)

        def hang_up(self) -> None:
            """End the connections of clients that keep theirs, or their threads would not end."""
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is no error of the daemon's."""

    with Server(str(endpoint), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            over.set()
            server.shutdown()
            server.hang_up()
            thread.join()
            endpoint.unlink(missing_ok=True)  # its guest may have moved


def _merged(layers: list[dict[str, File]], *, keeps_whiteouts: bool) -> dict[str, File]:
    files: dict[str, File] = {}
    for layer in layers:
        if not keeps_whiteouts:
            for name in layer:
                directory, _, base = name.rpartition("/")
                if base == ".wh..wh..opq":
                    files = {path: content for path, content in files.items() if not path.startswith(f"{directory}/")}
                elif base.startswith(".wh."):
                    files.pop(re.sub(r"\.wh\.(?=[^/]*$)", "", name), None)
        files |= {n: c for n, c in layer.items() if keeps_whiteouts or ".wh." not in n}
    return files


def _files(layer: bytes) -> dict[str, File]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return {
            member.name: File(_member(archive, member.name), member.pax_headers.get(_CAPABILITY_RECORD, ""))
            for member in archive
            if member.isfile()
        }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def _tar(files: dict[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (content, capability) in {".dockerenv": File(b""), "etc/hosts": File(b""), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {_CAPABILITY_RECORD: capability} if capability else {}
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
