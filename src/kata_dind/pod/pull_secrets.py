"""Which Secrets the images of a pod are pulled with. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.reading import items, mapping, text


def pull_secrets_of(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the Secrets that a pod, or a ServiceAccount, pulls with."""
    spec = mapping(pod.get("spec"))
    for entry in (*items(spec.get("imagePullSecrets")), *items(pod.get("imagePullSecrets"))):
        if name := text(mapping(entry).get("name")):
            yield name


def service_account_of(pod: Mapping[str, Any]) -> str:
    """Return the name of the ServiceAccount whose pull secrets a pod gets if it has none."""
    spec = mapping(pod.get("spec"))
    if next(pull_secrets_of(pod), ""):
        return ""
    return text(spec.get("serviceAccountName")) or text(spec.get("serviceAccount")) or "default"
