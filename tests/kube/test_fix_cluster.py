"""`kata-dind fix` on a real cluster, through a real kubectl: what is there is read in all its pages, and only read."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata_dind.fixing.cluster import PAGE
from scripts import build_kube
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.objects import deployment, dind_spec, namespace_named, pod, runtime_class
from tests.kube.server import READER, ApiServer
from tests.vm.driver import KATA_DIND

pytestmark = needs("kubectl")

CONTEXT = "real"
_SECONDS = 120


@dataclass(frozen=True)
class Command:
    """Runs programs with a user's kubeconfig, and our kubectl first on PATH."""

    environment: dict[str, str]

    def __call__(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=self.environment,
            check=False,
        )

    def fix(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self(*KATA_DIND, "fix", *options)

    def succeed(self, *argv: str, text: str = "") -> str:
        done = self(*argv, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout


AsUser = Callable[..., Command]


@pytest.fixture
def as_user(api_server: ApiServer, tmp_path: Path) -> AsUser:
    """Commands of the administrator, or of a user who may do nothing until told so."""
    scripts = Path(KATA_DIND[0]).parent
    directory = build_kube.require_program("kubectl").parent

    def run_as(**fields: str) -> Command:
        config = api_server.kubeconfig(tmp_path / "kubeconfig", context=CONTEXT, **fields)
        path = f"{directory}:{scripts}:{os.environ['PATH']}"
        return Command({**os.environ, "KUBECONFIG": str(config), "HOME": str(tmp_path), "PATH": path})

    return run_as


def found(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return what `fix -o json` found with Docker in it, by kind and name."""
    assert done.returncode in {0, 1}, done.stderr
    pods = [each for each in json.loads(done.stdout)["pods"] if each["engines"]]
    return {f"{each['kind']}/{each['name']}": each for each in pods}


@pytest.fixture
def other_class(api: Client) -> Iterator[str]:
    """A RuntimeClass whose name says nothing, with a handler of Kata's."""
    api.make(runtime_class("isolated", handler="kata-clh"))
    yield "isolated"
    api.delete(runtime_class("isolated"))


def test_workloads_of_all_kinds_are_found(
    api: Client, as_user: AsUser, namespace: str, kata_class: str, other_class: str
) -> None:
    labels = {"matchLabels": {"app": "a"}}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": dind_spec(kata_class)}
    once = {"template": {"spec": dind_spec(kata_class, restartPolicy="Never")}}
    claim = {
        "metadata": {"name": "d"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "9Gi"}}},
    }
    workloads: list[tuple[str, str, dict[str, Any]]] = [
        ("apps/v1", "Deployment", {"selector": labels, "template": template}),
        ("apps/v1", "DaemonSet", {"selector": labels, "template": template}),
        ("apps/v1", "ReplicaSet", {"selector": labels, "template": template}),
        (
            "apps/v1",
            "StatefulSet",
            {"selector": labels, "serviceName": "a", "template": template, "volumeClaimTemplates": [claim]},
        ),
        ("batch/v1", "Job", once),
        ("batch/v1", "CronJob", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": once}}),
        ("v1", "ReplicationController", {"selector": {"app": "a"}, "template": template}),
        ("v1", "Pod", dind_spec(other_class)),
    ]
    for version, kind, spec in workloads:
        item = {"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": namespace}, "spec": spec}
        answer = api.create(item)
        assert answer.accepted, answer.message
    api.make(
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "a", "namespace": namespace},
            "template": template,
        }
    )
    done = as_user().fix("--context", CONTEXT, "--namespace", namespace, "--check", "-o", "json")
    assert done.returncode == 1
    assert {*found(done)} == {f"{kind}/a" for _, kind, _ in workloads} | {"PodTemplate/a"}
    assert {each["namespace"] for each in found(done).values()} == {namespace}


def test_what_is_repaired_passes_the_check(api: Client, as_user: AsUser, namespace: str, kata_class: str) -> None:
    """From a manifest through `fix` and `kubectl apply` to a cluster in which nothing needs a repair."""
    user = as_user(namespace=namespace)
    manifest = json.dumps(deployment("runner", namespace, dind_spec(kata_class)))
    user.succeed("kubectl", "apply", "-f", "-", text=manifest)
    check = ("--all", "--check")
    assert user.fix(*check).returncode == 1
    repaired = user.succeed(*KATA_DIND, "fix", "-f", "-", text=manifest)
    user.succeed("kubectl", "apply", "-f", "-", text=repaired)
    done = user.fix(*check)
    assert done.returncode == 0, done.stdout
    assert "1 with Docker, 0 to be repaired" in done.stderr


def test_what_is_rendered_can_be_applied(as_user: AsUser, namespace: str, kata_class: str) -> None:
    user = as_user(namespace=namespace)
    for workload in ("pod", "deployment", "statefulset", "job"):
        text = user.succeed(*KATA_DIND, "render", "--workload", workload, "--runtime-class", kata_class)
        user.succeed("kubectl", "apply", "-f", "-", text=text)
    assert user.fix("--all", "--check").returncode == 0


def test_it_is_a_plugin_of_kubectl(api: Client, as_user: AsUser, namespace: str, kata_class: str) -> None:
    api.make(pod("alone", namespace, dind_spec(kata_class)))
    user = as_user(namespace=namespace)
    done = user("kubectl", "kata-dind", "fix", "--all", "--check", "-o", "json")
    assert {*found(done)} == {"Pod/alone"}


