"""What `kata-dind webhook manifest` prints; tests/kube compares it with the chart, and gives it to an API server."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import SpecError
from kata_dind.manifest import parse_yaml
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.policies import DEFAULT_TEXT
from kata_dind.version import __version__
from kata_dind.vocabulary import CertificateSource, FailurePolicy
from kata_dind.webhook import manifest
from kata_dind.webhook.authority import new_authority
from kata_dind.webhook.manifest import Installation, manifest_text, objects
from kata_dind.webhook.permissions import pull_secret_rules
from scripts.generate_chart import CHART, REPOSITORY, chart_digest, rendered_digest

AUTHORITY = new_authority(["kata-dind.kata-dind.svc"], now=datetime.now(UTC))
PEM = AUTHORITY.certificate
NOT_A_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PROVIDED: dict[str, Any] = {"certs": CertificateSource.PROVIDED, "secret": "mine", "ca_bundle": PEM}


def installation(**wishes: Any) -> Installation:
    return Installation(**{"policy": Policy(), "policy_text": DEFAULT_TEXT, **wishes})


def made(**wishes: Any) -> dict[str, dict[str, Any]]:
    """Return the objects of an installation by kind and name."""
    return {f"{item['kind']} {item['metadata']['name']}": item for item in objects(installation(**wishes))}


def pod_specs(**wishes: Any) -> Iterator[dict[str, Any]]:
    for item in objects(installation(**wishes)):
        if item["kind"] in ("Deployment", "Job"):
            yield item["spec"]["template"]["spec"]
        if item["kind"] == "CronJob":
            yield item["spec"]["jobTemplate"]["spec"]["template"]["spec"]


ALWAYS = [
    *("NetworkPolicy kata-dind", "PodDisruptionBudget kata-dind", "ServiceAccount kata-dind"),
    *("ConfigMap kata-dind-policy", "Service kata-dind", "Deployment kata-dind"),
    "MutatingWebhookConfiguration kata-dind",
]
OF_THE_JOB = [
    *("NetworkPolicy kata-dind-certs", "ServiceAccount kata-dind-certs", "Secret kata-dind-tls"),
    *("ClusterRole kata-dind-certs", "ClusterRoleBinding kata-dind-certs", "Role kata-dind-certs"),
    *("RoleBinding kata-dind-certs", "CronJob kata-dind-certs", "Job kata-dind-certs-"),
]
OF_CERT_MANAGER = [
    *("Issuer kata-dind-selfsigned", "Certificate kata-dind-ca", "Issuer kata-dind", "Certificate kata-dind"),
]


@pytest.mark.parametrize(
    ("wishes", "more"),
    [
        ({}, OF_THE_JOB),
        ({"certs": CertificateSource.CERT_MANAGER}, OF_CERT_MANAGER),
        (PROVIDED, []),
        ({**PROVIDED, "create_namespace": True}, ["Namespace kata-dind"]),
        ({**PROVIDED, "dashboard": True}, ["ConfigMap kata-dind-dashboard"]),
        ({**PROVIDED, "service_monitor": True}, ["ServiceMonitor kata-dind"]),
    ],
)
def test_each_way_has_its_objects(wishes: dict[str, Any], more: list[str]) -> None:
    names = [name if not name.startswith("Job ") else name[: -len("01234567")] for name in made(**wishes)]
    assert sorted(names) == sorted([*ALWAYS, *more])


def test_the_text_is_all_of_it_and_what_others_refer_to_comes_first() -> None:
    text = manifest_text(installation(create_namespace=True))
    kinds = [item["kind"] for item in parse_yaml(text)]
    assert (kinds[0], kinds[-1]) == ("Namespace", "MutatingWebhookConfiguration")
    assert kinds.index("Secret") < kinds.index("Deployment")
    assert kinds.index("Role") < kinds.index("Job")


def test_the_wishes_are_in_the_objects() -> None:
    found = made(namespace="ci", image="registry.example/kata-dind:2", replicas=3, failure_policy=FailurePolicy.FAIL)
    deployment = found["Deployment kata-dind"]
    assert deployment["spec"]["replicas"] == 3
    (webhook,) = found["MutatingWebhookConfiguration kata-dind"]["webhooks"]
    assert webhook["failurePolicy"] == "Fail"
    # It is asked about each pod, whatever its annotations say.
    assert [each["name"] for each in webhook["matchConditions"]] == ["policy"]
    assert webhook["clientConfig"] == {
        "service": {"name": "kata-dind", "namespace": "ci", "path": "/mutate", "port": 443}
    }
    assert webhook["namespaceSelector"]["matchExpressions"][0]["values"] == ["kube-system", "ci"]
    assert {container["image"] for spec in pod_specs(image="a/b:2") for container in spec["containers"]} == {"a/b:2"}
    assert {item["metadata"].get("namespace", "ci") for item in found.values()} == {"ci"}
    assert found["RoleBinding kata-dind-certs"]["subjects"][0]["namespace"] == "ci"


def test_the_api_server_asks_about_new_pods_of_katas_classes_alone() -> None:
    webhook, again = made()["MutatingWebhookConfiguration kata-dind"]["webhooks"]
    assert {
        key: webhook[key] for key in webhook if key not in ("clientConfig", "namespaceSelector", "objectSelector")
    } == {
        "name": "pods.kata-dind.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "matchPolicy": "Equivalent",
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": 5,
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
                "operations": ["CREATE"],
                "scope": "Namespaced",
            },
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods/ephemeralcontainers"],
                "operations": ["UPDATE"],
                "scope": "Namespaced",
            },
        ],
        "matchConditions": [
            {
                "name": "policy",
                "expression": "object.spec.?runtimeClassName.orValue('').matches('^(kata|kata-.*)$')",
            }
        ],
    }
    opted_out = {"key": "kata-dind.io/webhook", "operator": "NotIn", "values": ["disabled"]}
    assert webhook["objectSelector"] == {"matchExpressions": [opted_out]}
    assert webhook["namespaceSelector"]["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "kata-dind"]},
        opted_out,
    ]
    not_repaired = "!('kata-dind.io/repaired' in object.metadata.?annotations.orValue({}))"
    assert again == {
        **webhook,
        "name": "again.pods.kata-dind.io",
        "rules": webhook["rules"][:1],
        "matchConditions": [*webhook["matchConditions"], {"name": "not-repaired", "expression": not_repaired}],
    }


def test_the_api_server_may_be_told_to_ask_once() -> None:
    twice, once = (
        made(ask_again=ask_again)["MutatingWebhookConfiguration kata-dind"]["webhooks"] for ask_again in (True, False)
    )
    assert once == twice[:1]


def test_the_policy_is_the_file_that_was_given_and_its_classes_are_the_condition() -> None:
    text = "# ours\nruntimeClasses: [{match: vm}]\n"
    found = made(policy=parse_policy({"runtimeClasses": [{"match": "vm"}]}), policy_text=text)
    assert found["ConfigMap kata-dind-policy"]["data"] == {"policy.yaml": text}
    for webhook in found["MutatingWebhookConfiguration kata-dind"]["webhooks"]:
        assert "'^(vm)$'" in webhook["matchConditions"][0]["expression"]


def test_a_provided_certificate_is_mounted_and_its_authority_is_trusted() -> None:
    found = made(**PROVIDED)
    for webhook in found["MutatingWebhookConfiguration kata-dind"]["webhooks"]:
        assert base64.b64decode(webhook["clientConfig"]["caBundle"]).decode() == PEM
    assert found["Deployment kata-dind"]["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "mine"


def test_of_a_file_for_the_api_server_only_the_certificates_are_taken() -> None:
    others = new_authority(["b"], now=datetime.now(UTC)).certificate
    found = made(**{**PROVIDED, "ca_bundle": f"subject=our CA\r\n{AUTHORITY.key}{PEM}{others}"})
    for webhook in found["MutatingWebhookConfiguration kata-dind"]["webhooks"]:
        assert base64.b64decode(webhook["clientConfig"]["caBundle"]).decode() == PEM + others


def test_a_secret_may_have_dots_in_its_name() -> None:
    found = made(**{**PROVIDED, "secret": "kata-dind.example.tls"})
    volumes = found["Deployment kata-dind"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["secret"]["secretName"] == "kata-dind.example.tls"


def test_a_job_that_differs_has_another_name() -> None:
    names = [
        next(name for name in made(**wishes) if name.startswith("Job ")) for wishes in ({}, {}, {"image": "other:1"})
    ]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("wishes", [{}, {"certs": CertificateSource.CERT_MANAGER}, PROVIDED])
def test_no_pod_has_a_right_that_it_does_not_need(wishes: dict[str, Any]) -> None:
    specs = list(pod_specs(**wishes))
    assert specs
    for spec in specs:
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}
        assert spec["automountServiceAccountToken"] is spec["serviceAccountName"].endswith("-certs")


LOOKUPS = parse_policy({"registry": {"lookup": True}})
PULL_SECRETS = parse_policy({"registry": {"lookup": True, "pullSecrets": True, "timeoutSeconds": 12.5}})


def _namespaces(policy: Policy) -> tuple[str, ...]:
    return ("ci",) if policy.registry.pull_secrets else ()


def _egress(policy: Policy) -> list[list[int]]:
    spec = made(policy=policy, pull_secret_namespaces=_namespaces(policy))["NetworkPolicy kata-dind"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    return [[port["port"] for port in rule["ports"]] for rule in spec.get("egress", [])]


def test_webhooks_that_ask_registries_reach_those_and_nothing_else() -> None:
    assert _egress(Policy()) == []
    assert _egress(LOOKUPS) == [[53, 53], [443]]
    assert _egress(PULL_SECRETS) == [[53, 53], [443], [443, 6443]]


@pytest.mark.parametrize(
    ("policy", "token", "answer_seconds", "grace_seconds"),
    [(Policy(), False, 5, 10), (LOOKUPS, False, 5, 10), (PULL_SECRETS, True, 15, 15)],
)
def test_the_api_server_waits_longer_than_lookups_take(
    policy: Policy, token: bool, answer_seconds: int, grace_seconds: int
) -> None:
    found = made(policy=policy, pull_secret_namespaces=_namespaces(policy))
    webhooks = found["MutatingWebhookConfiguration kata-dind"]["webhooks"]
    spec = found["Deployment kata-dind"]["spec"]["template"]["spec"]
    assert [webhook["timeoutSeconds"] for webhook in webhooks] == [answer_seconds] * 2
    assert spec["containers"][0]["args"][-1] == f"--grace={grace_seconds}"
    assert spec["terminationGracePeriodSeconds"] == grace_seconds + 10
    assert spec["automountServiceAccountToken"] is token


def test_webhooks_may_read_secrets_only_where_the_policy_says_so() -> None:
    assert not [name for name in {**made(), **made(policy=LOOKUPS)} if "pull-secrets" in name]
    items = objects(installation(policy=PULL_SECRETS, pull_secret_namespaces=("ci", "team-a", "ci")))
    role, *bindings = [item for item in items if item["metadata"]["name"] == "kata-dind-pull-secrets"]
    assert (role["kind"], role["rules"]) == ("ClusterRole", pull_secret_rules())
    assert [(each["kind"], each["metadata"]["namespace"]) for each in bindings] == [
        ("RoleBinding", "ci"),
        ("RoleBinding", "team-a"),
    ]
    for each in bindings:
        assert each["roleRef"]["name"] == "kata-dind-pull-secrets"
        assert each["subjects"] == [{"kind": "ServiceAccount", "name": "kata-dind", "namespace": "kata-dind"}]


def test_webhooks_may_read_every_secret_only_if_that_is_what_was_asked_for() -> None:
    found = made(policy=PULL_SECRETS, namespace="ci", pull_secret_namespaces=("*",))
    binding = found["ClusterRoleBinding kata-dind-pull-secrets"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "kata-dind", "namespace": "ci"}]
    assert "RoleBinding kata-dind-pull-secrets" not in found
    with pytest.raises(SpecError, match="told whose Secrets they may read"):
        made(policy=PULL_SECRETS)


def test_the_certificates_job_may_read_and_patch_two_objects_and_the_webhooks_nothing() -> None:
    found = made()
    assert found["Role kata-dind-certs"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["kata-dind-tls"], "verbs": ["get", "patch"]}
    ]
    assert found["ClusterRole kata-dind-certs"]["rules"] == [
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": ["kata-dind"],
            "verbs": ["get", "patch"],
        }
    ]
    bindings = [item for item in found.values() if "subjects" in item]
    assert [item["subjects"][0]["name"] for item in bindings] == ["kata-dind-certs"] * 2


def test_the_key_of_the_authority_is_not_mounted() -> None:
    (spec, *_) = pod_specs()
    secret = spec["volumes"][0]["secret"]
    assert [item["key"] for item in secret["items"]] == ["tls.crt", "tls.key"]


@pytest.mark.parametrize(
    ("wishes", "option"),
    [
        ({"namespace": "A"}, "--namespace"),
        ({"namespace": ""}, "--namespace"),
        ({"image": "a b"}, "--image"),
        ({"replicas": 0}, "--replicas"),
        ({"certs": CertificateSource.PROVIDED}, "--secret and --ca-bundle"),
        ({"secret": "mine"}, "--secret and --ca-bundle"),
        ({"pull_secret_namespaces": ("ci",)}, "--pull-secret-namespace: the policy has no registry.lookup"),
        ({"policy": PULL_SECRETS, "pull_secret_namespaces": ("a.b",)}, "--pull-secret-namespace: 'a.b'"),
        ({**PROVIDED, "secret": "../x"}, "--secret"),
        ({**PROVIDED, "secret": "a..b"}, "--secret"),
        ({**PROVIDED, "ca_bundle": "MIIB"}, "--ca-bundle"),
        ({**PROVIDED, "ca_bundle": NOT_A_CERTIFICATE}, "--ca-bundle"),
        ({**PROVIDED, "ca_bundle": PEM + NOT_A_CERTIFICATE}, "--ca-bundle"),
        ({**PROVIDED, "ca_bundle": AUTHORITY.key}, "--ca-bundle"),
        ({"image": "registry.example/Kata:1"}, "--image"),
        ({"image": "registry.example/kata:1:2"}, "--image"),
        ({"image": "kata@sha256:1"}, "--image"),
    ],
)
def test_what_can_not_work_is_refused(wishes: dict[str, Any], option: str) -> None:
    with pytest.raises(SpecError, match=option):
        installation(**wishes)


# --- the chart beside it


def chart_file(name: str) -> dict[str, Any]:
    (data,) = parse_yaml((CHART / name).read_text(encoding="utf-8"), name=name)
    return dict(data)


def test_chart_package_and_image_have_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart_file("Chart.yaml")["appVersion"] == __version__ == project["version"]


def test_defaults_of_the_chart_and_of_the_command_are_the_same() -> None:
    values = chart_file("values.yaml")
    assert values["image"]["repository"] == manifest.IMAGE_REPOSITORY
    assert parse_policy(values["policy"]) == Policy()


def test_the_objects_are_of_the_present_chart() -> None:
    assert rendered_digest() == chart_digest(), "run .venv/bin/python -m scripts.generate_chart"


def test_no_placeholder_is_left() -> None:
    text = manifest_text(installation(**PROVIDED, dashboard=True, service_monitor=True))
    for placeholder in (manifest.NAMESPACE, manifest.SECRET, manifest.IMAGE):
        assert placeholder not in text
        assert placeholder in Path(manifest.BASE).read_text(encoding="utf-8")
