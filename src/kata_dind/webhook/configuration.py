"""The MutatingWebhookConfiguration: which webhooks in it are ours, whom they trust, and its patches; pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from kata_dind.errors import KubernetesError
from kata_dind.webhook.authority import Certificate, read_certificates
from kata_dind.webhook.rotation import SecretFacts, TrustFacts, trusted

_INJECTED = ("cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret")


@dataclass(frozen=True, slots=True)
class Service:
    """The Service of the webhook, and all names under which API servers reach it."""

    name: str
    namespace: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook of ours in a configuration."""

    name: str
    bundle: tuple[Certificate, ...]
    facts: TrustFacts


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a configuration has."""

    hooks: tuple[Hook, ...]
    version: str
    """Its resourceVersion."""

    @property
    def facts(self) -> tuple[TrustFacts, ...]:
        """What the plan needs."""
        return tuple(hook.facts for hook in self.hooks)


def read_configuration(found: Mapping[str, Any], service: Service, *, called: str) -> Configuration:
    """Read a configuration. Raises KubernetesError if none of its webhooks is ours, or cert-manager changes it, too."""
    name = found["metadata"]["name"]
    annotations = found["metadata"].get("annotations") or {}
    if injected := next((each for each in _INJECTED if annotations.get(each)), ""):
        raise KubernetesError(
            f"cert-manager writes the bundle of {called}, so it is left alone",
            id="webhook.configuration-of-cert-manager",
            hint="leave certificates to cert-manager, and don't run this command; or: "
            f"kubectl annotate mutatingwebhookconfiguration {name} {injected}-",
        )
    webhooks = [each for each in found.get("webhooks") or () if isinstance(each, Mapping)]
    ours = [each for each in webhooks if _is_ours(each.get("clientConfig") or {}, service)]
    if not ours:
        raise KubernetesError(
            f"{called} has no webhook that calls the Service {service.name!r} in the namespace {service.namespace!r}",
            id="webhook.no-webhook-of-ours",
            details="\n".join(f"{each['name']} calls {_place(each.get('clientConfig') or {})}" for each in webhooks),
            hint="name its Service with --service and --namespace",
        )
    return Configuration(tuple(map(_hook, ours)), str(found["metadata"]["resourceVersion"]))


def changed_configuration(
    configuration: Configuration, secret: SecretFacts, authorities: Sequence[Certificate], *, now: datetime
) -> dict[str, Any]:
    """Return a strategic merge patch with the bundles, which holds for the version that was read and for no other."""
    return {
        "metadata": {"resourceVersion": configuration.version},
        "webhooks": [
            {"name": hook.name, "clientConfig": {"caBundle": _bundle(hook, secret, authorities, now=now)}}
            for hook in configuration.hooks
        ],
    }


def _bundle(hook: Hook, secret: SecretFacts, authorities: Sequence[Certificate], *, now: datetime) -> str:
    wanted = trusted(secret, hook.facts, now=now)
    pems = {each.fingerprint: each.pem for each in (*authorities, *hook.bundle) if each.fingerprint in wanted}
    return base64.b64encode("".join(pems.values()).encode()).decode()


def _hook(webhook: Mapping[str, Any]) -> Hook:
    text = _decoded(webhook["clientConfig"].get("caBundle"))
    bundle = tuple(read_certificates(text))
    ends = {each.fingerprint: each.ends for each in bundle}
    facts = TrustFacts(webhook["name"], ends, is_clean=text == "".join(each.pem for each in bundle))
    return Hook(webhook["name"], bundle, facts)


def _decoded(value: object) -> str:
    try:
        return base64.b64decode(value).decode("ascii") if isinstance(value, str) else ""
    except (binascii.Error, UnicodeDecodeError):
        return "?"


def _is_ours(client_config: Mapping[str, Any], service: Service) -> bool:
    called = client_config.get("service")
    if isinstance(called, Mapping):
        return called.get("name") == service.name and called.get("namespace") == service.namespace
    return urlsplit(str(client_config.get("url") or "")).hostname in service.names


def _place(client_config: Mapping[str, Any]) -> str:
    called = client_config.get("service")
    if isinstance(called, Mapping):
        return f"the Service {called.get('name')} in the namespace {called.get('namespace')}"
    return str(client_config.get("url"))


def service_names(service: str, namespace: str) -> Iterator[str]:
    """Yield the names of a Service: the first is the one that API servers use."""
    yield f"{service}.{namespace}.svc"
    yield f"{service}.{namespace}.svc.cluster.local"
