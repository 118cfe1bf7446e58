"""`kata-dind fix` on a cluster: kubectl is a program that answers from files, with pages and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.test_completion import completed

_KUBECTL = """\
#!{python}
import json, os, pathlib, sys, urllib.parse
here = pathlib.Path({directory!r})
words = [word for word in sys.argv[1:] if not word.startswith("--kubeconfig=")]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], os.environ.get("KUBECONFIG", "")]) + "\\n")
if words[:1] == ["--context"]:
    if words[1] != "prod":
        sys.exit('error: context "%s" does not exist' % words[1])
    words = words[2:]
if words[:2] == ["config", "view"]:
    print("build", end="")
elif words[:2] == ["config", "get-contexts"]:
    print("prod\\nstaging")
elif words[:2] == ["get", "--raw"]:
    url = urllib.parse.urlsplit(words[2])
    query = dict(urllib.parse.parse_qsl(url.query))
    answers = json.loads((here / "answers.json").read_text())
    answer = answers.get(url.path)
    if answer == "no-namespace":
        sys.exit('Error from server (NotFound): namespaces "%s" not found' % url.path.rpartition("/")[2])
    if answer == "forbidden":
        sys.exit("Error from server (Forbidden): you may not list them")
    if answer is None:
        sys.exit("Error from server (NotFound): the server could not find the requested resource")
    if "items" in answer:
        start, limit = int(query.get("continue", 0)), int(query["limit"])
        items = answer["items"]
        more = str(start + limit) if start + limit < len(items) else ""
        answer = dict(answer, items=items[start:start + limit], metadata={{"continue": more}})
    print(json.dumps(answer))
else:
    sys.exit("error: unknown command")
"""


class Kubectl:
    """The program's answers, by path, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers: dict[str, Any] = {"/apis": {"groups": []}}

    def has(self, path: str, kind: str, *items: dict[str, Any]) -> None:
        version = path.removeprefix("/apis/").removeprefix("/api/").partition("/namespaces/")[0]
        self.answers[path] = {"kind": f"{kind}List", "apiVersion": version, "items": list(items)}
        self.save()

    def save(self) -> None:
        (self.directory / "answers.json").write_text(json.dumps(self.answers))

    def calls(self) -> list[list[str]]:
        lines = (self.directory / "calls").read_text().splitlines()
        return [json.loads(line)[0] for line in lines]