def test_all_pages_are_read(api: Client, as_user: AsUser, namespace: str, kata_class: str) -> None:
    names = [f"pod-{number}" for number in range(2 * PAGE + 1)]
    for name in names:
        api.make(pod(name, namespace, dind_spec(kata_class)))
    done = as_user().fix("-n", namespace, "--check", "-o", "json")
    assert {*found(done)} == {f"Pod/{name}" for name in names}


def test_config_maps_and_claims_that_pods_mount_are_read(
    api: Client, as_user: AsUser, namespace: str, kata_class: str
) -> None:
    daemon = {"data-root": "/data", "storage-driver": "vfs"}
    api.make(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "daemon", "namespace": namespace},
            "data": {"daemon.json": json.dumps(daemon)},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "disk", "namespace": namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "volumeMode": "Block",
                "resources": {"requests": {"storage": "20Gi"}},
            },
        },
    )
    spec = dind_spec(kata_class)
    spec["volumes"] = [
        {"name": "config", "configMap": {"name": "daemon"}},
        {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
        {"name": "gone", "configMap": {"name": "gone", "optional": True}},
    ]
    container = spec["containers"][0]
    container["volumeMounts"] = [{"name": "config", "mountPath": "/etc/docker"}]
    container["volumeDevices"] = [{"name": "disk", "devicePath": "/dev/disk"}]
    api.make(pod("configured", namespace, spec))
    (each,) = found(as_user().fix("-n", namespace, "-o", "json")).values()
    (engine,) = each["engines"]
    assert [root["path"] for root in engine["data_roots"]] == ["/data"]


def test_custom_resources_are_read_in_the_version_that_the_cluster_prefers(
    api: Client, as_user: AsUser, namespace: str, kata_class: str
) -> None:
    define_scaled_jobs(api)
    job = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledJob",
        "metadata": {"name": "scaled", "namespace": namespace},
        "spec": {"jobTargetRef": {"template": {"spec": dind_spec(kata_class, restartPolicy="Never")}}},
    }
    answer = api.request("POST", f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledjobs", job)
    assert answer.accepted, answer.message
    assert {*found(as_user().fix("-n", namespace, "-o", "json"))} == {"ScaledJob/scaled"}


def define_scaled_jobs(api: Client) -> None:
    path, name = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "scaledjobs.keda.sh"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": "scaledjobs", "singular": "scaledjob", "kind": "ScaledJob", "listKind": "ScaledJobList"}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    spec = {"group": "keda.sh", "scope": "Namespaced", "names": names, "versions": [version]}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": spec,
    }
    answer = api.request("POST", path, definition)
    assert answer.accepted, answer.message
    api.wait_until(lambda: api.request("GET", "/apis/keda.sh/v1alpha1/scaledjobs").accepted)


def test_who_may_read_pods_alone_is_told_what_is_left_out(
    api: Client, as_user: AsUser, namespace: str, kata_class: str
) -> None:
    api.make(pod("alone", namespace, dind_spec(kata_class)), deployment("runner", namespace, dind_spec(kata_class)))
    allow(api, namespace, "pods")
    done = as_user(user=READER).fix("-n", namespace, "--check", "-o", "json")
    assert {*found(done)} == {"Pod/alone"}
    assert "deployments can't be listed" in done.stderr
    assert "pods can't be listed" not in done.stderr


def allow(api: Client, namespace: str, *resources: str) -> None:
    """Let the reader list these resources in a namespace."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "reader", "namespace": namespace}
    rules = [{"apiGroups": [""], "resources": [*resources], "verbs": ["list"]}]
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": READER}],
    }
    api.make(role, binding)


def test_a_cluster_without_workloads_is_well(as_user: AsUser, namespace: str) -> None:
    done = as_user().fix("-n", namespace, "--check")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        # Without a namespace the context is asked for its own, which kubectl refuses in other words.
        (("--context", "absent", "--all"), {}, "the context 'absent' can't be read: cannot locate context absent"),
        (("--context", "absent", "-A"), {}, "the context 'absent' can't be read: context \"absent\" does not exist"),
        (
            ("--context", CONTEXT, "--all"),
            {"user": "nobody"},
            "the context 'real' can't be read: You must be logged in to the server (Unauthorized)",
        ),
    ],
)
def test_what_kubectl_cannot_do_is_said(
    as_user: AsUser, options: tuple[str, ...], fields: dict[str, str], message: str
) -> None:
    done = as_user(**fields).fix(*options, "--check", "-o", "json")
    assert done.returncode == 6
    assert done.stdout == ""
    assert done.stderr.startswith(f"kata-dind: {message}\n"), done.stderr


def test_a_server_that_is_gone_is_said(as_user: AsUser, api_server: ApiServer, tmp_path: Path) -> None:
    user = as_user()
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace(str(api_server.port), "1"))
    done = user.fix("--all", "--check")
    assert done.returncode == 6
    assert "refused" in done.stderr


def test_a_namespace_that_does_not_exist_is_said(as_user: AsUser) -> None:
    done = as_user().fix("-n", "no-such-namespace", "--check")
    assert done.returncode == 6
    assert "has no namespace 'no-such-namespace'" in done.stderr


def test_all_namespaces_are_read(api: Client, as_user: AsUser, namespace: str, kata_class: str) -> None:
    other = namespace_named(f"{namespace}-other")
    api.make(other)
    for each in (namespace, other["metadata"]["name"]):
        api.make(pod("everywhere", each, dind_spec(kata_class)))
    done = as_user().fix("-A", "--check", "-o", "json")
    places = {(each["namespace"], each["name"]) for each in json.loads(done.stdout)["pods"] if each["engines"]}
    assert {(namespace, "everywhere"), (f"{namespace}-other", "everywhere")} <= places
