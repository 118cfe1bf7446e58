"""Manifests of our own: valid, the same parts as a repair's, and left alone by one."""

from __future__ import annotations

import itertools
from typing import Any

import kubernetes_validate
import pytest

from kata_dind.errors import SpecError
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.render import RenderSpec, render
from kata_dind.pod.repair import repair
from kata_dind.vocabulary import DataRootKind, Workload
from tests.unit.pod.checks import BLOCK_PLAIN, ESCAPED, Json, faults_of, script, variables_of


def rendered(spec: RenderSpec, policy: Json | None = None) -> Json:
    """Return a manifest, when it is valid and a repair has nothing to do in it."""
    own = parse_policy(policy or {})
    manifest = render(spec, script=script, policy=own)
    kubernetes_validate.validate(manifest, "1.36", strict=True)
    pod = pod_of(manifest)
    claims = manifest["spec"].get("volumeClaimTemplates", [])
    assert faults_of(pod, claims) == []
    again = repair(pod, own, script=script, claim_templates=claims)
    assert again.patch == ()
    assert not again.unrepaired
    return manifest


def pod_of(manifest: Json) -> Json:
    if manifest["kind"] == "Pod":
        return {"metadata": manifest["metadata"], "spec": manifest["spec"]}
    template: Json = manifest["spec"]["template"]
    return template | {"metadata": {"name": "p", **template["metadata"]}}


def test_the_how_tos_example() -> None:
    """`kata-dind render --kind loop --size 50G --runtime-class kata-qemu`, in full."""
    manifest = rendered(RenderSpec(kind=DataRootKind.LOOP, size="50G", runtime_class="kata-qemu"))
    probe = {"exec": {"command": ["docker", "version"]}, "timeoutSeconds": 5}
    assert manifest == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "dind",
            "labels": {"app.kubernetes.io/name": "dind", "app.kubernetes.io/managed-by": "kata-dind"},
        },
        "spec": {
            "runtimeClassName": "kata-qemu",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 60,
            "containers": [
                {
                    "name": "dind",
                    "image": "docker:29-dind",
                    "args": ["dockerd", "--host=unix:///run/dind/docker.sock"],
                    "env": [
                        {"name": "DOCKER_HOST", "value": "unix:///run/dind/docker.sock"},
                        {"name": "KATA_DIND_DATA_ROOT", "value": "loop"},
                        {"name": "KATA_DIND_SIZE", "value": "50G"},
                        {"name": "KATA_DIND_DIR", "value": "/var/lib/kata-dind"},
                    ],
                    "securityContext": {"privileged": True},
                    "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 150},
                    "readinessProbe": {**probe, "periodSeconds": 10},
                    "volumeMounts": [
                        {"name": "run", "mountPath": "/run"},
                        {"name": "docker-socket", "mountPath": "/run/dind"},
                        {"name": "kata-dind", "mountPath": "/var/lib/kata-dind"},
                    ],
                    "command": ["/bin/sh", "-c", ESCAPED, "kata-dind", "dockerd-entrypoint.sh"],
                }
            ],
            "volumes": [
                {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "docker-socket", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "kata-dind", "emptyDir": {"sizeLimit": "53Gi"}},
            ],
        },
    }
    assert list(manifest) == ["apiVersion", "kind", "metadata", "spec"]
    assert list(manifest["spec"]["containers"][0])[-1] == "command"


COMBINATIONS = [
    (workload, kind, sidecar)
    for workload, kind, sidecar in itertools.product(Workload, DataRootKind, (False, True))
    if kind is not DataRootKind.VIRTIOFS and (sidecar or workload is not Workload.JOB)
]


@pytest.mark.parametrize(("workload", "kind", "sidecar"), COMBINATIONS)
@pytest.mark.parametrize("policy", [{}, BLOCK_PLAIN])
def test_each_combination_is_valid_and_left_alone(
    workload: Workload, kind: DataRootKind, sidecar: bool, policy: Json
) -> None:
    spec = RenderSpec(
        kind=kind,
        workload=workload,
        runtime_class="kata-qemu",
        storage_class="fast" if kind is DataRootKind.BLOCK else "",
        sidecar_for="busybox" if sidecar else "",
        cpu="2",
        memory="4Gi",
        labels=(("team", "ci"),),
    )
    manifest = rendered(spec, policy)
    assert manifest["kind"].lower() == workload
    pod = pod_of(manifest)
    daemons = pod["spec"]["initContainers"] if sidecar else pod["spec"]["containers"]
    assert [container["name"] for container in daemons] == ["dind"]
    assert pod["metadata"]["labels"]["team"] == "ci"
    wanted = {"loop", "memory", "block"} if kind is DataRootKind.AUTO else {kind.value}
    assert variables_of(pod).get("DATA_ROOT", "memory") in wanted