@pytest.fixture
def kubectl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    """A kubectl of the test's own, first on PATH."""
    directory = home / "kubectl"
    directory.mkdir()
    program = directory / "kubectl"
    program.write_text(_KUBECTL.format(python=sys.executable, directory=str(directory)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    monkeypatch.setenv("KUBECONFIG", "/of/the/user")
    found = Kubectl(directory)
    found.save()
    return found


def spec(runtime_class: str = "kata-qemu", image: str = "docker:27-dind", **more: Any) -> dict[str, Any]:
    container = {"name": "dind", "image": image, "securityContext": {"privileged": True}}
    return {"runtimeClassName": runtime_class, "containers": [container], **more}


def named(name: str, *, owner: str = "", kind: str = "", **fields: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "build"}
    if owner:
        metadata["ownerReferences"] = [{"kind": kind, "name": owner, "controller": True}]
    return {"metadata": metadata, **fields}


DEPLOYMENTS = "/apis/apps/v1/namespaces/build/deployments"
PODS = "/api/v1/namespaces/build/pods"


def titles(stdout: str) -> list[str]:
    return [f"{pod['kind']}/{pod['name']}" for pod in json.loads(stdout)["pods"]]


def test_workloads_are_reported_and_not_the_pods_that_they_make(cli: CommandLine, kubectl: Kubectl) -> None:
    kubectl.has(DEPLOYMENTS, "Deployment", named("runner", spec={"template": {"spec": spec()}}))
    replica_set = named("runner-1", owner="runner", kind="Deployment", spec={"template": {"spec": spec()}})
    kubectl.has("/apis/apps/v1/namespaces/build/replicasets", "ReplicaSet", replica_set)
    kubectl.has(
        PODS,
        "Pod",
        named("runner-1-a", owner="runner-1", kind="ReplicaSet", spec=spec()),
        named("alone", spec=spec()),
        named("foreign-1", owner="job-7", kind="FancyJob", spec=spec()),
        named("foreign-2", owner="job-7", kind="FancyJob", spec=spec()),
    )
    outcome = cli("fix", "--context", "prod", "-n", "build", "--all", "--check", "--json")
    assert outcome.exit_code == 1
    assert titles(outcome.stdout) == ["Deployment/runner", "Pod/alone", "FancyJob/job-7"]
    found = cli("fix", "--context", "prod", "-n", "build", "--all", "--check")
    assert found.exit_code == 1
    assert "warning: Deployment build/runner: `dind` keeps the data of Docker" in found.stdout


def test_a_namespace_that_does_not_exist_is_no_namespace_in_which_all_is_well(
    cli: CommandLine, kubectl: Kubectl
) -> None:
    kubectl.answers["/api/v1/namespaces/biuld"] = "no-namespace"
    kubectl.save()
    outcome = cli("fix", "--context", "prod", "-n", "biuld", "--all", "--check")
    assert outcome.exit_code == 6
    assert "the context 'prod' has no namespace 'biuld'" in outcome.stderr
    assert "kubectl --context prod get namespaces" in outcome.stderr


def test_the_cluster_is_only_read(cli: CommandLine, kubectl: Kubectl) -> None:
    kubectl.has(PODS, "Pod", named("alone", spec=spec()))
    for output in ("json", "explain", "findings", "github", "sarif", "patch"):
        assert cli("fix", "--all", "-o", output).exit_code == 0
    assert {tuple(words[:2]) for words in kubectl.calls()} == {("config", "view"), ("get", "--raw")}
    assert any("/namespaces/build/pods" in words[-1] for words in kubectl.calls()), "the context's own namespace"


def test_the_users_environment_reaches_kubectl(cli: CommandLine, kubectl: Kubectl) -> None:
    cli("fix", "-A", "--check")
    environments = {json.loads(line)[1] for line in (kubectl.directory / "calls").read_text().splitlines()}
    assert environments == {"/of/the/user"}


def test_all_namespaces_are_read_page_by_page(cli: CommandLine, kubectl: Kubectl) -> None:
    kubectl.has("/api/v1/pods", "Pod", *(named(f"pod-{number}", spec=spec()) for number in range(450)))
    outcome = cli("fix", "--all-namespaces", "--json")
    assert titles(outcome.stdout) == [f"Pod/pod-{number}" for number in range(450)]
    assert len([words for words in kubectl.calls() if words[-1].startswith("/api/v1/pods?")]) == 3


def test_runtime_classes_name_their_handlers(cli: CommandLine, kubectl: Kubectl) -> None:
    kubectl.has(PODS, "Pod", named("alone", spec=spec(runtime_class="vm")))
    assert cli("fix", "-n", "build", "--check").exit_code == 0
    kubectl.has("/apis/node.k8s.io/v1/runtimeclasses", "RuntimeClass", {"metadata": {"name": "vm"}, "handler": "kata"})
    assert cli("fix", "-n", "build", "--check").exit_code == 1


def test_what_may_not_be_listed_is_left_out_and_named(cli: CommandLine, kubectl: Kubectl) -> None:
    kubectl.has(PODS, "Pod", named("alone", spec=spec()))
    kubectl.answers[DEPLOYMENTS] = "forbidden"
    kubectl.save()
    outcome = cli("fix", "-n", "build", "--check")
    assert outcome.exit_code == 1
    assert "kata-dind: deployments can't be listed, so they are left out" in outcome.stderr


def test_custom_resources_are_read_where_the_cluster_has_them(cli: CommandLine, kubectl: Kubectl) -> None:
    group = {"name": "keda.sh", "preferredVersion": {"groupVersion": "keda.sh/v1alpha1"}}
    kubectl.answers["/apis"] = {"groups": [group, {"name": "example.org"}]}
    kubectl.answers["/apis/keda.sh/v1alpha1"] = {
        "resources": [{"name": "scaledjobs", "kind": "ScaledJob", "namespaced": True}]
    }
    job = named("builds", spec={"jobTargetRef": {"template": {"spec": spec()}}})
    kubectl.has("/apis/keda.sh/v1alpha1/namespaces/build/scaledjobs", "ScaledJob", job)
    assert titles(cli("fix", "-n", "build", "--json").stdout) == ["ScaledJob/builds"]


def test_custom_resources_that_are_in_no_namespace_are_read_as_well(cli: CommandLine, kubectl: Kubectl) -> None:
    group = {"name": "argoproj.io", "preferredVersion": {"groupVersion": "argoproj.io/v1alpha1"}}
    served = {"name": "clusterworkflowtemplates", "kind": "ClusterWorkflowTemplate", "namespaced": False}
    kubectl.answers["/apis"] = {"groups": [group]}
    kubectl.answers["/apis/argoproj.io/v1alpha1"] = {"resources": [served]}
    template = {"name": "build", "container": spec()["containers"][0]}
    workflow = {"podSpecPatch": "runtimeClassName: kata", "templates": [template], "entrypoint": "build"}
    path = "/apis/argoproj.io/v1alpha1/clusterworkflowtemplates"
    kubectl.has(path, "ClusterWorkflowTemplate", named("ci", spec=workflow))
    kubectl.answers[path]["apiVersion"] = "argoproj.io/v1alpha1"
    kubectl.save()
    assert titles(cli("fix", "-n", "build", "--json").stdout) == ["ClusterWorkflowTemplate/ci"]


def test_a_kubeconfig_may_be_named(cli: CommandLine, kubectl: Kubectl) -> None:
    config = kubectl.directory / "config"
    config.write_text("{}")
    kubectl.has(DEPLOYMENTS, "Deployment", named("runner", spec={"template": {"spec": spec()}}))
    assert titles(cli("fix", "--kubeconfig", str(config), "--json").stdout) == ["Deployment/runner"]
    assert {words[0] for words in kubectl.calls()} == {f"--kubeconfig={config}"}


def test_a_kubeconfig_that_is_not_there_is_bad_input(cli: CommandLine, kubectl: Kubectl) -> None:
    outcome = cli("fix", "--kubeconfig", "/missing", "--check")
    assert (outcome.exit_code, outcome.stderr) == (2, "kata-dind: --kubeconfig: there is no file '/missing'\n")


def test_without_a_current_context_there_is_no_cluster(cli: CommandLine, kubectl: Kubectl) -> None:
    program = kubectl.directory / "kubectl"
    program.write_text("#!/bin/sh\necho 'error: current-context must exist in order to minify' >&2\nexit 1\n")
    outcome = cli("fix", "--all")
    assert outcome.exit_code == 6
    assert "kata-dind: kubectl has no current context, so there is no cluster to read\n" in outcome.stderr
    assert "hint: give --context NAME or --kubeconfig FILE, or set KUBECONFIG" in outcome.stderr


def test_config_maps_that_a_pod_mounts_are_read(cli: CommandLine, kubectl: Kubectl) -> None:
    pod = named("alone", spec=spec(volumes=[{"name": "config", "configMap": {"name": "docker"}}]))
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "config", "mountPath": "/etc/docker"}]
    kubectl.has(PODS, "Pod", pod)
    data = {"daemon.json": json.dumps({"data-root": "/data/docker"})}
    kubectl.answers["/api/v1/namespaces/build/configmaps/docker"] = named("docker", kind="", data=data)
    kubectl.answers["/api/v1/namespaces/build/configmaps/docker"]["kind"] = "ConfigMap"
    kubectl.save()
    [found] = json.loads(cli("fix", "-n", "build", "--json").stdout)["pods"]
    assert [root["path"] for root in found["engines"][0]["data_roots"]] == ["/data/docker"]


