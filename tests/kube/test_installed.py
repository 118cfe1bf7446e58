"""One `helm install`, and the API server repairs pods: certificates, webhook and check are the real programs.

No node runs the chart's pods. So the programs are started here, with the arguments, files and tokens that kubelet would
give them; addresses are ports of loopback, to which the Service leads as one of the type ExternalName. Name and
authority by which the API server trusts the webhook are those of a cluster.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import Daemon, daemon, run
from kata_dind.manifest import parse_yaml
from kata_dind.pod.annotations import REPAIRED
from tests.kube.chart import needs_helm
from tests.kube.client import Client
from tests.kube.installing import CONFIGURATION, DEPLOYMENT, SECRET, Release, in_namespace, token_of
from tests.kube.needs import needs
from tests.kube.objects import dind_spec, namespace_named, pod, runtime_class
from tests.kube.server import ApiServer
from tests.vm.driver import KATA_DIND
from tests.webhook.process import events_in, wait_until_ready

pytestmark = [*needs(), *needs_helm(), pytest.mark.requires("userns")]

_WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


@dataclass(frozen=True)
class Installed:
    """A release of the chart, whose pods are processes of this machine."""

    api: Client
    server: ApiServer
    release: Release
    directory: Path

    @property
    def host(self) -> str:
        return f"kata-dind.{self.release.namespace}.svc"

    def run_job(self) -> str:
        """Do what kubelet does for the job of certificates; returns what it prints."""
        path = f"/apis/batch/v1/namespaces/{self.release.namespace}/jobs"
        (job,) = self.api.request("GET", path).body["items"]
        pod_spec = job["spec"]["template"]["spec"]
        token = token_of(self.api, self.release.namespace, pod_spec["serviceAccountName"])
        config = self.server.kubeconfig(self.directory / "job.kubeconfig", context="job", token=token)
        (container,) = pod_spec["containers"]
        environment = {"KUBECONFIG": str(config)}
        return run([*KATA_DIND, *container["args"]], timeout_seconds=120, environment=environment).stdout

    def mount(self, volumes: Sequence[Mapping[str, Any]], mounts: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
        """Write the files of volumes; returns where they are by where a container would see them."""
        by_name = {volume["name"]: volume for volume in volumes}
        return {each["mountPath"]: self._write(by_name[each["name"]]) for each in mounts}

    def _write(self, volume: Mapping[str, Any]) -> Path:
        directory = self.directory / str(volume["name"])
        directory.mkdir(exist_ok=True)
        if "secret" in volume:
            item = {**SECRET, "metadata": {"name": volume["secret"]["secretName"]}}
            data = self.api.read(in_namespace(item, self.release.namespace))["data"]
            files = {each["path"]: base64.b64decode(data[each["key"]]) for each in volume["secret"]["items"]}
        else:
            item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": volume["configMap"]["name"]}}
            texts = self.api.read(in_namespace(item, self.release.namespace))["data"]
            files = {name: text.encode() for name, text in texts.items()}
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return directory

    @contextlib.contextmanager
    def served(self) -> Iterator[Served]:
        """Start the container of the Deployment, and lead the Service to it."""
        spec = self.api.read(in_namespace(DEPLOYMENT, self.release.namespace))["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        files = self.mount(spec["volumes"], container["volumeMounts"])
        argv = [_on_loopback(word, files) for word in container["args"]]
        with daemon(
            [*KATA_DIND, *argv], name="webhook", log=self.directory / "webhook.log", rung_seconds=15
        ) as process:
            port = wait_until_ready(process)["https"]
            self._lead_to(port)
            yield Served(process, port)

    def _lead_to(self, port: int) -> None:
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kata-dind"}}
        external = {"type": "ExternalName", "externalName": "localhost", "clusterIP": None, "clusterIPs": None}
        self.api.merge(in_namespace(service, self.release.namespace), {"spec": external})
        webhooks = [{"name": "pods.kata-dind.io", "clientConfig": {"service": {"port": port}}}]
        self.api.merge(CONFIGURATION, {"webhooks": webhooks}, strategic=True)

    def check(self, port: int) -> str:
        """Do what `helm test` does, by the Service's name; returns what it prints."""
        hooks = parse_yaml(self.release.run("get hooks"), name="helm get hooks")
        test = next(item["spec"] for item in hooks if isinstance(item, dict) and item["kind"] == "Pod")
        (container,) = test["containers"]
        files = self.mount(test["volumes"], container["volumeMounts"])
        argv = [
            _on_loopback(word, files).replace(f"//{self.host}", f"//{self.host}:{port}") for word in container["args"]
        ]
        hosts = self.directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {self.host}\n", encoding="utf-8")
        inside = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _WITH_HOSTS, str(hosts))
        return run([*inside, *KATA_DIND, *argv], timeout_seconds=60).stdout

    def repaired(self, name: str, namespace: str, runtime_class_name: str) -> str | None:
        """Create a pod; returns what its annotation says of the repair, if it has one."""
        answer = self.api.create(pod(name, namespace, dind_spec(runtime_class_name)))
        assert answer.accepted, answer.message
        return dict(answer.body["metadata"].get("annotations", {})).get(REPAIRED)


