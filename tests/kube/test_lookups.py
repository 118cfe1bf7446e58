"""The webhook on a real API server: an image in a registry with passwords is read with the pull secret of its pod."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kata_dind.webhook.permissions import pull_secret_rules
from tests.image.registries import PASSWORD, USER, make_layout, push, running_registry
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.objects import dind_spec, pod
from tests.kube.registered import configuration_of, registered
from tests.kube.server import READER, ApiServer
from tests.webhook.pairs import make_pair
from tests.webhook.process import Webhook, start_webhook

pytestmark = [*needs(), pytest.mark.requires("registry")]


@dataclass
class Installed:
    """A webhook that the API server asks about the pods of a namespace."""

    api: Client
    server: ApiServer
    namespace: str
    webhook: Webhook
    image: str

    @property
    def kata_dind_logs(self) -> list[Path]:
        return self.webhook.kata_dind_logs

    def make_secret(self, host: str) -> None:
        config = {"auths": {host: {"username": USER, "password": PASSWORD}}}
        self.api.make(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "pull", "namespace": self.namespace},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()},
            }
        )

    def allow(self) -> None:
        """Give the webhook the rights that it needs."""
        group = "rbac.authorization.k8s.io"
        metadata = {"name": "webhook", "namespace": self.namespace}
        self.api.make(
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": pull_secret_rules()},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": "webhook"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": READER}],
            },
        )

        # The authorizer watches roles, and hears of it a moment later.
        path = f"/api/v1/namespaces/{self.namespace}/secrets/pull"
        with self.server.client(READER) as reader:
            reader.wait_until(lambda: reader.request("GET", path).accepted)

    def created(self, name: str) -> list[str]:
        """Create a pod; returns the command of its container, which a repair has given to it."""
        spec = dind_spec(image=self.image, imagePullSecrets=[{"name": "pull"}])
        answer = self.api.create(pod(name, self.namespace, spec))
        assert answer.accepted, answer.message
        return list(answer.body["spec"]["containers"][0].get("command", []))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry with passwords and one image."""
    with running_registry(tmp_path, with_password=True) as host:
        layout = make_layout(tmp_path, "entrypoint=dockerd-entrypoint.sh")
        push(layout, f"{host}/team/ci:1", "--dest-creds", f"{USER}:{PASSWORD}")
        yield host


@pytest.fixture
def installed(
    api: Client, api_server: ApiServer, namespace: str, kata_class: str, registry: str, tmp_path: Path
) -> Iterator[Installed]:
    fields = {"lookup": True, "allowed": [registry], "pullSecrets": True}
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps({"registry": fields}))
    config = api_server.kubeconfig(tmp_path / "kubeconfig", context="webhook", user=READER)
    pair = make_pair(tmp_path)
    wrapper = ("env", f"KUBECONFIG={config}")
    with (
        start_webhook(tmp_path, pair, "--policy", str(policy), wrapper=wrapper) as webhook,
        registered(api, namespace, configuration_of(webhook.port, pair.certificate)),
    ):
        yield Installed(api, api_server, namespace, webhook, f"{registry}/team/ci:1")


def test_the_pull_secret_of_a_pod_is_read(installed: Installed, registry: str) -> None:
    installed.make_secret(registry)
    installed.allow()
    assert installed.created("first") != []
    line = installed.webhook.events("review")[-1]
    assert (line["decision"], line["lookup"]) == ("repaired", "found")
    assert installed.webhook.metrics()['pull_secrets_total{result="read"}'] == 1
    assert installed.created("second") != []
    assert installed.webhook.events("review")[-1]["lookup"] == "remembered"
    assert installed.webhook.metrics()['pull_secrets_total{result="read"}'] == 1
    assert PASSWORD not in installed.webhook.log.read_text()


def test_without_the_right_to_read_it_the_pod_is_admitted_with_a_note(installed: Installed, registry: str) -> None:
    installed.make_secret(registry)
    assert installed.created("first") == []
    line = installed.webhook.events("review")[-1]
    assert (line["lookup"], line["unread"]) == (
        "unread",
        f"{registry} does not show it without credentials, "
        f"and not allowed to get the Secret 'pull' in the namespace '{installed.namespace}'",
    )
    assert installed.webhook.metrics()['pull_secrets_total{result="forbidden"}'] == 1
    hint = installed.webhook.events("pull-secret-unread")[-1]["hint"]
    assert hint == f"kubectl auth can-i get secrets/pull --namespace {installed.namespace}"
