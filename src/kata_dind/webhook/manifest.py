"""The objects that install the webhook, without Helm. Pure.

The chart is the one source: scripts/generate_chart.py renders it with placeholders into manifest.yaml, and here they
get their values. Only the condition by which the API server asks about a pod is computed twice: Helm has no Python.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.errors import SpecError
from kata_dind.manifest import dumped, parse_yaml
from kata_dind.pod.images import parse_image
from kata_dind.pod.names import LABEL_SIGNS, SUBDOMAIN_SIGNS, is_label, is_subdomain
from kata_dind.pod.policy import Policy
from kata_dind.version import __version__
from kata_dind.vocabulary import CertificateSource, FailurePolicy
from kata_dind.webhook.conditions import pods_condition

BASE = Path(__file__).with_name("manifest.yaml")
COMMON = "all"
"""The key in it of what is the same for all ways to a certificate; the others are those ways."""

LOOKUPS = "lookups"
PULL_SECRETS = "pull-secrets"
"""The keys of what is different, and of what there is more, with a policy that has registries asked."""

NAMESPACE = "namespace-of-kata-dind"
SECRET = "secret-of-kata-dind"
IMAGE = "image-of-kata-dind"
"""The placeholders: names that Helm takes, and that nobody else has."""

EVERYWHERE = "*"
"""In the place of a namespace: all of them."""

IMAGE_REPOSITORY = "kata-dind.io/kata-dind"
"""Where the chart takes the image from, too."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.ASCII)
_GRACE_SECONDS = 10
_BESIDE_LOOKUPS_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Installation:
    """What is installed; the rest is as the chart has it by default."""

    policy: Policy
    policy_text: str
    """The file that the policy comes from, with its comments."""
    namespace: str = "kata-dind"
    create_namespace: bool = False
    image: str = f"{IMAGE_REPOSITORY}:{__version__}"
    replicas: int = 2
    failure_policy: FailurePolicy = FailurePolicy.IGNORE
    ask_again: bool = True
    """With Ignore: whether the API server asks twice about a pod that is not repaired: the first call may fail."""
    certs: CertificateSource = CertificateSource.JOB
    secret: str = ""
    """The name of the Secret with a provided certificate."""
    ca_bundle: str = ""
    """The certificate of the authority of a provided certificate, in PEM; what else is in the text is left out."""
    service_monitor: bool = False
    dashboard: bool = False
    pull_secret_namespaces: tuple[str, ...] = ()
    """Whose Secrets the webhooks may read; EVERYWHERE for all. Required by a policy with `pullSecrets`."""

    def __post_init__(self) -> None:
        """Refuse what the API server would refuse, or what would never work, in our words."""
        _require(is_label(self.namespace), "--namespace", self.namespace, LABEL_SIGNS)
        _require(parse_image(self.image), "--image", self.image, "the reference of an image, such as registry/name:tag")
        if self.replicas < 1:
            raise SpecError(f"--replicas: {self.replicas} is too few; use at least 1", id="spec.wrong-value")
        self._require_pull_secret_namespaces()
        provided = self.certs is CertificateSource.PROVIDED
        if provided != bool(self.secret) or provided != bool(self.ca_bundle):
            raise SpecError(
                "--certs provided needs --secret and --ca-bundle, and nothing else takes them",
                id="spec.wrong-value",
                hint="kata-dind webhook manifest --certs provided --secret kata-dind-tls --ca-bundle ca.crt",
            )
        if provided:
            _require(is_subdomain(self.secret), "--secret", self.secret, SUBDOMAIN_SIGNS)
            if not _certificates(self.ca_bundle):  # and what is in it instead may be a key
                raise SpecError(
                    "--ca-bundle: the file has no certificate in PEM, or one that can't be read", id="spec.wrong-value"
                )

    def _require_pull_secret_namespaces(self) -> None:
        option, namespaces = "--pull-secret-namespace", self.pull_secret_namespaces
        for namespace in namespaces:
            _require(namespace == EVERYWHERE or is_label(namespace), option, namespace, LABEL_SIGNS)
        needed = _lookups(self.policy) == PULL_SECRETS
        if needed and not namespaces:
            raise SpecError(
                "the policy has pullSecrets, so the webhooks have to be told whose Secrets they may read",
                id="spec.wrong-value",
                hint=f"{option} NAME for each namespace with CI jobs, or {option} '*' for every Secret of the cluster",
            )
        if namespaces and not needed:
            raise SpecError(
                f"{option}: the policy has no registry.lookup with pullSecrets, so the webhooks read no Secret",
                id="spec.wrong-value",
            )


def _require(holds: object, option: str, value: str, wanted: str) -> None:
    if not holds:
        raise SpecError(f"{option}: {value!r} is not {wanted}", id="spec.wrong-value")


def _certificates(text: str) -> str:
    """Return the certificates of a text in PEM, and nothing else of it; empty if it has none, or one can't be read.

    By Python's own TLS: to print a manifest takes no further package.
    """
    found = "".join(f"{match[0]}\n" for match in _CERTIFICATE.finditer(text))
    try:
        if found:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except ssl.SSLError:
        return ""
    return found


def manifest_text(installation: Installation) -> str:
    """Return the objects as YAML, for kubectl."""
    return "---\n".join(dumped(item) for item in objects(installation))


