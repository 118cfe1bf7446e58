"""The webhook's objects on a real API server: all are accepted, and come and go by Helm and by kubectl.

No controller runs, so that no pod does: what the job of certificates would do is done here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.policies import DEFAULT_TEXT
from kata_dind.vocabulary import CertificateSource
from kata_dind.webhook.manifest import Installation, objects
from tests.kube import crds
from tests.kube.chart import Values, needs_helm, rendered
from tests.kube.client import Client
from tests.kube.installing import (
    CONFIGURATION,
    DEPLOYMENT,
    Kubectl,
    Release,
    certificates,
    in_namespace,
    put_certificates,
    token_of,
)
from tests.kube.needs import needs
from tests.kube.server import ApiServer
from tests.kube.test_chart import PULL_SECRETS, SAME

pytestmark = [*needs("kubectl"), *needs_helm()]

EVERYTHING: Values = {
    "imagePullSecrets": ["mine"],
    "webhook": {
        "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["ci"]}]},
        "objectSelector": {"matchLabels": {"app": "runner"}},
        "matchConditions": [{"name": "mine", "expression": "!object.metadata.name.startsWith('x')"}],
        "excludedNamespaces": ["kube-system", "kube-node-lease"],
    },
    "priorityClassName": "system-cluster-critical",
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
            }
        }
    },
    "podLabels": {"team": "ci"},
    "podAnnotations": {"example.com/a": "b"},
    "runAsUser": 1000660000,
    "maxUnavailable": "50%",
    "dashboard": {"annotations": {"folder": "ci"}},
}
_OF_BOTH = {name: values for name, (values, _) in SAME.items()}
VALUES = {**_OF_BOTH, "everything": EVERYTHING, "no user": {"runAsUser": None}}


@pytest.fixture(scope="module")
def operators(api_server: ApiServer) -> None:
    """The kinds of cert-manager, and of Prometheus' operator."""
    with api_server.client() as client:
        client.make(*crds.definitions())
        kinds = (
            "cert-manager.io/v1/certificates",
            "cert-manager.io/v1/issuers",
            "monitoring.coreos.com/v1/servicemonitors",
        )
        client.wait_until(lambda: all(client.request("GET", f"/apis/{kind}").accepted for kind in kinds))


@pytest.fixture
def kubeconfig(api_server: ApiServer, tmp_path: Path) -> Path:
    return api_server.kubeconfig(tmp_path / "kubeconfig", context="test")


@pytest.fixture
def release(kubeconfig: Path, namespace: str, tmp_path: Path) -> Release:
    return Release(namespace, kubeconfig, tmp_path)


@pytest.fixture
def nothing_stays(api: Client, operators: None, namespace: str) -> Iterator[set[str]]:
    """What the cluster had; all else has to be gone in the end."""
    before = api.inventory()
    yield before
    assert api.inventory() == before


def refusals(api: Client, items: list[dict[str, Any]], namespace: str) -> list[str]:
    """Return what the server has to say against objects, which are none of its own before and after."""
    found = []
    for item in copy.deepcopy(items):
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = namespace
        answer = api.create(item, dry_run=True)
        found += [] if answer.accepted else [f"{item['kind']} {item['metadata']['name']}: {answer.message}"]
    return found


@pytest.mark.parametrize("case", VALUES)
def test_every_object_of_the_chart_is_accepted(
    api: Client, operators: None, namespace: str, case: str, tmp_path: Path
) -> None:
    values = {**VALUES[case]}
    items = rendered(values, home=tmp_path, namespace=namespace)
    assert len(items) > 6
    assert refusals(api, items, namespace) == []


@pytest.mark.parametrize("case", SAME)
def test_every_object_of_the_manifest_is_accepted(api: Client, operators: None, namespace: str, case: str) -> None:
    wishes = {"policy": Policy(), "policy_text": DEFAULT_TEXT, **SAME[case][1]}
    assert refusals(api, objects(Installation(**wishes)), namespace) == []


def test_the_server_refuses_what_is_wrong(api: Client, operators: None, namespace: str, tmp_path: Path) -> None:
    """Otherwise the tests above would pass for anything."""
    items = rendered({"certs": {"mode": "cert-manager"}}, home=tmp_path, namespace=namespace)
    for item in items:
        item.get("spec", item)["unheardOf"] = 1
    assert len(refusals(api, items, namespace)) == len(items)


def test_a_release_comes_is_changed_and_goes(api: Client, release: Release, nothing_stays: set[str]) -> None:
    said = release.install({})
    assert "kata-dind repairs new pods that run Docker in a RuntimeClass of Kata's." in said
    installed = api.inventory() - nothing_stays
    assert len(installed) > 15
    put_certificates(api, release.namespace)

    release.upgrade({"replicas": 3, "policy": {"runtimeClasses": [{"match": "vm"}]}})
    deployment = in_namespace(DEPLOYMENT, release.namespace)
    assert api.read(deployment)["spec"]["replicas"] == 3
    for webhook in api.read(CONFIGURATION)["webhooks"]:
        assert "'^(vm)$'" in webhook["matchConditions"][0]["expression"]
    assert certificates(api, release.namespace) == ({"tls.crt", "tls.key", "ca.crt", "ca.key"}, "Y2E=")

    release.run("rollback")
    assert api.read(deployment)["spec"]["replicas"] == 2
    assert certificates(api, release.namespace) == ({"tls.crt", "tls.key", "ca.crt", "ca.key"}, "Y2E=")

    release.run("uninstall")


