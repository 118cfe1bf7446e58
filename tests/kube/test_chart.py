"""The chart: what Helm makes of it, what it refuses, and that `kata-dind webhook manifest` prints the same."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kata_dind.manifest import parse_yaml
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.vocabulary import CertificateSource, FailurePolicy
from kata_dind.webhook import manifest
from kata_dind.webhook.authority import new_authority
from kata_dind.webhook.conditions import pods_condition
from kata_dind.webhook.manifest import Installation, objects
from scripts.generate_chart import CHART, base_manifest
from tests.kube.chart import Values, helm, needs_helm, rendered, with_values

pytestmark = needs_helm()

PEM = new_authority(["kata-dind.kata-dind.svc"], now=datetime.now(UTC)).certificate
BUNDLE = base64.b64encode(PEM.encode()).decode()
POLICY: dict[str, Any] = {
    "runtimeClasses": [
        {"match": "kata-old", "kata": False},
        {"match": "kata-fast", "handler": "kata-qemu", "version": "4.1.0", "emptyDir": "block-plain"},
        {"match": "kata-[a-c]?"},
        {"match": "vm.*", "kata": False},
        {"match": "*"},
    ],
    "dataRoot": {"kind": "loop", "size": "50Gi"},
    "guards": {"noBoundary": "warn"},
}

LOOKUPS: dict[str, Any] = {"registry": {"lookup": True}}
PULL_SECRETS: dict[str, Any] = {"registry": {"lookup": True, "pullSecrets": True, "timeoutSeconds": 12.5}}

SAME: dict[str, tuple[Values, dict[str, Any]]] = {
    "default": ({}, {}),
    "policy": ({"policy": POLICY}, {"policy": parse_policy(POLICY)}),
    "guards": (
        {"policy": {"guards": {"sharedKernel": "deny"}}},
        {"policy": parse_policy({"guards": {"sharedKernel": "deny"}})},
    ),
    "lookups": ({"policy": LOOKUPS}, {"policy": parse_policy(LOOKUPS)}),
    "pull secrets": (
        {"policy": PULL_SECRETS, "pullSecretNamespaces": ["ci"]},
        {"policy": parse_policy(PULL_SECRETS), "pull_secret_namespaces": ("ci",)},
    ),
    "all pull secrets": (
        {"policy": PULL_SECRETS, "pullSecretNamespaces": ["*"]},
        {"policy": parse_policy(PULL_SECRETS), "pull_secret_namespaces": ("*",)},
    ),
    "no lookups": (
        {"policy": {"registry": {**PULL_SECRETS["registry"], "lookup": False}}},
        {"policy": parse_policy({"registry": {**PULL_SECRETS["registry"], "lookup": False}})},
    ),
    "cert-manager": ({"certs": {"mode": "cert-manager"}}, {"certs": CertificateSource.CERT_MANAGER}),
    "provided": (
        {"certs": {"mode": "provided", "secretName": "mine", "caBundle": BUNDLE}},
        {"certs": CertificateSource.PROVIDED, "secret": "mine", "ca_bundle": PEM},
    ),
    "settings": (
        {
            "replicas": 3,
            "webhook": {"failurePolicy": "Fail"},
            "image": {"repository": "registry.example:5000/ci/kata-dind", "tag": "1.2"},
        },
        {"replicas": 3, "failure_policy": FailurePolicy.FAIL, "image": "registry.example:5000/ci/kata-dind:1.2"},
    ),
    "once": ({"webhook": {"askAgain": False}}, {"ask_again": False}),
    "digest": (
        {"image": {"repository": "registry.example/kata-dind", "tag": "1", "digest": f"sha256:{'0' * 64}"}},
        {"image": f"registry.example/kata-dind@sha256:{'0' * 64}"},
    ),
    "monitoring": (
        {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}},
        {"service_monitor": True, "dashboard": True},
    ),
}


def comparable(items: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """Return objects by kind and name, without what tells who made them, and with policies as data."""
    found = {}
    for item in items:
        labels = item["metadata"]["labels"]
        labels.pop("helm.sh/chart", None)
        labels.pop("app.kubernetes.io/managed-by")
        if "policy.yaml" in item.get("data", {}):
            (data,) = parse_yaml(item["data"]["policy.yaml"])
            item["data"] = parse_policy(data)
        found[item["kind"], item["metadata"]["name"]] = item
    assert len(found) == len(items)
    return found


@pytest.mark.parametrize("namespace", ["kata-dind", "ci-tools"])
@pytest.mark.parametrize("case", SAME)
def test_the_manifest_is_what_the_chart_makes(case: str, namespace: str, tmp_path: Path) -> None:
    values, wishes = SAME[case]
    policy = wishes.get("policy", Policy())
    text = policy.model_dump_json(by_alias=True, exclude_unset=True)
    installation = Installation(**{"policy": policy, "policy_text": text, "namespace": namespace, **wishes})
    theirs = comparable(rendered(values, home=tmp_path, namespace=namespace))
    ours = comparable(objects(installation))
    assert ours.keys() == theirs.keys()
    for key, item in theirs.items():
        assert ours[key] == item


def test_the_package_has_the_objects_of_this_chart() -> None:
    """What --check tells without Helm, told by Helm."""
    assert manifest.BASE.read_text(encoding="utf-8") == base_manifest()


@pytest.mark.parametrize("values", [values for values, _ in SAME.values()], ids=[*SAME])
def test_helm_lint_has_nothing_to_say(values: Values, tmp_path: Path) -> None:
    said = helm("lint", "--strict", CHART, *with_values(values, tmp_path), home=tmp_path).stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert [line for line in said.splitlines() if line.startswith("[")] == ["[INFO] Chart.yaml: icon is recommended"]


def _some_policy(chance: random.Random) -> dict[str, Any]:
    signs = ["kata", "-", "x", "1", ".", "*", "?", "[a-c]", "[!0-9x]", "[c-a]", "[", "]", "_", "'", "\\", "K"]
    rules = [
        {"match": "".join(chance.choices(signs, k=chance.randint(1, 5))), "kata": chance.random() < 0.6}
        for _ in range(chance.randint(0, 6))
    ]
    return {"runtimeClasses": rules}


@pytest.mark.parametrize("seed", range(30))
def test_helm_and_python_compute_the_same_condition(seed: int, tmp_path: Path) -> None:
    policy = _some_policy(random.Random(seed))
    only = "--show-only=templates/mutatingwebhookconfiguration.yaml"
    (configuration,) = rendered({"policy": policy}, only, home=tmp_path)
    webhook, again = configuration["webhooks"]
    assert webhook["matchConditions"] == [{"name": "policy", "expression": pods_condition(parse_policy(policy))}]
    assert again["matchConditions"][:1] == webhook["matchConditions"]


def test_pull_secrets_may_be_read_in_some_namespaces_alone(tmp_path: Path) -> None:
    only = "--show-only=templates/pullsecrets.yaml"
    values = {"policy": PULL_SECRETS, "pullSecretNamespaces": ["ci", "team-a"]}
    role, *bindings = rendered(values, only, home=tmp_path)
    assert role["kind"] == "ClusterRole"
    assert [(item["kind"], item["metadata"]["namespace"]) for item in bindings] == [
        ("RoleBinding", "ci"),
        ("RoleBinding", "team-a"),
    ]
    for item in bindings:
        assert item["roleRef"]["name"] == role["metadata"]["name"]
        assert item["subjects"] == [{"kind": "ServiceAccount", "name": "kata-dind", "namespace": "kata-dind"}]


def test_registries_may_be_behind_other_ports(tmp_path: Path) -> None:
    only = "--show-only=templates/networkpolicy.yaml"
    values = {"policy": LOOKUPS, "networkPolicy": {"registryPorts": [443, 5000]}}
    policy, _ = rendered(values, only, home=tmp_path)
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["egress"]]
    assert ports == [[53, 53], [443, 5000]]


def test_the_api_server_waits_as_long_as_it_was_told_if_that_is_more(tmp_path: Path) -> None:
    only = "--show-only=templates/mutatingwebhookconfiguration.yaml"
    for seconds, waits in ((30, 30), (10, 15)):
        values = {"policy": PULL_SECRETS, "pullSecretNamespaces": ["ci"], "webhook": {"timeoutSeconds": seconds}}
        (configuration,) = rendered(values, only, home=tmp_path)
        assert [webhook["timeoutSeconds"] for webhook in configuration["webhooks"]] == [waits] * 2


def test_what_the_values_want_of_pods_holds_for_both_calls(tmp_path: Path) -> None:
    only = "--show-only=templates/mutatingwebhookconfiguration.yaml"
    mine = [{"name": "mine", "expression": "object.metadata.name != 'x'"}]
    selector = {"matchLabels": {"team": "ci"}}
    values = {"webhook": {"matchConditions": mine, "namespaceSelector": selector, "objectSelector": selector}}
    (configuration,) = rendered(values, only, home=tmp_path)
    webhook, again = configuration["webhooks"]
    assert [each["name"] for each in webhook["matchConditions"]] == ["policy", "mine"]
    assert [each["name"] for each in again["matchConditions"]] == ["policy", "not-repaired", "mine"]
    for each in (webhook, again):
        assert each["matchConditions"][-1:] == mine
        assert each["namespaceSelector"]["matchLabels"] == each["objectSelector"]["matchLabels"] == {"team": "ci"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
        ({"replicas": "2"}, "at '/replicas': got string, want integer"),
        (
            {"webhook": {"failurePolicy": "ignore"}},
            "at '/webhook/failurePolicy': value must be one of 'Ignore', 'Fail'",
        ),
        ({"webhook": {"timeoutSeconds": 31}}, "at '/webhook/timeoutSeconds': maximum: got 31, want 30"),
        ({"webhook": {"matchConditions": [{"name": "a"}]}}, "missing property 'expression'"),
        ({"certs": {"mode": "self"}}, "at '/certs/mode': value must be one of 'job', 'cert-manager', 'provided'"),
        ({"certs": {"mode": "provided"}}, "certs.mode=provided needs certs.secretName"),
        ({"certs": {"caBundle": "-----BEGIN"}}, "at '/certs/caBundle'"),
        ({"certs": {"days": 30}}, "certs.renewBefore=30 must be less than certs.days=30"),
        ({"image": {"tag": "a b"}}, "at '/image/tag'"),
        ({"runAsUser": 0}, "at '/runAsUser': minimum: got 0, want 1"),
        ({"policy": {"runtimeClass": []}}, "at '/policy': additional properties 'runtimeClass' not allowed"),
        ({"policy": {"runtimeClasses": [{"kata": True}]}}, "at '/policy/runtimeClasses/0': missing property 'match'"),
        ({"policy": {"dataRoot": {"kind": "disk"}}}, "at '/policy/dataRoot/kind': value must be one of 'auto'"),
        ({"policy": PULL_SECRETS}, "policy.registry.pullSecrets needs pullSecretNamespaces, the namespaces whose"),
        ({"pullSecretNamespaces": ["ci.a"]}, "at '/pullSecretNamespaces/0'"),
        ({"networkPolicy": {"apiServerPorts": [70000]}}, "at '/networkPolicy/apiServerPorts/0': maximum"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: Values, said: str, tmp_path: Path) -> None:
    words = ("template", "kata-dind", str(CHART), *with_values(values, tmp_path))
    refused = helm(*words, home=tmp_path, allowed_codes=(1,))
    assert said in refused.stderr
    assert refused.stdout == ""


def test_the_word_off_is_a_boolean_for_helm_and_off_for_a_policy(tmp_path: Path) -> None:
    (tmp_path / "off.yaml").write_text("policy: {guards: {sharedKernel: off, noBoundary: warn}}\n", encoding="utf-8")
    items = comparable(rendered({}, f"--values={tmp_path / 'off.yaml'}", home=tmp_path))
    assert items["ConfigMap", "kata-dind-policy"]["data"] == parse_policy({"guards": {"noBoundary": "warn"}})


def test_helm_refuses_a_cluster_without_match_conditions(tmp_path: Path) -> None:
    refused = helm("template", "kata-dind", CHART, "--kube-version=1.29.9", home=tmp_path, allowed_codes=(1,))
    assert "chart requires kubeVersion: >=1.30.0-0" in refused.stderr


def test_two_releases_have_no_object_in_common(tmp_path: Path) -> None:
    words = ("template", "--namespace=ci", "--set=dashboard.enabled=true")
    texts = [helm(*words, name, CHART, home=tmp_path).stdout for name in ("one", "kata-dind-two")]
    one, two = (
        {(item["kind"], item["metadata"]["name"]) for item in parse_yaml(text, name="helm") if item} for text in texts
    )
    assert len(one) == len(two) > 10
    assert not one & two
    assert {name.startswith("one-kata-dind") for _, name in one} == {True}


def test_a_chart_may_depend_on_this_one(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n"
        f"- {{name: kata-dind, version: '>=0', repository: 'file://{CHART}', condition: kata-dind.enabled}}\n",
        encoding="utf-8",
    )
    values = {"global": {"registry": "registry.example"}, "kata-dind": {"enabled": True, "replicas": 1}}
    helm("dependency", "build", "--skip-refresh", parent, home=tmp_path)
    text = helm("template", "all", parent, *with_values(values, tmp_path), home=tmp_path).stdout
    assert "kind: MutatingWebhookConfiguration" in text