def test_a_context_that_does_not_exist_is_told_in_kubectls_words(cli: CommandLine, kubectl: Kubectl) -> None:
    outcome = cli("fix", "--context", "nowhere", "--all", "--check")
    assert (outcome.exit_code, outcome.stdout) == (6, "")
    assert outcome.stderr.startswith("kata-dind: the context 'nowhere' can't be read: context \"nowhere\" does not")


def test_without_kubectl_there_is_a_hint(cli: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "empty").mkdir()
    monkeypatch.setenv("PATH", str(home / "empty"))
    outcome = cli("fix", "--all", "--check")
    assert outcome.exit_code == 3
    assert outcome.stderr.startswith("kata-dind: kubectl is not installed")
    assert "\nhint: install kubectl" in outcome.stderr


def test_contexts_are_completed(kubectl: Kubectl) -> None:
    assert completed("fix", "--context", "st") == ["staging"]


def test_pull_secrets_are_read_for_lookups_alone(
    cli: CommandLine, kubectl: Kubectl, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    pod = named("runner", spec=spec(image="registry.example/ci/builder:1"))
    kubectl.has(PODS, "Pod", pod)
    accounts, secrets = (f"/api/v1/namespaces/build/{kind}" for kind in ("serviceaccounts", "secrets"))
    kubectl.answers[f"{accounts}/default"] = {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]}
    kubectl.answers[f"{secrets}/pull"] = "forbidden"
    kubectl.save()

    def read() -> set[str]:
        return {call[2] for call in kubectl.calls() if "/secrets/" in call[-1] or "/serviceaccounts/" in call[-1]}

    assert titles(cli("fix", "--all", "-n", "build", "--json").stdout) == ["Pod/runner"]
    assert read() == set()
    # No registry is asked: it is not one of those that are well known.
    found = json.loads(cli("fix", "--all", "-n", "build", "--json", "--lookup-images").stdout)
    assert [finding["id"] for finding in found["pods"][0]["findings"]] == ["pod.image-unread"]
    assert read() == {f"{accounts}/default", f"{secrets}/pull"}
