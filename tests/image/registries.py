"""Registries for tests: Debian's own, and a small server that does what no honest registry does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kata_dind.host.process import daemon

_CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_BASIC = "auth: {{htpasswd: {{realm: tests, path: {path}}}}}\n"

USER, PASSWORD = "u", "p:w"
_HTPASSWD = "u:$2y$05$abcdefghijklmnopqrstuuM7E59t/pBLB8x4aZysvBLD.kgRitkEK\n"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


@contextlib.contextmanager
def running_registry(directory: Path, *, with_password: bool = False) -> Iterator[str]:
    """Run Debian's docker-registry on loopback; yields its host and port."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    text = _CONFIGURATION.format(root=directory / "blobs", port=port)
    if with_password:
        (directory / "htpasswd").write_text(_HTPASSWD)
        text += _BASIC.format(path=directory / "htpasswd")
    (directory / "config.yml").write_text(text)
    argv = ["docker-registry", "serve", str(directory / "config.yml")]
    with daemon(argv, name="docker-registry", log=directory / "log") as process:
        deadline = time.monotonic() + 20
        while True:
            assert not process.ended(), process.describe_end()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"


def make_layout(directory: Path, *config: str) -> Path:
    """Make an OCI layout with one image, which has this configuration and no layer."""
    images = directory / "images"
    _run("umoci", "init", "--layout", str(images))
    _run("umoci", "new", "--image", f"{images}:dind")
    _run("umoci", "config", "--image", f"{images}:dind", *(f"--config.{each}" for each in config))
    return images


def push(layout: Path, reference: str, *options: str) -> None:
    """Push the image of a layout into a registry."""
    _run("skopeo", "copy", "-q", "--dest-tls-verify=false", *options, f"oci:{layout}:dind", f"docker://{reference}")


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def descriptor(body: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body), **more}


def config_body(*entrypoint: str, **process: Any) -> bytes:
    return json.dumps({"architecture": "amd64", "config": {"Entrypoint": list(entrypoint), **process}}).encode()


def manifest_body(config: bytes) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, CONFIG), "layers": []}
    ).encode()


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds_per_byte: float = 0.0
    before_seconds: float = 0.0
    promised: int | None = None
    """The Content-Length, if it isn't that of the body."""


Answering = Callable[[Request], Reply]


class SmallServer(ThreadingHTTPServer):
    """Answers by a function, and keeps what it was asked."""

    daemon_threads = True
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answering: Answering = lambda request: Reply(404)
        self.asked: list[Request] = []
        self.ending = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def serve_image(self, name: str, config: bytes) -> str:
        """Serve one image under the tag 1, and nothing else; returns its reference."""
        manifest = manifest_body(config)
        self.answering = documents(name, {"manifests/1": manifest, f"blobs/{digest_of(config)}": config})
        return f"{self.host}/{name}:1"


def documents(name: str, known: Mapping[str, bytes]) -> Answering:
    def answer(request: Request) -> Reply:
        body = known.get(request.path.removeprefix(f"/v2/{name}/"))
        return Reply(404) if body is None else Reply(body=body)

    return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallServer

    def do_GET(self) -> None:
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
        self.server.asked.append(request)
        reply = self.server.answering(request)
        with contextlib.suppress(OSError):
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        if self.server.ending.wait(reply.before_seconds):
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if reply.promised is None else reply.promised))
        self.end_headers()
        if not reply.seconds_per_byte:
            self.wfile.write(reply.body)
            return
        for byte in reply.body:
            self.wfile.write(bytes([byte]))
            if self.server.ending.wait(reply.seconds_per_byte):
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def small_server() -> Iterator[SmallServer]:
    with SmallServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
