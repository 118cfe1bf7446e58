"""Saying who we are: a token, a token in a file that kubelet renews, a password, or what a plugin answers.

Nothing of it is logged or written to a file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from kata_dind.errors import CommandFailed, CommandTimedOut, KubernetesError, ToolMissing
from kata_dind.host.process import run
from kata_dind.kube.access import Access, Plugin

_VERSIONS = tuple(f"client.authentication.k8s.io/{version}" for version in ("v1", "v1beta1", "v1alpha1"))
_PLUGIN_SECONDS = 120.0
_FILE_SECONDS = 60.0
"""How long a token from a file is used before the file is read again; kubelet renews it hours before it ends."""
_EARLY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a plugin has answered."""

    token: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    ends: float | None = None
    """In seconds since the epoch."""


class Bearer(httpx2.Auth):
    """Sends a token, and asks for a new one when it has ended or the server refuses it."""

    def __init__(self, get: Callable[[], Credentials], first: Credentials | None = None) -> None:
        self._get = get
        self._known = first

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Send the request, at most twice."""
        known = self._known
        if known is None or (known.ends is not None and known.ends - _EARLY_SECONDS < time.time()):
            known = self._known = self._get()
        if not known.token:  # a certificate alone, which the handshake has shown
            yield request
            return
        request.headers["Authorization"] = _bearer(known)
        response = yield request
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            renewed = self._known = self._get()
            if renewed.token != known.token:
                request.headers["Authorization"] = _bearer(renewed)
                yield request


def _bearer(known: Credentials) -> str:
    # Here, since the HTTP client's own complaint quotes the token.
    if not known.token.isascii() or not known.token.isprintable() or " " in known.token:
        raise _failed(
            "the token has a space, a line break or another character that no token has",
            hint="write it on one line, without anything around it",
        )
    return f"Bearer {known.token}"


def auth_for(access: Access, first: Credentials | None) -> httpx2.Auth | None:
    """Return how requests are signed; `first` is what the plugin has answered already."""
    user = access.user
    if user.token_file:
        path = user.token_file
        return Bearer(lambda: token_from_file(path))
    if user.token:
        return Bearer(lambda: Credentials(user.token))
    if user.plugin:
        plugin = user.plugin
        return Bearer(lambda: run_plugin(plugin, access), first)
    return httpx2.BasicAuth(user.name, user.password) if user.name else None


def token_from_file(path: Path) -> Credentials:
    """Read a token. Raises KubernetesError."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise KubernetesError(
            f"the token {path} can't be read: {error.strerror}", id="kubernetes.credentials-failed"
        ) from error
    return Credentials(token, ends=time.time() + _FILE_SECONDS)


def run_plugin(plugin: Plugin, access: Access) -> Credentials:
    """Ask a plugin for credentials. Raises KubernetesError with the plugin's last lines.

    Source: "client-go credential plugins" in the documentation of Kubernetes.
    """
    name = plugin.argv[0]
    if plugin.version not in _VERSIONS:
        raise _failed(f"the credential plugin {name} is of an unknown version, {plugin.version!r}")
    if plugin.wants_terminal:
        raise _failed(
            f"the credential plugin {name} wants a terminal, which it doesn't get here",
            hint="log in with the plugin's own command first, and set interactiveMode to IfAvailable",
        )
    environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": json.dumps(_question(plugin, access))}
    try:
        done = run(plugin.argv, timeout_seconds=_PLUGIN_SECONDS, environment=environment)
    except ToolMissing as error:
        raise _failed(f"the credential plugin {name} is not installed", hint=plugin.install_hint) from error
    except (CommandFailed, CommandTimedOut) as error:
        raise _failed(f"the credential plugin failed: {error.summary}", details=error.details) from error
    return parse_credentials(done.stdout, name=name)


def parse_credentials(text: str, *, name: str) -> Credentials:
    """Read a plugin's answer. Raises KubernetesError, which does not quote it."""
    try:
        status = json.loads(text)["status"]
        found = Credentials(
            token=str(status.get("token") or ""),
            certificate=str(status.get("clientCertificateData") or "").encode(),
            key=str(status.get("clientKeyData") or "").encode(),
            ends=_epoch(status.get("expirationTimestamp")),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _failed(f"the answer of the credential plugin {name} is not an ExecCredential") from None
    if not found.token and not (found.certificate and found.key):
        raise _failed(f"the credential plugin {name} answered without a token or a certificate")
    return found


def _question(plugin: Plugin, access: Access) -> dict[str, Any]:
    spec: dict[str, Any] = {"interactive": False}
    if plugin.wants_cluster:
        import base64

        cluster = {
            "server": access.server,
            "tls-server-name": access.server_name,
            "insecure-skip-tls-verify": access.trusts_all,
            "certificate-authority-data": base64.b64encode(access.authority).decode(),
            "proxy-url": access.proxy,
        }
        spec["cluster"] = {key: value for key, value in cluster.items() if value}
    return {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": spec}


def _epoch(value: Any) -> float | None:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) and value else None


def _failed(summary: str, *, details: str = "", hint: str = "") -> KubernetesError:
    return KubernetesError(summary, id="kubernetes.credentials-failed", details=details, hint=hint)
