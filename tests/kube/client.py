"""As much of a Kubernetes client as these tests need: JSON over HTTPS, one connection for all requests."""

from __future__ import annotations

import contextlib
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

Entered = Callable[[], contextlib.AbstractContextManager[None]]
"""Lets this thread make its sockets in another network namespace."""


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

    def __init__(
        self,
        port: int,
        *,
        authority: Path,
        token: str,
        entered: Entered = contextlib.nullcontext,
        timeout_seconds: float = 60,
    ) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._entered = entered
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=timeout_seconds)
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}
        self._versions: set[str] = set()

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def request(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str
    ) -> Answer:
        """Send a request, and return the answer, whatever its status."""
        target = f"{path}?{urlencode(query)}" if query else path
        content = None if body is None else json.dumps(body).encode()
        if self._connection.sock is None:
            with self._entered():
                self._connection.connect()
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
        return version in CORE_VERSIONS and self._resource(str(version), str(kind)) is not None

    def create(self, item: Mapping[str, Any], *, dry_run: bool = False) -> Answer:
        """Create an object, or let the server say what it would make of it. It refuses fields that it doesn't know."""
        dry = {"dryRun": "All"} if dry_run else {}
        return self.request("POST", self._collection(item), item, fieldValidation="Strict", **dry)

    def read(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object as the server has it."""
        return self._succeed(self.request("GET", self._path(item)))

    def find(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an object as the server has it, None if it isn't there."""
        answer = self.request("GET", self._path(item))
        return None if answer.status == 404 else self._succeed(answer)

    def patch(self, item: Mapping[str, Any], patch: Sequence[Operation], *, dry_run: bool = False) -> Answer:
        """Apply a JSON patch to an object."""
        dry = {"dryRun": "All"} if dry_run else {}
        path = self._path(item)
        return self.request("PATCH", path, list(patch), kind=_JSON_PATCH, fieldValidation="Strict", **dry)

    def merge(
        self, item: Mapping[str, Any], patch: Mapping[str, Any], *, strategic: bool = False, part: str = ""
    ) -> Answer:
        """Apply a merge patch to an object or a subresource; a strategic one knows items of lists by their names."""
        kind = "application/strategic-merge-patch+json" if strategic else "application/merge-patch+json"
        path = "/".join(filter(None, (self._path(item), part)))
        answer = self.request("PATCH", path, patch, kind=kind, fieldValidation="Strict")
        assert answer.accepted, answer.message
        return answer

    def delete(self, item: Mapping[str, Any], *, grace_seconds: int | None = 0) -> None:
        """Delete an object, by default at once, as no kubelet would end its containers. None is the pod's own grace."""
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        body = {**grace, "propagationPolicy": "Background"}
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

    def inventory(self) -> set[str]:
        """Return the path of every object that the server has, but for what it makes by itself as time passes."""
        groups = self._succeed(self.request("GET", "/apis"))["groups"]
        versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]
        found = set()
        for version in versions:
            for resource in self._succeed(self.request("GET", _prefix(version)))["resources"]:
                if "list" in resource["verbs"] and resource["kind"] not in ("Event", "Lease", "ComponentStatus"):
                    path = f"{_prefix(version)}/{resource['name']}"
                    items = self._succeed(self.request("GET", path))["items"] or ()
                    names = ((item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in items)
                    found |= {f"{path} {place} {name}" for place, name in names}
        return found

    def _resource(self, version: str, kind: str) -> tuple[str, bool] | None:
        """Return the name in paths of a kind, and whether it has namespaces."""
        if version not in self._versions:
            answer = self.request("GET", _prefix(version))
            for resource in answer.body["resources"] if answer.accepted else ():
                if "/" not in resource["name"]:  # not pods/log and the like
                    self._resources[version, resource["kind"]] = (resource["name"], resource["namespaced"])
                    self._versions.add(version)
        return self._resources.get((version, kind))

    def _collection(self, item: Mapping[str, Any]) -> str:
        resource = self._resource(item["apiVersion"], item["kind"])
        assert resource is not None, f"the server has no {item['kind']} of {item['apiVersion']}"
        plural, namespaced = resource
        namespace = quote(str((item.get("metadata") or {}).get("namespace") or "default"), safe="")
        scope = f"/namespaces/{namespace}" if namespaced else ""
        return f"{_prefix(item['apiVersion'])}{scope}/{plural}"

    def _path(self, item: Mapping[str, Any]) -> str:
        return f"{self._collection(item)}/{item['metadata']['name']}"


def condition(item: Mapping[str, Any], name: str) -> str:
    """Return what the status of an object says of a condition, and nothing as long as it doesn't."""
    conditions = item["status"].get("conditions", [])
    return next((str(each["status"]) for each in conditions if each["type"] == name), "")


def _prefix(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
