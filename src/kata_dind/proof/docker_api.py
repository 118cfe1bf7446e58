"""The Docker Engine API over a Unix socket: the few calls that the proof needs, on the standard library alone.

A client library would cost every start more than these calls take. Users get `docker` (docker-py) or any client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from kata_dind.errors import DockerdFailed

_BLOCK_BYTES = 64 * 1024


class DockerApi:
    """One daemon behind a socket; every call raises DockerdFailed with the daemon's own words."""

    def __init__(self, endpoint: Path, *, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds

    def version(self) -> dict[str, Any]:
        """Return GET /version."""
        return self._json("GET", "/version")

    def info(self) -> dict[str, Any]:
        """Return GET /info."""
        return self._json("GET", "/info")

    def load_image(self, archive: bytes | BinaryIO) -> str:
        """Load a `docker save` archive, an open file a piece at a time; return the daemon's words about it."""
        lines = self._call("POST", "/images/load?quiet=1", archive, content_type="application/x-tar").splitlines()
        messages = [_parse_object(line, call="POST /images/load") for line in lines if line.strip()]
        for message in messages:
            if "error" in message:
                raise DockerdFailed(f"dockerd cannot load an image: {message['error']}", id="dockerd.load-failed")
        return "".join(str(message.get("stream", "")) for message in messages).strip()

    def create_container(self, image: str, command: list[str]) -> str:
        """Create a container, without starting it; return its id."""
        body = json.dumps({"Image": image, "Cmd": command}).encode()
        answer = _parse_object(self._call("POST", "/containers/create", body), call="POST /containers/create")
        return str(answer.get("Id", ""))

    def export_container(self, container_id: str) -> bytes:
        """Return a container's root file system as a tar archive."""
        return self._call("GET", f"/containers/{quote(container_id)}/export")

    def remove_container(self, container_id: str) -> None:
        """Remove a container that does not run."""
        self._call("DELETE", f"/containers/{quote(container_id)}?" + urlencode({"force": 1}))

    def remove_image(self, reference: str) -> None:
        """Remove an image's tag, and with the last tag the image."""
        self._call("DELETE", f"/images/{quote(reference)}")

    def _json(self, method: str, path: str) -> dict[str, Any]:
        return _parse_object(self._call(method, path), call=f"{method} {path}")

    def _call(
        self, method: str, path: str, body: bytes | BinaryIO | None = None, *, content_type: str = "application/json"
    ) -> bytes:
        call = f"{method} {path.partition('?')[0]}"
        connection = _UnixConnection(self._endpoint, timeout_seconds=self._timeout_seconds)
        headers = {"Content-Type": content_type} if body else {}
        if body is not None and not isinstance(body, bytes):
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        try:
            # A daemon that refuses a body before it has read all of it hangs up, after it has said why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DockerdFailed(f"dockerd does not answer {call}: {error}", id="dockerd.no-answer") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise DockerdFailed(f"dockerd refused {call}: {_message(content)}", id="dockerd.refused")
        return content


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds, blocksize=_BLOCK_BYTES)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _parse_object(content: bytes, *, call: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DockerdFailed(
            f"dockerd's answer to {call} is not a JSON object: {content[:200]!r}", id="dockerd.answer-unreadable"
        )
    return value


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()
