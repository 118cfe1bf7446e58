"""`kata-dind cluster check` on a real API server, with the objects of a cluster that has Kata."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kata_dind.cluster.plan import files_of, plan_cluster, runtime_class
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.server import READER, ApiServer
from tests.vm.driver import KATA_DIND

pytestmark = needs()

_NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "with-kata", "labels": {"katacontainers.io/kata-runtime": "true"}},
}


@pytest.fixture
def prepared(api: Client, namespace: str) -> Iterator[str]:
    """A cluster as the plan would have it, but for kubelets; return the namespace of kata-deploy."""
    made = plan_cluster()
    labels = {"name": "kata-deploy"}
    container = {"name": "kube-kata", "image": "quay.io/kata-containers/kata-deploy:4.1.0"}
    daemon_set: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kata-deploy", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kata-deploy-custom-configs", "namespace": namespace},
        "data": {"dropin-kata-dind.toml": '[runtime]\nemptydir_mode = "block-plain"\n'},
    }
    ready = [{"type": "Ready", "status": "True", "reason": "x", "message": ""}]
    api.make(_NODE, runtime_class(made.classes[0]), daemon_set, settings)
    place = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/kata-deploy"
    numbers = {"desiredNumberScheduled": 1, "numberReady": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0}
    for path, status in ((place, numbers), ("/api/v1/nodes/with-kata", {"conditions": ready})):
        answer = api.request("PATCH", f"{path}/status", {"status": status}, kind="application/merge-patch+json")
        assert answer.accepted, answer.message
    yield namespace
    for path in ("/api/v1/nodes/with-kata", "/apis/node.k8s.io/v1/runtimeclasses/kata-dind", place):
        assert (answer := api.request("DELETE", path)).accepted, answer.message


def check(config: Path, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    argv = [*KATA_DIND, "cluster", "check", "--kubeconfig", str(config), "--json", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)["checks"]}


def test_a_cluster_that_is_prepared(api_server: ApiServer, prepared: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text({file.name: file.text for file in files_of(plan_cluster())}["policy.yaml"])
    config = api_server.kubeconfig(tmp_path / "config", context="admin")
    code, found = check(config, "--policy", str(policy))
    assert code == 0, found
    results = {name: found[name]["result"] for name in ("api server", "nodes", "kata-deploy", "class kata-dind")}
    assert set(results.values()) == {"ok"}
    assert found["kata-deploy"]["found"] == f"Kata 4.1.0, by {prepared}/kata-deploy: ready on 1 of 1 node"
    assert found["class kata-dind"]["found"] == "emptyDirs are disks, the best data root, on 1 node"


def test_what_the_policy_does_not_know_is_wrong(api_server: ApiServer, prepared: str, tmp_path: Path) -> None:
    config = api_server.kubeconfig(tmp_path / "config", context="admin")
    code, found = check(config)
    assert code == 1
    assert found["class kata-dind"]["hint"] == "policy: emptyDir: block-plain"
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"runtimeClasses": [{"match": "kata-dind", "version": "4.0.0"}]}))
    assert check(config, "--policy", str(policy))[1]["class kata-dind"]["hint"] == "policy: version: 4.1.0"


def test_who_may_read_nothing_is_told_so(api_server: ApiServer, tmp_path: Path) -> None:
    code, found = check(api_server.kubeconfig(tmp_path / "config", context="reader", user=READER))
    assert code == 0
    assert found["api server"]["result"] == "ok"
    assert {each["result"] for name, each in found.items() if name != "api server"} == {"unknown"}
    assert all(each["hint"].startswith("kubectl auth can-i list ") for each in found.values() if each["hint"])


def test_a_plan_is_accepted(api: Client, namespace: str) -> None:
    made = plan_cluster(handlers=["qemu-runtime-rs", "clh-runtime-rs", "dragonball"])
    files = {file.name: file.text for file in files_of(made)}
    trial = yaml.safe_load(files["trial.yaml"])
    trial["metadata"]["namespace"] = namespace
    del trial["spec"]["runtimeClassName"]  # it does not exist here
    for each in (*yaml.safe_load_all(files["runtimeclasses.yaml"]), trial):
        answer = api.create(each, dry_run=True)
        assert answer.accepted, answer.message
