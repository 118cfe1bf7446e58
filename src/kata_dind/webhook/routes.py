"""What is served under which path. HTTP only maps: an unusable review is 400, and a refused pod is an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from kata_dind.errors import WebhookError
from kata_dind.pod.policy import Policy
from kata_dind.webhook.answering import Answering
from kata_dind.webhook.certificates import Certificate
from kata_dind.webhook.connections import Reply, Request
from kata_dind.webhook.metrics import CONTENT_TYPE, Metrics
from kata_dind.webhook.reloads import Followed

_JSON = "application/json"
_READ = ("GET", "HEAD")

Route = Callable[[Request], Reply | Awaitable[Reply]]


@dataclass(slots=True)
class Health:
    """What probes and people are told."""

    certificate: Followed[Certificate]
    policy: Followed[Policy]
    listening: bool = False
    stopping: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether a Service may send us reviews."""
        return self.listening and not self.stopping

    def fields(self) -> dict[str, Any]:
        """Return all of it; an error in it names a file that is not in use, while an older one is."""
        return {
            "ready": self.is_ready,
            "stopping": self.stopping,
            "certificate": {**_followed(self.certificate), "expires": _moment(self.certificate.current.expires)},
            "policy": _followed(self.policy),
        }


def _followed(followed: Followed[Any]) -> dict[str, Any]:
    return {"files": list(followed.files), "loaded": _moment(followed.loaded_at), "error": followed.error}


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass(frozen=True, slots=True)
class Routes:
    """The paths of one port."""

    table: Mapping[str, tuple[tuple[str, ...], Route]]
    """By path: the methods, and what answers."""

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer a request."""
        found = self.table.get(request.path)
        if found is None:
            return Reply(HTTPStatus.NOT_FOUND, f"there are {', '.join(self.table)}\n".encode())
        methods, route = found
        if request.method not in methods:
            allow = ", ".join(methods)
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} takes {allow}\n".encode(), allow=allow)
        return route(request)


def secure_routes(answering: Answering, health: Health) -> Routes:
    """Return what is served to the API server."""

    def mutate(request: Request) -> Reply | Awaitable[Reply]:
        if request.content_type != _JSON:
            return Reply(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, b"a review is application/json\n")
        try:
            answer = answering.answer(request.body)
            return Reply(HTTPStatus.OK, answer, _JSON) if isinstance(answer, bytes) else later(answer)
        except WebhookError as error:
            said = "\n".join(filter(None, (error.summary, error.hint)))
            return Reply(HTTPStatus.BAD_REQUEST, f"{said}\n".encode())

    async def later(answer: Awaitable[bytes]) -> Reply:
        return Reply(HTTPStatus.OK, await answer, _JSON)

    return Routes({"/mutate": (("POST",), mutate), **_health_routes(health)})


def plain_routes(metrics: Metrics, health: Health) -> Routes:
    """Return what is served within the cluster without TLS."""

    def show(_: Request) -> Reply:
        return Reply(HTTPStatus.OK, metrics.text(), CONTENT_TYPE)

    return Routes({**_health_routes(health), "/metrics": (_READ, show)})


def _health_routes(health: Health) -> dict[str, tuple[tuple[str, ...], Route]]:
    def healthz(_: Request) -> Reply:
        return Reply(HTTPStatus.OK, b"ok\n")

    def readyz(_: Request) -> Reply:
        status = HTTPStatus.OK if health.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Reply(status, json.dumps(health.fields(), indent=2).encode() + b"\n", _JSON)

    return {"/healthz": (_READ, healthz), "/readyz": (_READ, readyz)}