@dataclass(frozen=True)
class Served:
    """A webhook that the API server asks."""

    process: Daemon
    port: int

    @property
    def kata_dind_logs(self) -> list[Path]:
        return [self.process.log]

    def reviews(self, *names: str) -> list[dict[str, Any]]:
        """Return what its log says of reviews of pods."""
        events = events_in(self.process.log)
        return [event for event in events if event["event"] == "review" and event["name"] in names]


def _on_loopback(word: str, files: Mapping[str, Path]) -> str:
    """Return a word of a container's command as it is said on this machine."""
    for path, directory in files.items():
        word = word.replace(path, str(directory))
    name, _, value = word.partition("=")
    return f"{name}=127.0.0.1:0" if value in ("[::]:8443", "[::]:8080") else word


@pytest.fixture
def installed(api: Client, api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Installed]:
    """A release in a namespace of its own: pods there are left alone."""
    place = f"{namespace}-webhook"
    api.make(namespace_named(place))
    config = api_server.kubeconfig(tmp_path / "kubeconfig", context="test")
    release = Release(place, config, tmp_path)
    release.install({"webhook": {"failurePolicy": "Fail"}})
    try:
        yield Installed(api, api_server, release, tmp_path)
    finally:
        release.run("uninstall")


def test_one_helm_install_and_pods_are_repaired(installed: Installed, namespace: str, kata_class: str) -> None:
    api = installed.api
    assert installed.run_job().startswith(f"the certificate of {installed.host} ends on ")
    secret = api.read(in_namespace(SECRET, installed.release.namespace))
    assert {"tls.crt", "tls.key", "ca.crt"} < set(secret["data"])
    (webhook,) = api.read(CONFIGURATION)["webhooks"]
    assert webhook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]
    assert installed.run_job().startswith(f"nothing to do: the certificate of {installed.host} ends on ")

    item = pod("asked", namespace, dind_spec(kata_class))
    with installed.served() as served:
        api.wait_until(lambda: api.create(item, dry_run=True).accepted)
        annotation = installed.repaired("kata", namespace, kata_class)
        assert annotation is not None
        (review,) = served.reviews("kata")
        assert (review["decision"], review["namespace"], review["kind"]) == ("repaired", namespace, "loop")

        other = runtime_class("gvisor", handler="runsc")
        api.make(other)
        assert installed.repaired("other", namespace, "gvisor") is None
        assert installed.repaired("own", installed.release.namespace, kata_class) is None
        assert served.reviews("other", "own") == []
        api.delete(other)

        said = installed.check(served.port)
        assert said == "It is ready, and repairs a pod that runs Docker in the RuntimeClass kata.\n"

    refused = api.create(item, dry_run=True)
    assert "failed calling webhook" in refused.message
    for name, place in (("kata", namespace), ("other", namespace), ("own", installed.release.namespace)):
        api.delete(pod(name, place, {}))
