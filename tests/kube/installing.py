"""Ways to install the webhook, on a server without controllers: by Helm, and by kubectl."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.host.process import run
from kata_dind.webhook.manifest import Installation, manifest_text
from scripts import build_kube
from scripts.generate_chart import CHART
from tests.kube.chart import Values, helm, with_values
from tests.kube.client import Client

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kata-dind-tls"}}
CONFIGURATION = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "kata-dind"},
}
HOOKS = ("pods.kata-dind.io", "again.pods.kata-dind.io")
"""The webhooks in it, with Ignore."""
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kata-dind"}}


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace."""

    namespace: str
    kubeconfig: Path
    home: Path

    def run(self, verb: str, *words: str) -> str:
        """Run a verb of Helm's, such as `get hooks`, that takes the name of a release."""
        place = (f"--namespace={self.namespace}", f"--kubeconfig={self.kubeconfig}")
        return helm(*verb.split(), "kata-dind", *words, *place, home=self.home).stdout

    def install(self, values: Values) -> str:
        """Install it, without waiting for pods that nobody runs."""
        return self.run("install", str(CHART), *with_values(values, self.home))

    def upgrade(self, values: Values, *words: str) -> str:
        """Change its values."""
        return self.run("upgrade", str(CHART), *with_values(values, self.home), *words)


@dataclass(frozen=True)
class Kubectl:
    """kubectl, with a manifest of ours."""

    kubeconfig: Path
    home: Path

    def apply(self, installation: Installation) -> str:
        """Make the objects what the manifest says."""
        return self._run("apply", installation)

    def delete(self, installation: Installation) -> str:
        """Remove all objects of the manifest, without waiting for controllers that don't run."""
        return self._run("delete", installation, "--wait=false")

    def _run(self, verb: str, installation: Installation, *words: str) -> str:
        path = self.home / "manifest.yaml"
        path.write_text(manifest_text(installation), encoding="utf-8")
        argv: list[str | os.PathLike[str]] = [build_kube.require_program("kubectl"), verb, "--filename", path]
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home)}
        return run([*argv, *words], timeout_seconds=120, environment=environment).stdout


def in_namespace(item: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """Return an object as it is called in a namespace."""
    return {**item, "metadata": {**item["metadata"], "namespace": namespace}}


def put_certificates(api: Client, namespace: str) -> None:
    """Do to the two objects what the job of certificates does to them."""
    data = {"tls.crt": "Y2VydA==", "tls.key": "a2V5", "ca.crt": "Y2E=", "ca.key": "Y2FrZXk="}
    api.merge(in_namespace(SECRET, namespace), {"data": data})
    webhooks = [{"name": name, "clientConfig": {"caBundle": "Y2E="}} for name in HOOKS]
    api.merge(CONFIGURATION, {"webhooks": webhooks}, strategic=True)


def certificates(api: Client, namespace: str) -> tuple[set[str], str]:
    """Return the keys of the Secret, and the authority that the API server trusts."""
    (bundle,) = {webhook["clientConfig"].get("caBundle", "") for webhook in api.read(CONFIGURATION)["webhooks"]}
    return set(api.read(in_namespace(SECRET, namespace)).get("data") or ()), bundle


def token_of(api: Client, namespace: str, account: str) -> str:
    """Return a token of a service account, as kubelet gives it to a pod."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = api.request("POST", path, request)
    assert answer.accepted, answer.message
    return str(answer.body["status"]["token"])
