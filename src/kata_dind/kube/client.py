"""Requests to an API server: objects in and out as plain dicts, failures as KubernetesErrors that name the object."""

from __future__ import annotations

import contextlib
import email.utils
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2

from kata_dind.errors import KubernetesConflict, KubernetesError
from kata_dind.kube.access import Access
from kata_dind.kube.connection import TIMEOUT, open_connection
from kata_dind.kube.resources import Resource

logger = logging.getLogger(__name__)

PAGE = 500

Object = dict[str, Any]
"""An object as the server has it."""


_CONTENT_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


class Client:
    """A user of an API server; `open_client` makes one."""

    def __init__(self, http: httpx2.Client, access: Access) -> None:
        self._http = http
        self.access = access
        self.server_time: datetime | None = None
        """What the server's clock said at its last answer."""

    def find(self, resource: Resource, name: str, *, namespace: str = "") -> Object | None:
        """Return an object, or None if it does not exist. Raises KubernetesError."""
        what = resource.named(name, namespace=namespace)
        response = self._send("GET", resource.path(name, namespace=namespace), verb="get", what=what)
        if response.status_code == httpx2.codes.NOT_FOUND:
            return None
        return self._object(response, verb="get", what=what)

    def list(self, resource: Resource, *, namespace: str = "", labels: str = "") -> Iterator[Object]:
        """Yield all objects, page by page. Raises KubernetesError."""
        what = f"all {resource.plural}" + (f" in the namespace {namespace!r}" if namespace else "")
        query = {"limit": str(PAGE), **({"labelSelector": labels} if labels else {})}
        while True:
            response = self._send("GET", resource.path(namespace=namespace), verb="list", what=what, query=query)
            page = self._object(response, verb="list", what=what)
            for each in page.get("items") or ():
                # The objects of a list don't repeat what the list says.
                yield {"apiVersion": resource.version, "kind": resource.kind, **each}
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    def create(self, resource: Resource, content: Mapping[str, Any], *, namespace: str = "") -> Object:
        """Create an object. Raises KubernetesConflict if it exists, KubernetesError."""
        what = resource.named(content["metadata"]["name"], namespace=namespace)
        path = resource.path(namespace=namespace)
        response = self._send("POST", path, verb="create", what=what, body=content)
        return self._object(response, verb="create", what=what)

    def patch(
        self, resource: Resource, name: str, content: Mapping[str, Any], *, namespace: str = "", how: str = "merge"
    ) -> Object:
        """Change an object by a merge patch or a strategic one.

        A patch with `metadata.resourceVersion` holds for that version alone: raises KubernetesConflict for another
        one; KubernetesError.
        """
        what = resource.named(name, namespace=namespace)
        path = resource.path(name, namespace=namespace)
        response = self._send("PATCH", path, verb="patch", what=what, body=content, content_type=_CONTENT_TYPES[how])
        return self._object(response, verb="patch", what=what)

    def get_raw(self, path: str) -> Object:
        """Return what a path has that is no resource, such as `/version`. Raises KubernetesError."""
        return self._object(self._send("GET", path, verb="get", what=path), verb="get", what=path)

    def _send(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> httpx2.Response:
        headers = {"Content-Type": content_type} if body is not None else {}
        name = self.access.server_name
        try:
            response = self._http.request(
                method,
                path,
                params=query,
                json=body,
                headers=headers,
                extensions={"sni_hostname": name} if name else {},
            )
        except httpx2.HTTPError as error:
            raise _unreachable(error, self.access, verb=verb, what=what) from error
        logger.debug("%s %s: %d", method, path, response.status_code)
        if date := response.headers.get("Date"):
            with contextlib.suppress(ValueError):
                self.server_time = email.utils.parsedate_to_datetime(date).astimezone(UTC)
        return response

    def _object(self, response: httpx2.Response, *, verb: str, what: str) -> Object:
        try:
            content = response.json()
        except ValueError:
            content = None
        if response.is_success and isinstance(content, dict):
            return content
        status = content if isinstance(content, dict) else {}
        raise _refusal(response, status, self.access, verb=verb, what=what)


@contextlib.contextmanager
def open_client(access: Access, *, timeout_seconds: float | None = None) -> Iterator[Client]:
    """Talk to a cluster for the length of a `with` block. Raises KubernetesError.

    The timeout is one for each wait; without it, it is as for programs that have time.
    """
    timeout = TIMEOUT if timeout_seconds is None else httpx2.Timeout(timeout_seconds)
    with open_connection(access, timeout) as http:
        yield Client(http, access)


def may_not(error: KubernetesError) -> bool:
    """Tell whether the server knows us, and does not let us do it."""
    return error.id == "kubernetes.forbidden"


def _refusal(
    response: httpx2.Response, status: Mapping[str, Any], access: Access, *, verb: str, what: str
) -> KubernetesError:
    said = str(status.get("message") or response.text[:500])
    match response.status_code:
        case httpx2.codes.UNAUTHORIZED:
            return KubernetesError(
                f"could not {verb} {what}: {access.name} does not accept our credentials",
                id="kubernetes.unauthorized",
                details=said,
            )
        case httpx2.codes.FORBIDDEN:
            return KubernetesError(
                f"not allowed to {verb} {what}",
                id="kubernetes.forbidden",
                details=said,
                hint=_permission_hint(response.request.url.path, verb=verb, status=status),
            )
        case httpx2.codes.NOT_FOUND:
            return KubernetesError(
                f"could not {verb} {what}: it does not exist", id="kubernetes.not-found", details=said
            )
        case httpx2.codes.CONFLICT:
            return KubernetesConflict(
                f"could not {verb} {what}: somebody else has changed it", id="kubernetes.conflict", details=said
            )
        case code if code < 400:
            return KubernetesError(
                f"could not {verb} {what}: the answer of {access.name} is not from an API server",
                id="kubernetes.answer-unreadable",
                details=said,
            )
        case code:
            return KubernetesError(
                f"could not {verb} {what}: {access.name} answered {code}", id="kubernetes.refused", details=said
            )


def _permission_hint(path: str, *, verb: str, status: Mapping[str, Any]) -> str:
    """Return the command that asks the cluster the same question."""
    details = status.get("details") or {}
    plural, group, name = details.get("kind", ""), details.get("group", ""), details.get("name", "")
    if not plural:
        return ""
    resource = f"{plural}.{group}" if group else str(plural)
    named = f"/{name}" if name else ""
    namespace = path.partition("/namespaces/")[2].partition("/")[0]
    return f"kubectl auth can-i {verb} {resource}{named}" + (f" --namespace {namespace}" if namespace else "")


def _unreachable(error: httpx2.HTTPError, access: Access, *, verb: str, what: str) -> KubernetesError:
    said = str(error) or type(error).__name__
    if "certificate" in said.lower():
        return KubernetesError(
            f"could not {verb} {what}: the certificate of {access.server} is not one that {access.name} trusts",
            id="kubernetes.not-trusted",
            details=said,
        )
    return KubernetesError(
        f"could not {verb} {what}: {access.server} does not answer", id="kubernetes.unreachable", details=said
    )