def test_a_sidecar_starts_first_and_shares_its_socket() -> None:
    spec = RenderSpec(workload=Workload.JOB, sidecar_for="registry.example/ci:1", sidecar_command=("make", "test"))
    template = rendered(spec)["spec"]["template"]["spec"]
    assert template["restartPolicy"] == "Never"
    assert template["initContainers"][0]["restartPolicy"] == "Always"
    assert template["containers"] == [
        {
            "name": "main",
            "image": "registry.example/ci:1",
            "command": ["make", "test"],
            "env": [{"name": "DOCKER_HOST", "value": "unix:///run/dind/docker.sock"}],
            "volumeMounts": [{"name": "docker-socket", "mountPath": "/run/dind"}],
        }
    ]


def test_the_claim_of_a_stateful_set_has_room_for_the_disk() -> None:
    spec = RenderSpec(workload=Workload.STATEFULSET, size="50G", storage_class="fast", kind=DataRootKind.LOOP)
    manifest = rendered(spec)
    assert manifest["spec"]["volumeClaimTemplates"] == [
        {
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "fast",
                "resources": {"requests": {"storage": "53Gi"}},
            },
        }
    ]
    assert variables_of(pod_of(manifest)) == {"DATA_ROOT": "loop", "SIZE": "50G"}


def test_a_stateful_set_may_have_block_devices() -> None:
    spec = RenderSpec(workload=Workload.STATEFULSET, size="50G", storage_class="fast", kind=DataRootKind.BLOCK)
    manifest = rendered(spec)
    claim = manifest["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["volumeMode"], claim["resources"]) == ("Block", {"requests": {"storage": "50Gi"}})
    assert variables_of(pod_of(manifest)) == {"DATA_ROOT": "block", "DEVICE": "/dev/kata-dind"}


@pytest.mark.parametrize("policy", [BLOCK_PLAIN])
def test_rootless(policy: Json) -> None:
    manifest = rendered(RenderSpec(rootless=True), policy)
    assert manifest["spec"]["initContainers"][0]["command"] == ["/bin/chown", "1000:1000", "/data-root"]
    assert "command" not in manifest["spec"]["containers"][0]
    assert manifest["spec"]["containers"][0]["image"] == "docker:29-dind-rootless"


def test_a_class_that_the_policy_does_not_know_is_taken_for_katas() -> None:
    assert render(RenderSpec(runtime_class="vm"), script=script)["spec"]["runtimeClassName"] == "vm"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "1G; rm -rf /"}, "--size"),
        ({"size": "10M"}, "--size"),
        ({"size": "1e9Gi"}, "--size"),
        ({"name": "Dind"}, "--name"),
        ({"name": "a\nb"}, "--name"),
        ({"namespace": "x/y"}, "--namespace"),
        ({"runtime_class": ""}, "--runtime-class"),
        ({"image": "docker:27 dind"}, "--image"),
        ({"labels": (("a b", "c"),)}, "--label"),
        ({"labels": (("a", "$(id)"),)}, "--label"),
        ({"cpu": "two"}, "--cpu"),
        ({"memory": "-1Gi"}, "--memory"),
        ({"replicas": -1}, "--replicas"),
        ({"workload": Workload.JOB}, "main container"),
        ({"kind": DataRootKind.VIRTIOFS}, "can't be had"),
        ({"kind": DataRootKind.BLOCK}, "can't be had"),
        ({"rootless": True}, "can't be had"),
        ({"runtime_class": "kata-fc"}, "can't be had"),
        ({"image": "registry.example/mine:1"}, "can't be had"),
    ],
)
def test_what_cannot_be_rendered_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        render(RenderSpec(**fields), script=script, policy=Policy())
