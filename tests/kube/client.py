"""As much of a Kubernetes client as these tests need: JSON over HTTPS, one connection for all requests."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from kata_dind.pod.model import Operation

CORE_VERSIONS = ("v1", "apps/v1", "batch/v1")
_JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        """Whether it did what it was asked to do."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """Why it did not."""
        return f"{self.status} {self.body.get('message', '')}"


class Client:
    """A user of an API server."""

    def __init__(self, port: int, *, authority: Path, token: str, timeout_seconds: float = 60) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=timeout_seconds)
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def request(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str
    ) -> Answer:
        """Send a request, and return the answer, whatever its status."""
        target = f"{path}?{urlencode(query)}" if query else path
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, target, body=content, headers={**self._headers, "Content-Type": kind})
        response = self._connection.getresponse()
        text = response.read()
        try:
            data = json.loads(text)
        except ValueError:
            data = {"message": text.decode(errors="replace")}
        return Answer(response.status, data)

    def serves(self, item: Mapping[str, Any]) -> bool:
        """Tell whether the server has the kind of an object, of those kinds that every cluster has."""
        version, kind = item.get("apiVersion"), item.get("kind")
        return version in CORE_VERSIONS and (version, kind) in self._all_resources()

    def create(self, item: Mapping[str, Any], *, dry_run: bool = False) -> Answer:
        """Create an object, or let the server say what it would make of it. It refuses fields that it doesn't know."""
        dry = {"dryRun": "All"} if dry_run else {}
        return self.request("POST", self._collection(item), item, fieldValidation="Strict", **dry)

    def read(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object as the server has it."""
        return self._succeed(self.request("GET", self._path(item)))

    def patch(self, item: Mapping[str, Any], patch: Sequence[Operation], *, dry_run: bool = False) -> Answer:
        """Apply a JSON patch to an object."""
        dry = {"dryRun": "All"} if dry_run else {}
        path = self._path(item)
        return self.request("PATCH", path, list(patch), kind=_JSON_PATCH, fieldValidation="Strict", **dry)

    def delete(self, item: Mapping[str, Any]) -> None:
        """Delete an object at once: no kubelet would end its containers, nor a controller what it has made."""
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self._succeed(self.request("DELETE", self._path(item), body))

    def make(self, *items: Mapping[str, Any]) -> None:
        """Create what is not there yet."""
        for item in items:
            answer = self.create(item)
            assert answer.accepted or answer.status == 409, answer.message

    @staticmethod
    def wait_until(holds: Callable[[], bool], *, timeout_seconds: float = 30) -> None:
        """Wait for what the server does a moment after it has answered."""
        deadline = time.monotonic() + timeout_seconds
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @staticmethod
    def _succeed(answer: Answer) -> dict[str, Any]:
        assert answer.accepted, answer.message
        return answer.body

    def _all_resources(self) -> dict[tuple[str, str], tuple[str, bool]]:
        if not self._resources:
            for version in (*CORE_VERSIONS, "node.k8s.io/v1", "rbac.authorization.k8s.io/v1", "scheduling.k8s.io/v1"):
                for resource in self._succeed(self.request("GET", _prefix(version)))["resources"]:
                    if "/" not in resource["name"]:  # not pods/log and the like
                        self._resources[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        return self._resources

    def _collection(self, item: Mapping[str, Any]) -> str:
        plural, namespaced = self._all_resources()[item["apiVersion"], item["kind"]]
        namespace = quote(str((item.get("metadata") or {}).get("namespace") or "default"), safe="")
        scope = f"/namespaces/{namespace}" if namespaced else ""
        return f"{_prefix(item['apiVersion'])}{scope}/{plural}"

    def _path(self, item: Mapping[str, Any]) -> str:
        return f"{self._collection(item)}/{item['metadata']['name']}"


def _prefix(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
