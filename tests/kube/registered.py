"""A webhook that an API server asks: the process that we start, and the registration that we install."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from kata_dind.pod.policy import Policy
from kata_dind.vocabulary import FailurePolicy
from kata_dind.webhook.manifest import Installation, objects
from tests.kube.client import Client
from tests.kube.objects import dind_spec, namespace_named, pod

MARK = "kata-dind.io/test"
REPAIRED = "kata-dind.io/repaired"
_NUMBERS = itertools.count(1)


def configuration_of(
    port: int, *authorities: bytes, failure_policy: FailurePolicy = FailurePolicy.FAIL, ask_again: bool = True
) -> dict[str, Any]:
    """Return the registration that the chart and `webhook manifest` make, with a port on loopback for the Service.

    It holds for namespaces that are marked by its name.
    """
    installation = Installation(Policy(), policy_text="", failure_policy=failure_policy, ask_again=ask_again)
    made = next(item for item in objects(installation) if item["kind"].startswith("Mutating"))
    made["metadata"]["name"] = f"webhook-{next(_NUMBERS)}"
    bundle = base64.b64encode(b"".join(authorities)).decode()
    for webhook in made["webhooks"]:
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}/mutate", "caBundle": bundle}
        webhook["namespaceSelector"]["matchLabels"] = {MARK: made["metadata"]["name"]}
    return made


@contextlib.contextmanager
def registered(api: Client, namespace: str, configuration: dict[str, Any], *, answers: bool = True) -> Iterator[None]:
    """Let the server ask about the pods of a namespace, until the end of the block."""
    mark(api, namespace, configuration["metadata"]["name"])
    created = api.create(configuration)
    assert created.accepted, created.message
    try:
        if answers:
            api.wait_until(lambda: is_repaired(api.create(pod("probe", namespace, dind_spec()), dry_run=True).body))
        yield
    finally:
        api.delete(configuration)
        mark(api, namespace, None)


def mark(api: Client, namespace: str, value: str | None) -> None:
    """Put the mark on a namespace, or take it off."""
    api.merge(namespace_named(namespace), {"metadata": {"labels": {MARK: value}}})


def is_repaired(item: Any) -> bool:
    """Tell whether an object is a pod that we have repaired."""
    return REPAIRED in (item.get("metadata", {}).get("annotations") or {})
