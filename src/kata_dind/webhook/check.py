"""Whether running webhooks work: they are asked as an API server asks them, by the same name and authority."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from kata_dind.errors import KubernetesError, SpecError
from kata_dind.pod.annotations import REPAIR
from kata_dind.pod.handlers import example_class, runtime_of
from kata_dind.pod.policy import Policy
from kata_dind.pod.policy_check import usual_kind

_TIMEOUT_SECONDS = 10.0
_UID = "kata-dind-webhook-check"
_HOST = re.compile(r"[a-z0-9.:_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a webhook answered; what is wrong is an error instead."""

    runtime_class: str
    """Of the pod that it was asked about; empty if the policy repairs none."""
    repaired: bool
    refused: str
    """Why the policy refuses the pod; empty if it doesn't."""


def check_webhook(url: str, *, authority: str, policy: Policy) -> Checked:
    """Ask a webhook whether it is ready, and what it does to a pod that runs Docker in a class of Kata's.

    `authority` are certificates in PEM. Raises KubernetesError if it doesn't answer, isn't ready, or leaves a pod alone
    that the policy repairs.
    """
    runtime_class = _repaired_class(policy)
    connection = _connection(_place_of(url), authority)
    try:
        status, text = _ask(connection, "GET", "/readyz", url=url)
        if status != http.HTTPStatus.OK:
            raise KubernetesError(f"{url} is not ready", id="webhook.not-ready", details=text)
        status, text = _ask(connection, "POST", "/mutate", url=url, body=review(runtime_class or "kata"))
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise KubernetesError(f"{url} could not use a review", id="webhook.wrong-answer", details=f"{status} {text}")
    return checked(text, url=url, runtime_class=runtime_class)


def checked(text: str, *, url: str, runtime_class: str) -> Checked:
    """Return what an answer says. Raises KubernetesError for one that an API server could not use, or that is wrong."""
    try:
        response = json.loads(text)["response"]
        allowed, is_ours = response["allowed"], response["uid"] == _UID
        patch = json.loads(base64.b64decode(response.get("patch", "W10="), validate=True))
        refused = "" if allowed else str(response["status"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KubernetesError(
            f"{url} gave an answer that no API server can use", id="webhook.wrong-answer", details=text[:2000]
        ) from error
    if not is_ours:
        raise KubernetesError(f"{url} answered another review", id="webhook.wrong-answer", details=text[:2000])
    if runtime_class and allowed and not patch:
        raise KubernetesError(
            f"{url} leaves a pod as it is that runs Docker in the RuntimeClass {runtime_class!r}",
            id="webhook.does-not-repair",
            details="\n".join(map(str, response.get("warnings", []))),
            hint="compare its policy with yours: kata-dind policy check FILE",
        )
    return Checked(runtime_class, bool(patch), refused)


def review(runtime_class: str) -> dict[str, Any]:
    """Return a review of a new pod that runs Docker; as a dry run, as nothing is created."""
    container = {"name": "dind", "image": "docker:28-dind", "securityContext": {"privileged": True}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _UID, "namespace": "default", "annotations": {REPAIR: "true"}},
        "spec": {"runtimeClassName": runtime_class, "containers": [container]},
    }
    request = {
        "uid": _UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "default",
        "dryRun": True,
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def _repaired_class(policy: Policy) -> str:
    name = example_class(policy)
    runtime = runtime_of(name, {}, policy) if name else None
    return name if runtime is not None and usual_kind(runtime, policy)[0] else ""


def _place_of(url: str) -> SplitResult:
    try:
        place = urlsplit(url)
        more = (place.username, place.password, place.query, place.fragment, place.path.removeprefix("/"))
        if place.scheme == "https" and place.port != 0 and _is_host(place.hostname or "") and not any(more):
            return place
    except ValueError:
        pass  # said below, as for any other text
    raise SpecError(
        f"{url!r} is not the address of a webhook",
        id="spec.wrong-value",
        hint="use one like https://kata-dind.kata-dind.svc",
    )


def _is_host(name: str) -> bool:
    # As it has to be in a certificate; http.client fails in its own words at other names.
    return (
        len(name) < 254 and all(0 < len(label) < 64 for label in name.split(".")) and _HOST.fullmatch(name) is not None
    )


def _connection(place: SplitResult, authority: str) -> http.client.HTTPSConnection:
    try:
        context = ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise SpecError("--ca: it has no certificates in PEM", id="spec.wrong-value") from error
    assert place.hostname
    return http.client.HTTPSConnection(place.hostname, place.port, context=context, timeout=_TIMEOUT_SECONDS)


def _ask(
    connection: http.client.HTTPSConnection, method: str, path: str, *, url: str, body: Any = None
) -> tuple[int, str]:
    content = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, body=content, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except ssl.SSLCertVerificationError as error:
        raise KubernetesError(
            f"the certificate of {url} is not good for {connection.host}, or is of another authority",
            id="webhook.not-trusted",
            details=error.verify_message,
            hint="use the name by which API servers call it, and the authority in the MutatingWebhookConfiguration",
        ) from error
    except ssl.SSLError as error:
        raise KubernetesError(
            f"{url} does not speak TLS as a webhook does",
            id="webhook.no-answer",
            details=str(error),
            hint="the port of the webhooks is that of --listen, and not that of --http-listen",
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise KubernetesError(
            f"{url} does not answer",
            id="webhook.no-answer",
            details=f"{type(error).__name__}: {error}",
            hint="kubectl --namespace kata-dind get pods,endpointslices",
        ) from error