def test_a_job_that_differs_is_made_anew(api: Client, release: Release, nothing_stays: set[str]) -> None:
    """The server refuses to change a job."""
    release.install({})
    jobs = {path for path in api.inventory() if path.startswith("/apis/batch/v1/jobs ")} - nothing_stays
    release.upgrade({})
    assert {path for path in api.inventory() if path.startswith("/apis/batch/v1/jobs ")} - nothing_stays == jobs
    release.upgrade({"image": {"tag": "9.9.9"}, "resources": {"requests": {"cpu": "1"}}})
    others = {path for path in api.inventory() if path.startswith("/apis/batch/v1/jobs ")} - nothing_stays
    assert len(others) == len(jobs) == 1
    assert others != jobs
    release.run("uninstall")


@pytest.mark.parametrize("mode", [mode for mode in CertificateSource if mode is not CertificateSource.JOB])
def test_the_way_to_a_certificate_may_be_changed(
    api: Client, release: Release, nothing_stays: set[str], mode: CertificateSource
) -> None:
    values = {case: VALUES[case] for case in ("cert-manager", "provided")}[mode]
    release.install({})
    put_certificates(api, release.namespace)
    release.upgrade(values, "--force-conflicts")
    assert not [path for path in api.inventory() - nothing_stays if "/jobs " in path]
    release.upgrade({"certs": {"mode": "job"}}, "--force-conflicts")
    assert [path for path in api.inventory() - nothing_stays if "/jobs " in path]
    release.run("uninstall")


def test_kubectl_applies_the_manifest_twice_and_removes_it(
    api: Client, kubeconfig: Path, namespace: str, nothing_stays: set[str], tmp_path: Path
) -> None:
    kubectl = Kubectl(kubeconfig, tmp_path)
    first = Installation(policy=Policy(), policy_text=DEFAULT_TEXT, namespace=namespace, dashboard=True)
    kubectl.apply(first)
    put_certificates(api, namespace)
    said = kubectl.apply(first)
    # kubectl replaces the selector of any PodDisruptionBudget as a whole, also by the same one.
    assert _changed(said) == ["poddisruptionbudget.policy/kata-dind"]
    second = Installation(
        policy=parse_policy({"repair": False}), policy_text="repair: false\n", namespace=namespace, dashboard=True
    )
    said = kubectl.apply(second)
    assert _changed(said) == ["poddisruptionbudget.policy/kata-dind", "configmap/kata-dind-policy"]
    assert certificates(api, namespace) == ({"tls.crt", "tls.key", "ca.crt", "ca.key"}, "Y2E=")
    kubectl.delete(second)


def _changed(said: str) -> list[str]:
    return [line.split()[0] for line in said.splitlines() if not line.endswith(" unchanged")]


def test_the_job_may_change_its_two_objects_and_nothing_else_and_the_webhooks_nothing(
    api: Client, api_server: ApiServer, release: Release, nothing_stays: set[str]
) -> None:
    release.install({})
    namespace = release.namespace
    secrets, mine = f"/api/v1/namespaces/{namespace}/secrets", "kata-dind-tls"
    configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": namespace}}
    api.make(other)
    may = {
        ("GET", f"{secrets}/{mine}"): None,
        ("PATCH", f"{secrets}/{mine}"): {"data": {"ca.crt": "Y2E="}},
        ("GET", f"{configurations}/kata-dind"): None,
        ("PATCH", f"{configurations}/kata-dind"): {"metadata": {"labels": {"a": "b"}}},
    }
    may_not = {
        ("GET", secrets): None,
        ("GET", f"{secrets}/other"): None,
        ("PATCH", f"{secrets}/other"): {"data": {"a": "Yg=="}},
        ("DELETE", f"{secrets}/{mine}"): None,
        ("POST", secrets): {**other, "metadata": {"name": "third"}},
        ("GET", configurations): None,
        ("DELETE", f"{configurations}/kata-dind"): None,
        ("GET", f"/api/v1/namespaces/{namespace}/pods"): None,
        ("GET", f"/api/v1/namespaces/default/secrets/{mine}"): None,
    }
    for account, allowed in (("kata-dind-certs", may), ("kata-dind", {})):
        with api_server.client(token=token_of(api, namespace, account)) as client:
            for (method, path), body in (may | may_not).items():
                kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
                status = client.request(method, path, body, kind=kind).status
                wanted = 200 if (method, path) in allowed else 403
                assert (account, method, path, status) == (account, method, path, wanted)
    api.delete(other)
    release.run("uninstall")


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_webhooks_may_get_the_pull_secrets_of_the_namespaces_that_the_values_name(
    api: Client, api_server: ApiServer, release: Release, nothing_stays: set[str], everywhere: bool
) -> None:
    namespaces = ["*"] if everywhere else [release.namespace]
    release.install({"policy": PULL_SECRETS, "pullSecretNamespaces": namespaces})
    secrets = f"/api/v1/namespaces/{release.namespace}/secrets"
    wanted = {
        ("GET", f"{secrets}/none"): 404,
        ("GET", secrets): 403,
        ("DELETE", f"{secrets}/none"): 403,
        ("GET", "/api/v1/namespaces/default/secrets/none"): 404 if everywhere else 403,
        ("GET", f"/api/v1/namespaces/{release.namespace}/pods"): 403,
    }
    with api_server.client(token=token_of(api, release.namespace, "kata-dind")) as client:
        assert {(method, path): client.request(method, path).status for method, path in wanted} == wanted
    release.run("uninstall")