def objects(installation: Installation) -> list[dict[str, Any]]:
    """Return the objects, in the order in which they are made."""
    base = _base()
    instead = {_name(item): item for item in base.get(_lookups(installation.policy), ())}
    usual = [item for item in (*base[COMMON], *base[installation.certs]) if _name(item) not in instead]
    found = [_filled(item, installation) for item in (*usual, *instead.values())]
    found = [each for item in found for each in _bound(item, installation)]
    wanted = [_FINISH.get(item["kind"], _unchanged)(item, installation) for item in found if _wants(item, installation)]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": installation.namespace}}
    return [*([namespace] if installation.create_namespace else []), *sorted(wanted, key=_order)]


@functools.lru_cache(maxsize=1)
def _base() -> dict[str, list[dict[str, Any]]]:
    (base,) = parse_yaml(BASE.read_text(encoding="utf-8"), name=BASE.name)
    return dict(base)


def _name(item: dict[str, Any]) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _lookups(policy: Policy) -> str:
    """Return the key of what a policy needs for lookups; empty if it has none."""
    if not policy.registry.lookup:
        return ""
    return PULL_SECRETS if policy.registry.pull_secrets else LOOKUPS


def _seconds(policy: Policy, *, at_least: int) -> int:
    """Return how many seconds are enough for an answer, if registries are asked for it."""
    asked = math.ceil(policy.registry.timeout_seconds) + _BESIDE_LOOKUPS_SECONDS
    return max(at_least, asked) if policy.registry.lookup else at_least


def _filled(value: Any, installation: Installation) -> Any:
    """Return a copy of data with the values of an installation in the place of the placeholders."""
    match value:
        case dict():
            return {key: _filled(entry, installation) for key, entry in value.items()}
        case list():
            return [_filled(entry, installation) for entry in value]
        case str() if value.startswith(IMAGE):
            return installation.image
        case str():
            return value.replace(NAMESPACE, installation.namespace).replace(SECRET, installation.secret)
        case _:
            return value


def _bound(item: dict[str, Any], installation: Installation) -> list[dict[str, Any]]:
    """Return the binding of the right to read Secrets for each namespace where it is given; any other item as it is."""
    is_ours = item["kind"] == "ClusterRoleBinding" and item["metadata"]["name"].endswith(f"-{PULL_SECRETS}")
    if not is_ours or EVERYWHERE in installation.pull_secret_namespaces:
        return [item]
    return [
        {**item, "kind": "RoleBinding", "metadata": {**item["metadata"], "namespace": namespace}}
        for namespace in dict.fromkeys(installation.pull_secret_namespaces)
    ]


def _wants(item: dict[str, Any], installation: Installation) -> bool:
    if item["kind"] == "ServiceMonitor":
        return installation.service_monitor
    return installation.dashboard or not item["metadata"]["name"].endswith("-dashboard")


def _unchanged(item: dict[str, Any], installation: Installation) -> dict[str, Any]:
    return item


def _deployment(item: dict[str, Any], installation: Installation) -> dict[str, Any]:
    spec = item["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    grace_seconds = _seconds(installation.policy, at_least=_GRACE_SECONDS)
    container["args"][-1] = f"--grace={grace_seconds}"
    spec["terminationGracePeriodSeconds"] = grace_seconds + 10
    spec["automountServiceAccountToken"] = _lookups(installation.policy) == PULL_SECRETS
    item["spec"]["replicas"] = installation.replicas
    return item


def _config_map(item: dict[str, Any], installation: Installation) -> dict[str, Any]:
    if "policy.yaml" in item["data"]:
        item["data"]["policy.yaml"] = installation.policy_text
    return item


def _configuration(item: dict[str, Any], installation: Installation) -> dict[str, Any]:
    if installation.failure_policy is FailurePolicy.FAIL or not installation.ask_again:
        del item["webhooks"][1:]
    for webhook in item["webhooks"]:
        webhook["timeoutSeconds"] = _seconds(installation.policy, at_least=webhook["timeoutSeconds"])
        webhook["failurePolicy"] = str(installation.failure_policy)
        webhook["matchConditions"][0]["expression"] = pods_condition(installation.policy)
        if installation.ca_bundle:
            bundle = _certificates(installation.ca_bundle).encode()
            webhook["clientConfig"]["caBundle"] = base64.b64encode(bundle).decode()
    return item


def _job(item: dict[str, Any], installation: Installation) -> dict[str, Any]:
    """Give a job the name that the chart gives it: a job can't be changed, so another one has another name."""
    template = json.dumps(item["spec"]["template"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(template.encode()).hexdigest()[:8]
    item["metadata"]["name"] = f"{item['metadata']['name'].rpartition('-')[0]}-{digest}"
    return item


_FINISH: dict[str, Callable[[dict[str, Any], Installation], dict[str, Any]]] = {
    "Deployment": _deployment,
    "ConfigMap": _config_map,
    "MutatingWebhookConfiguration": _configuration,
    "Job": _job,
}

_LAST = ("Service", "Deployment", "CronJob", "Job", "Issuer", "Certificate", "MutatingWebhookConfiguration")


def _order(item: dict[str, Any]) -> int:
    """Return a number by which what others refer to comes first."""
    return _LAST.index(item["kind"]) if item["kind"] in _LAST else -1
