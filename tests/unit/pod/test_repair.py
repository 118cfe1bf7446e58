"""Repairs: one golden patch for each kind and shape, and the near misses."""

from __future__ import annotations

from typing import Any

import pytest

from kata_dind.manifest.patch import patched
from kata_dind.pod.model import Severity
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair
from kata_dind.version import __version__
from tests.unit.pod.checks import (
    BLOCK,
    BLOCK_PLAIN,
    ESCAPED,
    MEMORY,
    Json,
    command_behind,
    container_of,
    dind,
    faults_of,
    finding_ids,
    mount,
    pod,
    repaired,
    script,
    variables_of,
)

SOCKETS = {"op": "replace", "path": "/spec/volumes/1/emptyDir", "value": {"medium": "Memory"}}
ROOT_AND_SOCKETS = "/var/lib/docker of dind; the sockets of dind"
LOOP_VOLUME = {"name": "kata-dind", "emptyDir": {"sizeLimit": "21Gi"}}
WRAPPED = ["/bin/sh", "-c", ESCAPED, "kata-dind"]


def env(name: str, value: str) -> Json:
    return {"name": f"KATA_DIND_{name}", "value": value}


def note(kind: str, what: str = "/var/lib/docker of dind") -> Json:
    return {"kata-dind.io/repaired": f"{__version__} {kind}: {what}"}


def arc() -> Json:
    """The pod of gha-runner-scale-set 0.14.2 with containerMode dind."""
    runner = {
        "name": "runner",
        "image": "ghcr.io/actions/actions-runner:latest",
        "command": ["/home/runner/run.sh"],
        "env": [
            {"name": "DOCKER_HOST", "value": "unix:///var/run/docker.sock"},
            {"name": "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS", "value": "120"},
        ],
        "volumeMounts": [mount("work", "/home/runner/_work"), mount("dind-sock", "/var/run")],
    }
    externals = {
        "name": "init-dind-externals",
        "image": "ghcr.io/actions/actions-runner:latest",
        "command": ["cp"],
        "args": ["-r", "/home/runner/externals/.", "/home/runner/tmpDir/"],
        "volumeMounts": [mount("dind-externals", "/home/runner/tmpDir")],
    }
    daemon = {
        "name": "dind",
        "image": "docker:dind",
        "args": ["dockerd", "--host=unix:///var/run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
        "env": [{"name": "DOCKER_GROUP_GID", "value": "123"}],
        "securityContext": {"privileged": True},
        "restartPolicy": "Always",
        "startupProbe": {
            "exec": {"command": ["docker", "info"]},
            "initialDelaySeconds": 0,
            "failureThreshold": 24,
            "periodSeconds": 5,
        },
        "volumeMounts": [
            mount("work", "/home/runner/_work"),
            mount("dind-sock", "/var/run"),
            mount("dind-externals", "/home/runner/externals"),
        ],
    }
    names = ("work", "dind-sock", "dind-externals")
    return pod(
        runner,
        initContainers=[externals, daemon],
        volumes=[{"name": name, "emptyDir": {}} for name in names],
        restartPolicy="Never",
    )


# ---- The kinds, on the pod of ARC


def test_loop() -> None:
    result, _ = repaired(arc())
    assert result.kind == "loop"
    assert not result.unrepaired
    assert result.patch == (
        {"op": "add", "path": "/spec/volumes/-", "value": LOOP_VOLUME},
        {
            "op": "add",
            "path": "/spec/initContainers/1/volumeMounts/-",
            "value": {"name": "kata-dind", "mountPath": "/var/lib/kata-dind"},
        },
        {"op": "add", "path": "/spec/initContainers/1/env/-", "value": env("DATA_ROOT", "loop")},
        {"op": "add", "path": "/spec/initContainers/1/env/-", "value": env("SIZE", "20G")},
        {"op": "add", "path": "/spec/initContainers/1/env/-", "value": env("DIR", "/var/lib/kata-dind")},
        {
            "op": "add",
            "path": "/spec/initContainers/1/command",
            "value": [*WRAPPED, "dockerd-entrypoint.sh"],
        },
        {"op": "replace", "path": "/spec/initContainers/1/startupProbe/failureThreshold", "value": 60},
        SOCKETS,
        {"op": "add", "path": "/metadata/annotations", "value": note("loop", ROOT_AND_SOCKETS)},
    )
    assert len(result.reasons) == 4


def test_block_plain() -> None:
    result, _ = repaired(arc(), BLOCK_PLAIN)
    assert result.kind == "block-plain"
    assert result.patch == (
        {"op": "add", "path": "/spec/volumes/-", "value": {"name": "kata-dind", "emptyDir": {}}},
        {
            "op": "add",
            "path": "/spec/initContainers/1/volumeMounts/-",
            "value": {"name": "kata-dind", "mountPath": "/var/lib/docker"},
        },
        {"op": "add", "path": "/metadata/annotations", "value": note("block-plain")},
    )
    assert "one inode for each 160 KiB" in result.reasons[0]


def test_block() -> None:
    result, _ = repaired(arc(), BLOCK)
    assert result.kind == "block"
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Block",
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "20Gi"}},
    }
    assert result.patch == (
        {
            "op": "add",
            "path": "/spec/volumes/-",
            "value": {"name": "kata-dind", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}},
        },
        {
            "op": "add",
            "path": "/spec/initContainers/1/volumeDevices",
            "value": [{"name": "kata-dind", "devicePath": "/dev/kata-dind"}],
        },
        {"op": "add", "path": "/spec/initContainers/1/env/-", "value": env("DATA_ROOT", "block")},
        {"op": "add", "path": "/spec/initContainers/1/env/-", "value": env("DEVICE", "/dev/kata-dind")},
        {
            "op": "add",
            "path": "/spec/initContainers/1/command",
            "value": [*WRAPPED, "dockerd-entrypoint.sh"],
        },
        {"op": "replace", "path": "/spec/initContainers/1/startupProbe/failureThreshold", "value": 60},
        SOCKETS,
        {"op": "add", "path": "/metadata/annotations", "value": note("block", ROOT_AND_SOCKETS)},
    )


def test_memory() -> None:
    document = arc()
    document["metadata"]["annotations"] = dict(MEMORY)
    document["spec"]["initContainers"][1]["resources"] = {
        "limits": {"memory": "2Gi", "cpu": "2"},
        "requests": {"memory": "2048Mi"},
    }
    result, _ = repaired(document)
    assert result.kind == "memory"
    memory = {"medium": "Memory", "sizeLimit": "4Gi"}
    resources = "/spec/initContainers/1/resources"
    assert result.patch == (
        {"op": "add", "path": "/spec/volumes/-", "value": {"name": "kata-dind", "emptyDir": memory}},
        {
            "op": "add",
            "path": "/spec/initContainers/1/volumeMounts/-",
            "value": {"name": "kata-dind", "mountPath": "/var/lib/docker"},
        },
        {"op": "replace", "path": f"{resources}/limits/memory", "value": "6Gi"},
        {"op": "replace", "path": f"{resources}/requests/memory", "value": "6Gi"},
        SOCKETS,
        {
            "op": "add",
            "path": "/metadata/annotations/kata-dind.io~1repaired",
            "value": note("memory", ROOT_AND_SOCKETS)["kata-dind.io/repaired"],
        },
    )


# ---- Where the disk lies


def test_an_empty_dir_at_the_root_keeps_its_mount() -> None:
    storage = {"name": "docker-graph-storage", "emptyDir": {}}
    result, after = repaired(pod(dind(volumeMounts=[mount("docker-graph-storage")]), volumes=[storage]))
    assert result.patch[0] == {"op": "add", "path": "/spec/volumes/0/emptyDir/sizeLimit", "value": "21Gi"}
    assert variables_of(after) == {"DATA_ROOT": "loop", "SIZE": "20G"}
    assert container_of(after)["volumeMounts"] == [mount("docker-graph-storage")]


@pytest.mark.parametrize("source", [{}, {"emptyDir": None}])
def test_a_volume_without_a_source_is_an_empty_dir(source: Json) -> None:
    _, after = repaired(pod(dind(volumeMounts=[mount("v")]), volumes=[{"name": "v", **source}]))
    assert after["spec"]["volumes"] == [{"name": "v", "emptyDir": {"sizeLimit": "21Gi"}}]


@pytest.mark.parametrize(
    ("limit", "size"),
    [("10Gi", "9728M"), ("100Gi", "95G"), ("1Gi", "768M"), ("400Mi", "144M"), ("50G", "45299M")],
)
def test_a_disk_leaves_room_below_the_limit_that_is_there(limit: str, size: str) -> None:
    volume = {"name": "v", "emptyDir": {"sizeLimit": limit}}
    _, after = repaired(pod(dind(volumeMounts=[mount("v")]), volumes=[volume]))
    assert variables_of(after)["SIZE"] == size
    assert after["spec"]["volumes"] == [volume]


def test_a_limit_that_has_no_room_for_a_disk_is_said() -> None:
    volume = {"name": "v", "emptyDir": {"sizeLimit": "300Mi"}}
    result, _ = repaired(pod(dind(volumeMounts=[mount("v")]), volumes=[volume]))
    assert result.patch == ()
    assert result.unrepaired
    assert "root.too-small" in finding_ids(result)


def test_a_size_that_is_asked_for_raises_the_limit() -> None:
    volume = {"name": "v", "emptyDir": {"sizeLimit": "10Gi"}}
    asked = {"kata-dind.io/size": "50Gi"}
    _, after = repaired(pod(dind(volumeMounts=[mount("v")]), volumes=[volume], annotations=asked))
    assert variables_of(after)["SIZE"] == "50G"
    assert after["spec"]["volumes"][0]["emptyDir"] == {"sizeLimit": "53Gi"}


def test_the_limit_of_ephemeral_storage_bounds_the_disk() -> None:
    _, after = repaired(pod(dind(resources={"limits": {"ephemeral-storage": "10Gi"}})))
    assert variables_of(after)["SIZE"] == "9728M"
    assert after["spec"]["volumes"] == [{"name": "kata-dind", "emptyDir": {"sizeLimit": "10Gi"}}]


def test_a_volume_that_others_mount_stays_theirs() -> None:
    other = {"name": "other", "image": "busybox", "volumeMounts": [mount("v", "/look")]}
    result, after = repaired(pod(dind(volumeMounts=[mount("v")]), other, volumes=[{"name": "v", "emptyDir": {}}]))
    assert container_of(after)["volumeMounts"] == [mount("kata-dind")]
    assert container_of(after, "other") == other
    assert after["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}, LOOP_VOLUME]
    assert any("which others in the pod mount" in reason for reason in result.reasons)


def test_a_claim_keeps_its_mount_and_gets_the_disk() -> None:
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "docker"}}
    result, after = repaired(pod(dind(image="docker:29-dind", volumeMounts=[mount("data")]), volumes=[claim]))
    assert variables_of(after) == {"DATA_ROOT": "loop", "SIZE": "20G"}
    assert after["spec"]["volumes"] == [claim]
    assert container_of(after)["volumeMounts"] == [mount("data")]
    assert any("the start is then refused" in reason for reason in result.reasons)


def test_a_claim_with_which_docker_ran_so_far_goes_on_if_it_holds_data() -> None:
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "docker"}}
    result, after = repaired(pod(dind(image="docker:27-dind", volumeMounts=[mount("data")]), volumes=[claim]))
    assert variables_of(after) == {"DATA_ROOT": "loop", "SIZE": "20G", "FALLBACK": "vfs"}
    assert any("goes on there as it did so far" in reason for reason in result.reasons)


def test_a_claim_above_the_root_holds_the_disk_too() -> None:
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "docker"}}
    container = dind(args=["--data-root=/data/docker"], volumeMounts=[mount("data", "/data")])
    _, after = repaired(pod(container, volumes=[claim]))
    assert variables_of(after) == {"DATA_ROOT": "loop", "SIZE": "20G", "FALLBACK": "vfs"}
    assert after["spec"]["volumes"] == [claim]


def test_a_claim_template_is_as_large_as_it_says() -> None:
    template = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "100Gi"}}}}
    _, after = repaired(pod(dind(volumeMounts=[mount("data")])), claim_templates=[template])
    assert variables_of(after)["SIZE"] == "95G"
    assert "volumes" not in after["spec"]


def test_a_block_device_at_the_root_moves_to_a_path_of_its_own() -> None:
    template = {"metadata": {"name": "data"}, "spec": {"volumeMode": "Block"}}
    container = dind(volumeDevices=[{"name": "data", "devicePath": "/var/lib/docker"}])
    _, after = repaired(pod(container), claim_templates=[template])
    assert container_of(after)["volumeDevices"] == [{"name": "data", "devicePath": "/dev/kata-dind"}]
    assert variables_of(after) == {"DATA_ROOT": "block", "DEVICE": "/dev/kata-dind"}


def test_two_engines_get_a_volume_each() -> None:
    _, after = repaired(pod(dind(), dind(name="second")))
    assert [volume["name"] for volume in after["spec"]["volumes"]] == ["kata-dind", "kata-dind-1"]
    assert container_of(after)["volumeMounts"] == [mount("kata-dind", "/var/lib/kata-dind")]
    assert container_of(after, "second")["volumeMounts"] == [mount("kata-dind-1", "/var/lib/kata-dind")]


def test_a_container_without_a_name_is_told_by_its_position() -> None:
    nameless = {"image": "docker:28-dind", "securityContext": {"privileged": True}}
    pod = {"spec": {"runtimeClassName": "kata", "containers": [nameless]}}
    result = repair(pod, Policy(), script=lambda _: "#!/bin/sh\n")
    assert result.findings[0].message.startswith("`containers[0]` keeps the data of Docker")
    assert not [said for said in (*result.reasons, result.patch[-1]["value"]) if "``" in str(said)]
    assert result.patch[-1]["value"] == {"annotations": note("loop", "/var/lib/docker of containers[0]")}


def test_names_and_paths_that_are_taken_are_left_to_the_user() -> None:
    volumes = [{"name": "kata-dind", "emptyDir": {}}, {"name": "kata-dind-1", "emptyDir": {}}]
    _, after = repaired(pod(dind(volumeMounts=[mount("kata-dind", "/var/lib/kata-dind/")]), volumes=volumes))
    assert after["spec"]["volumes"][2]["name"] == "kata-dind-2"
    assert container_of(after)["volumeMounts"][1] == mount("kata-dind-2", "/var/lib/kata-dind-1")
    assert variables_of(after)["DIR"] == "/var/lib/kata-dind-1"


@pytest.mark.parametrize("policy", [{}, BLOCK])
def test_a_mount_below_the_root_would_be_hidden_by_a_disk(policy: Json) -> None:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]
    document = pod(dind(volumeMounts=[mount("v", "/var/lib/docker/overlay2")]), volumes=volumes)
    result, _ = repaired(document, policy)
    assert result.patch == ()
    assert "root.mounts-below" in finding_ids(result)
    assert repaired(document, BLOCK_PLAIN)[0].kind == "block-plain"


@pytest.mark.parametrize("policy", [{}, BLOCK])
@pytest.mark.parametrize("path", ["/var/lib/docker/containers", "/var/lib/docker/volumes/"])
def test_a_mount_below_the_root_that_has_no_layers_goes_along(policy: Json, path: str) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    result, after = repaired(pod(dind(volumeMounts=[mount("v", path)]), volumes=volumes), policy)
    assert container_of(after)["volumeMounts"][0] == mount("v", path)
    assert any("is mounted there again, on the disk" in reason for reason in result.reasons)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/var/lib/docker/containers/logs", {"emptyDir": {}}),
        ("/var/lib/docker/containers", {"configMap": {"name": "v"}}),
        ("/var/lib/docker/containers", {"hostPath": {"path": "/var/lib/docker/containers"}}),
        ("/var/lib/docker/image", {"emptyDir": {}}),
    ],
)
def test_a_mount_below_the_root_of_another_kind_does_not_go_along(path: str, source: Json) -> None:
    result, _ = repaired(pod(dind(volumeMounts=[mount("v", path)]), volumes=[{"name": "v", **source}]))
    assert (result.patch, finding_ids(result)[-1]) == ((), "root.mounts-below")


@pytest.mark.parametrize(("resources", "limit"), [(None, "6Gi"), ({"requests": {"memory": "3Gi"}}, "7Gi")])
def test_a_container_without_a_memory_limit_gets_one_for_a_data_root_in_memory(
    resources: Json | None, limit: str
) -> None:
    container = dind() if resources is None else dind(resources=resources)
    result, after = repaired(pod(container, annotations=MEMORY))
    assert container_of(after)["resources"] == {**(resources or {}), "limits": {"memory": limit}}
    assert any(f"gets a memory limit of {limit}, since it has none" in reason for reason in result.reasons)


def test_a_memory_volume_with_a_sub_path_loses_the_sub_path() -> None:
    volume = {"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "8G"}}
    result, after = repaired(pod(dind(volumeMounts=[mount("v", subPath="docker")]), volumes=[volume]))
    assert result.patch[0] == {"op": "remove", "path": "/spec/containers/0/volumeMounts/0/subPath"}
    assert container_of(after)["volumeMounts"] == [mount("v")]
    assert after["spec"]["volumes"] == [volume]
    assert result.kind == "memory"


def test_a_shared_memory_volume_with_a_sub_path_gets_one_of_its_own() -> None:
    volume = {"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "8G"}}
    other = {"name": "other", "image": "busybox", "volumeMounts": [mount("v", "/v")]}
    _, after = repaired(pod(dind(volumeMounts=[mount("v", subPathExpr="$(A)")]), other, volumes=[volume]))
    assert container_of(after)["volumeMounts"] == [mount("kata-dind")]
    assert after["spec"]["volumes"] == [volume, {**volume, "name": "kata-dind"}]


def test_a_standalone_containerd_shares_the_disk() -> None:
    container = dind(command=["sh", "-c", "containerd & exec dockerd --containerd=/run/containerd/containerd.sock"])
    _, after = repaired(pod(container | {"image": "docker:29-dind"}))
    assert variables_of(after)["CONTAINERD"] == "/var/lib/containerd"
    assert command_behind(after) == container["command"]


def test_only_a_standalone_containerd_is_on_a_share() -> None:
    words = "containerd & exec dockerd --containerd=/run/containerd/containerd.sock"
    container = dind(image="docker:29-dind", command=["sh", "-c", words], volumeMounts=[mount("v")])
    document = pod(container, volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}])
    _, after = repaired(document)
    assert variables_of(after) == {"DATA_ROOT": "auto", "CONTAINERD": "/var/lib/containerd"}
    assert command_behind(after) == container["command"]


# ---- What works is left alone


@pytest.mark.parametrize(
    ("volume", "policy"),
    [
        ({"emptyDir": {"medium": "Memory"}}, {}),
        ({"emptyDir": {}}, BLOCK_PLAIN),
        ({"emptyDir": {"mode": "0700", "medium": "Memory"}}, {}),
    ],
)
def test_a_data_root_that_works_is_left_alone(volume: Json, policy: Json) -> None:
    document = pod(dind(volumeMounts=[mount("v")]), volumes=[{"name": "v", **volume}])
    result, _ = repaired(document, policy, validate=False)
    assert result.patch == ()
    assert not result.unrepaired


@pytest.mark.parametrize("runtime_class", ["", "gvisor", "kataa"])
def test_other_runtimes_are_left_alone(runtime_class: str) -> None:
    document = pod(dind())
    document["spec"]["runtimeClassName"] = runtime_class
    assert repaired(document, validate=False)[0].patch == ()


@pytest.mark.parametrize("runtime_class", ["kata-fc", "kata-remote", "kata-qemu-tdx"])
def test_handlers_without_sharing_are_left_alone_with_a_note(runtime_class: str) -> None:
    document = pod(dind())
    document["spec"]["runtimeClassName"] = runtime_class
    result, _ = repaired(document)
    assert result.patch == ()
    assert not result.unrepaired
    assert [finding.severity for finding in result.findings] == [Severity.NOTE]


def test_a_pod_without_docker_has_nothing() -> None:
    document = pod({"name": "a", "image": "busybox"})
    result = repair(document, Policy(), script=script)
    assert (result.patch, result.findings, result.unrepaired) == ((), (), False)


@pytest.mark.parametrize("word", ["false", "off", "no", "disabled", "No"])
def test_an_annotation_forbids_the_repair(word: str) -> None:
    result, _ = repaired(pod(dind(), annotations={"kata-dind.io/repair": word}))
    assert result.patch == ()
    assert not result.unrepaired
    assert "root.on-share" in finding_ids(result)


@pytest.mark.parametrize("word", ["maybe", "", "1", "tru"])
def test_an_annotation_that_is_not_understood_leaves_the_pod_alone(word: str) -> None:
    result, _ = repaired(pod(dind(), annotations={"kata-dind.io/repair": word}))
    assert result.patch == ()
    assert result.unrepaired
    assert "annotation.repair" in finding_ids(result)


@pytest.mark.parametrize("word", ["true", "on", "yes", "enabled"])
def test_an_annotation_allows_what_the_policy_does_not(word: str) -> None:
    policy = {"repair": False}
    assert repaired(pod(dind()), policy)[0].patch == ()
    assert repaired(pod(dind(), annotations={"kata-dind.io/repair": word}), policy)[0].kind == "loop"


# ---- Storage drivers


def test_tekton_loses_its_vfs() -> None:
    """The TaskRun dind-sidecar of Tekton's examples, as the pod has it."""
    container = {
        "name": "sidecar-server",
        "image": "mirror.gcr.io/library/docker@sha256:" + "0752ca4e" * 8,
        "args": ["--storage-driver=vfs", "--userland-proxy=false", "--debug"],
        "securityContext": {"privileged": True},
        "env": [{"name": "DOCKER_TLS_CERTDIR", "value": "/certs"}],
        "volumeMounts": [mount("dind-certs", "/certs/client")],
        "readinessProbe": {"periodSeconds": 1, "exec": {"command": ["ls", "/certs/client/ca.pem"]}},
    }
    result, after = repaired(pod(container, volumes=[{"name": "dind-certs", "emptyDir": {}}]))
    server = container_of(after, "sidecar-server")
    assert server["args"] == ["--userland-proxy=false", "--debug"]
    assert server["readinessProbe"] == container["readinessProbe"]
    assert server["env"][0] == {"name": "DOCKER_TLS_CERTDIR", "value": "/certs"}
    assert command_behind(after, "sidecar-server") == ["dockerd-entrypoint.sh"]
    assert result.patch[-2] == {"op": "remove", "path": "/spec/containers/0/args/0"}


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["dockerd", "--storage-driver", "vfs", "--debug"], ["dockerd", "--debug"]),
        (["dockerd", "-s", "vfs"], ["dockerd"]),
        (["-s=fuse-overlayfs", "--mtu=1450"], ["--mtu=1450"]),
        (["--storage-driver=native"], []),
        (["--storage-driver=overlay2"], ["--storage-driver=overlay2"]),
        (["--storage-driver=btrfs"], []),
    ],
)
def test_drivers_that_contradict_the_disk_go(args: list[str], left: list[str]) -> None:
    _, after = repaired(pod(dind(args=args)))
    assert container_of(after)["args"] == left
    assert command_behind(after) == ["dockerd-entrypoint.sh"]


def test_a_driver_goes_from_the_command_as_it_is_wrapped() -> None:
    _, after = repaired(pod(dind(command=["dockerd", "--storage-driver", "vfs", "--debug"])))
    assert command_behind(after) == ["dockerd", "--debug"]


@pytest.mark.parametrize("volume", [{"medium": "Memory"}, {}])
def test_a_driver_goes_where_the_storage_is_good(volume: Json) -> None:
    container = dind(
        args=["--storage-driver=vfs"],
        env=[{"name": "A", "value": "1"}, {"name": "DOCKER_DRIVER", "value": "vfs"}, {"name": "B", "value": "2"}],
        volumeMounts=[mount("v")],
    )
    result, _ = repaired(pod(container, volumes=[{"name": "v", "emptyDir": volume}]), BLOCK_PLAIN)
    assert result.kind == "driver"
    assert result.patch == (
        {"op": "remove", "path": "/spec/containers/0/env/1"},
        {"op": "remove", "path": "/spec/containers/0/args/0"},
        {"op": "add", "path": "/metadata/annotations", "value": note("driver", "the storage driver of dind")},
    )


def test_overlay2_is_never_added_and_never_taken() -> None:
    container = dind(env=[{"name": "DOCKER_DRIVER", "value": "overlay2"}], volumeMounts=[mount("v")])
    result, _ = repaired(pod(container, volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}]))
    assert result.patch == ()


def test_a_variable_that_is_used_elsewhere_becomes_empty() -> None:
    container = dind(
        args=["--label=driver=$(DOCKER_DRIVER)"], env=[{"name": "DOCKER_DRIVER", "value": "vfs"}], volumeMounts=[]
    )
    _, after = repaired(pod(container))
    assert container_of(after)["env"][0] == {"name": "DOCKER_DRIVER", "value": ""}


def test_a_driver_in_a_script_is_said() -> None:
    container = dind(command=["sh", "-c", "dockerd --storage-driver=vfs"])
    result, _ = repaired(pod(container))
    assert result.kind == "loop"
    assert result.unrepaired
    assert "pod.driver-out-of-reach" in finding_ids(result)


def test_a_driver_on_a_claim_may_be_that_of_its_images() -> None:
    policy = {"runtimeClasses": [{"match": "kata*", "directAssigned": ["direct"]}]}
    template = {"metadata": {"name": "data"}, "spec": {"storageClassName": "direct"}}
    container = dind(args=["--storage-driver=vfs"], volumeMounts=[mount("data")])
    result, _ = repaired(pod(container), policy, claim_templates=[template])
    assert result.patch == ()
    assert result.unrepaired
    assert "pod.driver-on-claim" in finding_ids(result)


# ---- The command


@pytest.mark.parametrize(
    ("fields", "behind", "args"),
    [
        ({}, ["dockerd-entrypoint.sh"], None),
        ({"args": ["--mtu=1450"]}, ["dockerd-entrypoint.sh"], ["--mtu=1450"]),
        ({"command": ["dockerd-entrypoint.sh"]}, ["dockerd-entrypoint.sh"], None),
        ({"command": ["tini", "--", "dockerd"], "args": ["--debug"]}, ["tini", "--", "dockerd"], ["--debug"]),
        ({"command": ["sh", "-c", "dockerd & exec run"]}, ["sh", "-c", "dockerd & exec run"], None),
        (
            {"command": ["/var/run/argo/argoexec", "emissary", "--", "dockerd-entrypoint.sh"]},
            ["/var/run/argo/argoexec", "emissary", "--", "dockerd-entrypoint.sh"],
            None,
        ),
    ],
)
def test_the_command_runs_behind_the_guest_entrypoint(fields: Json, behind: list[str], args: list[str] | None) -> None:
    _, after = repaired(pod(dind(**fields)))
    assert command_behind(after) == behind
    assert container_of(after).get("args") == args


def test_an_images_entrypoint_is_escaped_and_a_command_is_not() -> None:
    """Kubernetes expands a command in any case, and an image's entrypoint only once it stands in the pod."""
    rule = {"match": "*/mine:*", "program": "dockerd", "entrypoint": ["/run-$(A)", "dockerd"]}
    _, after = repaired(pod(dind(image="registry.example/mine:1")), {"images": [rule]})
    assert command_behind(after) == ["/run-$$(A)", "dockerd"]
    _, after = repaired(pod(dind(command=["dockerd", "--group=$(GID)"], env=[{"name": "GID", "value": "1"}])))
    assert command_behind(after) == ["dockerd", "--group=$(GID)"]


def test_an_unknown_entrypoint_gets_no_wrapper() -> None:
    document = pod(dind(image="registry.example/mine:1", args=["--storage-driver=overlay2"]))
    policy = {"images": [{"match": "*/mine:*", "program": "dockerd"}]}
    result, _ = repaired(document, policy)
    assert result.patch == ()
    assert result.unrepaired
    assert "pod.entrypoint-unknown" in finding_ids(result)
    assert repaired(document, policy | BLOCK_PLAIN)[0].kind == "block-plain"


@pytest.mark.parametrize(
    ("container", "program", "path"),
    [
        ({"name": "b", "image": "moby/buildkit:v0.20.0"}, "buildkitd", None),
        ({"name": "b", "image": "registry.dagger.io/engine:v0.15.1"}, "dagger", None),
        ({"name": "b", "image": "earthly/buildkitd:v0.8.15"}, "earthly", None),
    ],
)
def test_other_engines(container: Json, program: str, path: str | None) -> None:
    container["securityContext"] = {"privileged": True}
    _, after = repaired(pod(container))
    variables = variables_of(after, "b")
    assert variables["PROGRAM"] == program
    assert variables.get("PATH") == path
    assert variables["FALLBACK"] == "vfs"


PLUGIN_PATH = {"name": "PLUGIN_STORAGE_PATH", "value": "/d"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"args": ["--data-root=/d"]}, None),
        ({"args": ["dockerd", "-g", "/d"]}, None),
        ({"command": ["sh", "-c", "exec dockerd --data-root /d"]}, "/d"),
        ({"command": ["drone-docker"], "image": "plugins/docker", "env": [PLUGIN_PATH]}, "/d"),
    ],
)
def test_the_path_is_told_where_the_guest_entrypoint_does_not_see_it(fields: Json, path: str | None) -> None:
    _, after = repaired(pod(dind(**fields)))
    assert variables_of(after).get("PATH") == path


# ---- What the user has set already


def test_the_users_own_variables_count() -> None:
    variables = [env("SIZE", "64G"), env("FILESYSTEM", "xfs"), env("LOG", "error")]
    _, after = repaired(pod(dind(env=list(variables))))
    assert container_of(after)["env"] == [*variables, env("DATA_ROOT", "loop"), env("DIR", "/var/lib/kata-dind")]
    assert after["spec"]["volumes"] == [{"name": "kata-dind", "emptyDir": {"sizeLimit": "68Gi"}}]


def test_the_users_own_directory_counts() -> None:
    volumes = [{"name": "scratch", "emptyDir": {}}]
    container = dind(env=[env("DIR", "/scratch/x")], volumeMounts=[mount("scratch", "/scratch")])
    _, after = repaired(pod(container, volumes=volumes))
    assert after["spec"]["volumes"] == volumes
    assert container_of(after)["volumeMounts"] == container["volumeMounts"]


def test_a_variable_from_elsewhere_is_not_set_twice() -> None:
    entry = {"name": "KATA_DIND_SIZE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "size"}}}
    _, after = repaired(pod(dind(env=[entry])))
    assert [item["name"] for item in container_of(after)["env"]].count("KATA_DIND_SIZE") == 1


# ---- A second time


def test_a_volume_that_went_is_made_again() -> None:
    _, after = repaired(pod(dind()))
    without = {**after, "spec": {key: value for key, value in after["spec"].items() if key != "volumes"}}
    result, again = repaired(without, validate=False)
    assert result.patch[0] == {"op": "add", "path": "/spec/volumes", "value": [LOOP_VOLUME]}
    assert again["spec"] == after["spec"]


def test_a_mount_that_went_is_made_again() -> None:
    _, after = repaired(pod(dind()))
    after["spec"]["containers"][0].pop("volumeMounts")
    result, again = repaired(after)
    assert container_of(again)["volumeMounts"] == [mount("kata-dind-1", "/var/lib/kata-dind")]
    assert command_behind(again) == ["dockerd-entrypoint.sh"]
    assert result.kind == "loop"


def test_a_device_that_went_is_made_again() -> None:
    _, after = repaired(pod(dind()), BLOCK)
    after["spec"]["containers"][0].pop("volumeDevices")
    _, again = repaired(after, BLOCK)
    assert container_of(again)["volumeDevices"] == [{"name": "kata-dind-1", "devicePath": "/dev/kata-dind"}]


def test_an_annotation_alone_is_no_repair() -> None:
    result, _ = repaired(pod(dind(), annotations={"kata-dind.io/repaired": "9.9.9 loop: x"}))
    assert result.kind == "loop"
    assert result.patch[-1]["op"] == "replace"


# ---- What can't be repaired is said


@pytest.mark.parametrize(
    ("document", "id"),
    [
        (pod(dind(securityContext={})), "pod.not-privileged"),
        (
            pod(dind(volumeMounts=[mount("v")]), volumes=[{"name": "v", "hostPath": {"path": "/docker"}}]),
            "root.on-host",
        ),
        (
            pod(dind(volumeMounts=[mount("v", readOnly=True)]), volumes=[{"name": "v", "emptyDir": {}}]),
            "root.unfit",
        ),
        (
            pod(dind(volumeMounts=[mount("v")]), volumes=[{"name": "v", "configMap": {"name": "c"}}]),
            "root.unfit",
        ),
        (pod(dind(), hostUsers=False), "root.user-namespace"),
        (pod(dind(image="docker:27-dind-rootless")), "root.rootless"),
        (pod(dind(), annotations={"kata-dind.io/data-root": "block"}), "root.kind-impossible"),
        (pod(dind(), annotations={"kata-dind.io/data-root": "virtiofs"}), "root.kind-impossible"),
        (pod(dind(), annotations={"kata-dind.io/data-root": "memory"}), "root.memory-without-size"),
        (
            pod(
                dind(volumeMounts=[mount("v")]),
                volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
                annotations=MEMORY,
            ),
            "root.kind-impossible",
        ),
        (
            pod({"name": "a", "image": "busybox"}, ephemeralContainers=[dind()]),
            "pod.ephemeral-container",
        ),
    ],
)
def test_what_cannot_be_repaired_is_said(document: Json, id: str) -> None:
    result, _ = repaired(document)
    assert result.patch == ()
    assert result.unrepaired
    found = [finding for finding in result.findings if finding.id == id]
    assert found
    assert found[-1].message.endswith(".")


def test_a_daemon_that_a_hook_starts_would_be_faster_than_the_disk() -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "dockerd &"]}}}
    document = pod(dind(command=["sleep", "infinity"], lifecycle=hook))
    result, _ = repaired(document)
    assert result.patch == ()
    assert "pod.started-by-hook" in finding_ids(result)
    assert repaired(document, BLOCK_PLAIN)[0].kind == "block-plain"


def test_a_path_that_no_mount_may_have_is_said() -> None:
    result, _ = repaired(pod(dind(args=["--data-root=/a:b"])), BLOCK_PLAIN)
    assert result.patch == ()
    assert "root.path-impossible" in finding_ids(result)


def test_kata_3_13_has_no_loop_devices() -> None:
    policy = {"runtimeClasses": [{"match": "kata*", "version": "3.13.0"}]}
    result, _ = repaired(pod(dind()), policy)
    assert result.patch == ()
    assert "class.no-loop" in finding_ids(result)


def test_one_engine_is_repaired_although_another_cannot_be() -> None:
    result, after = repaired(pod(dind(), dind(name="weak", securityContext={})))
    assert result.unrepaired
    assert command_behind(after) == ["dockerd-entrypoint.sh"]
    assert command_behind(after, "weak") is None


# ---- Rootless, and user namespaces


def test_rootless_gets_its_disk_from_the_class_and_owns_it() -> None:
    document = pod(dind(image="docker:27-dind-rootless"), initContainers=[{"name": "first", "image": "busybox"}])
    _, after = repaired(document, BLOCK_PLAIN)
    root = "/home/rootless/.local/share/docker"
    assert container_of(after)["volumeMounts"] == [mount("kata-dind", root)]
    assert after["spec"]["initContainers"] == [
        {
            "name": "kata-dind-owner",
            "image": "docker:27-dind-rootless",
            "command": ["/bin/chown", "1000:1000", "/data-root"],
            "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
            "volumeMounts": [mount("kata-dind", "/data-root")],
        },
        {"name": "first", "image": "busybox"},
    ]
    assert command_behind(after) is None


def test_a_rootless_image_that_runs_as_root_is_an_ordinary_one() -> None:
    context = {"privileged": True, "runAsUser": 0}
    _, after = repaired(pod(dind(image="docker:27-dind-rootless", securityContext=context)))
    assert variables_of(after)["DATA_ROOT"] == "loop"


def test_memory_serves_a_user_namespace() -> None:
    result, after = repaired(pod(dind(), hostUsers=False, annotations=MEMORY))
    assert result.kind == "memory"
    assert command_behind(after) is None


# ---- Around the daemon


@pytest.mark.parametrize(("seconds", "after"), [(0, 30), (5, 30), (30, 30), (120, 120), (None, None)])
def test_the_grace_period_is_never_too_short(seconds: int | None, after: int | None) -> None:
    spec: Json = {} if seconds is None else {"terminationGracePeriodSeconds": seconds}
    assert repaired(pod(dind(), **spec))[1]["spec"].get("terminationGracePeriodSeconds") == after


@pytest.mark.parametrize(
    ("probe", "threshold"),
    [
        ({}, 30),
        ({"periodSeconds": 1}, 300),
        ({"periodSeconds": 60, "failureThreshold": 2}, 5),
        ({"failureThreshold": 1000}, 1000),
    ],
)
def test_a_startup_probe_may_get_more_time_and_never_less(probe: Json, threshold: int) -> None:
    action = {"exec": {"command": ["docker", "info"]}}
    liveness = {**action, "failureThreshold": 1}
    _, after = repaired(pod(dind(startupProbe={**action, **probe}, livenessProbe=liveness)))
    assert container_of(after)["startupProbe"] == {**action, **probe, "failureThreshold": threshold}
    assert container_of(after)["livenessProbe"] == liveness


MIRROR = {"registryMirrors": ["https://mirror.example"]}


@pytest.mark.parametrize(
    ("fields", "args"),
    [
        ({}, ["--registry-mirror=https://mirror.example"]),
        ({"args": ["--mtu=1450"]}, ["--mtu=1450", "--registry-mirror=https://mirror.example"]),
        ({"command": ["dockerd"]}, ["--registry-mirror=https://mirror.example"]),
        ({"args": ["--registry-mirror=https://own.example"]}, ["--registry-mirror=https://own.example"]),
        ({"args": ["--config-file=/d.json"]}, ["--config-file=/d.json"]),
        ({"command": ["sh", "-c", "dockerd"]}, None),
        ({"image": "registry.example/mine:1-dind"}, None),
        ({"volumeMounts": [mount("c", "/etc/docker")]}, None),
    ],
)
def test_a_mirror_is_given_where_the_arguments_are_dockerds_for_certain(fields: Json, args: list[str] | None) -> None:
    volumes = [{"name": "c", "configMap": {"name": "c"}}]
    _, after = repaired(pod(dind(**fields), volumes=volumes), MIRROR)
    assert container_of(after).get("args") == args


def test_certificates_are_mounted_and_optional() -> None:
    policy = {
        "certificates": [
            {"host": "registry.example:5000", "configMap": "ca"},
            {"host": "other.example", "secret": "tls"},
        ]
    }
    _, after = repaired(pod(dind()), policy)
    certs = "/etc/docker/certs.d"
    assert container_of(after)["volumeMounts"][1:] == [
        mount("kata-dind-1", f"{certs}/registry.example:5000", readOnly=True),
        mount("kata-dind-2", f"{certs}/other.example", readOnly=True),
    ]
    assert after["spec"]["volumes"][1:] == [
        {"name": "kata-dind-1", "configMap": {"name": "ca", "optional": True}},
        {"name": "kata-dind-2", "secret": {"secretName": "tls", "optional": True}},
    ]


# ---- Ways of delivery


def test_the_script_comes_in_an_image_volume() -> None:
    policy = {"delivery": "image", "deliveryImage": "registry.example/kata-dind:1"}
    _, after = repaired(arc(), policy)
    daemon = after["spec"]["initContainers"][1]
    assert daemon["command"] == ["/bin/sh", "/opt/kata-dind/entrypoint.sh", "dockerd-entrypoint.sh"]
    assert daemon["volumeMounts"][-1] == mount("kata-dind-entrypoint", "/opt/kata-dind", readOnly=True)
    assert after["spec"]["volumes"][-1] == {
        "name": "kata-dind-entrypoint",
        "image": {"reference": "registry.example/kata-dind:1", "pullPolicy": "IfNotPresent"},
    }


def test_the_script_is_copied_before_the_daemon_starts() -> None:
    policy = {"delivery": "init", "deliveryImage": "registry.example/kata-dind:1"}
    result, after = repaired(arc(), policy)
    first = after["spec"]["initContainers"][0]
    assert first == {
        "name": "kata-dind-entrypoint",
        "image": "registry.example/kata-dind:1",
        "command": ["/bin/cp", "/entrypoint.sh", "/opt/kata-dind/entrypoint.sh"],
        "volumeMounts": [mount("kata-dind-entrypoint", "/opt/kata-dind")],
    }
    assert [container["name"] for container in after["spec"]["initContainers"]][1:] == ["init-dind-externals", "dind"]
    assert result.patch[-2]["path"] == "/spec/initContainers/0"
    memory = {"medium": "Memory", "sizeLimit": "16Mi"}
    assert after["spec"]["volumes"][-1] == {"name": "kata-dind-entrypoint", "emptyDir": memory}


def test_a_limit_has_room_for_the_tables_of_a_disk_that_kata_makes() -> None:
    loop = {"kata-dind.io/data-root": "loop", "kata-dind.io/size": "20Gi"}
    _, after = repaired(pod(dind(), annotations=loop), BLOCK_PLAIN)
    assert after["spec"]["volumes"] == [{"name": "kata-dind", "emptyDir": {"sizeLimit": "25Gi"}}]
    _, after = repaired(pod(dind(), annotations={"kata-dind.io/size": "20Gi"}), BLOCK_PLAIN)
    assert after["spec"]["volumes"] == [{"name": "kata-dind", "emptyDir": {"sizeLimit": "24Gi"}}]


def test_two_engines_share_what_brings_the_script() -> None:
    policy = {"delivery": "init", "deliveryImage": "registry.example/kata-dind:1"}
    _, after = repaired(pod(dind(), dind(name="second")), policy)
    assert [volume["name"] for volume in after["spec"]["volumes"]].count("kata-dind-entrypoint") == 1
    assert len(after["spec"]["initContainers"]) == 1


# ---- The recipe by hand

BY_HAND = (
    "truncate -s 20G /disk.img && mkfs.ext4 -q /disk.img && mount -o loop /disk.img /var/lib/docker"
    " && exec dockerd --host=unix:///var/run/docker.sock"
)


def test_a_recipe_by_hand_is_left_working() -> None:
    result, _ = repaired(pod(dind(command=["sh", "-c", BY_HAND])))
    assert result.patch == ()
    assert not result.unrepaired
    assert "root.by-hand" in finding_ids(result)


def test_improving_shows_what_a_recipe_by_hand_would_become() -> None:
    result, after = repaired(pod(dind(command=["sh", "-c"], args=[BY_HAND])), improve=True)
    assert result.kind == "loop"
    assert command_behind(after) == ["dockerd", "--host=unix:///var/run/docker.sock"]
    assert "args" not in container_of(after)


@pytest.mark.parametrize(
    "script",
    [
        "mount -o loop /d.img /var/lib/docker; dockerd & exec /agent",
        "mount -o loop /d.img /var/lib/docker; dockerd --debug &\nsleep 1",
        "mount -o loop /d.img /var/lib/docker; exec dockerd --group=$GROUP",
        "mount -o loop /d.img /var/lib/docker; /agent & exec dockerd",
    ],
)
def test_a_script_that_does_more_is_not_replaced(script: str) -> None:
    result, _ = repaired(pod(dind(command=["sh", "-c", script])), improve=True)
    assert result.patch == ()
    assert "root.script-unclear" in finding_ids(result)
    assert not result.unrepaired


def test_a_disk_by_hand_without_its_containerd_is_said() -> None:
    text = (
        "mount -o loop /d.img /var/lib/docker; containerd & exec dockerd --containerd=/run/containerd/containerd.sock"
    )
    result, _ = repaired(pod(dind(image="docker:29-dind", command=["sh", "-c", text])))
    assert result.patch == ()
    assert result.unrepaired
    assert "root.beside-by-hand" in finding_ids(result)


def test_a_script_of_a_config_map_can_be_replaced() -> None:
    volume = {"name": "s", "configMap": {"name": "start"}}
    container = dind(command=["sh", "/start/run.sh"], volumeMounts=[mount("s", "/start")])
    document = pod(container, volumes=[volume])
    config_maps = {"start": {"run.sh": BY_HAND}}
    kept = repair(document, Policy(), script=script, config_maps=config_maps)
    assert kept.patch == ()
    better = repair(document, Policy(), script=script, config_maps=config_maps, improve=True)
    after = patched(document, better.patch)
    assert command_behind(after) == ["dockerd", "--host=unix:///var/run/docker.sock"]


@pytest.mark.parametrize("flag", ["--storage-driver=vfs", "--storage-driver vfs", "-s vfs"])
def test_a_recipe_by_hand_loses_its_driver_as_it_is_replaced(flag: str) -> None:
    text = f"mount -o loop /d.img /var/lib/docker; exec dockerd {flag} --debug"
    _, after = repaired(pod(dind(command=["sh", "-c", text])), improve=True)
    assert command_behind(after) == ["dockerd", "--debug"]


@pytest.mark.parametrize(
    "text",
    [
        "mount --bind /scratch/docker /var/lib/docker; exec dockerd-entrypoint.sh",
        "dockerd-entrypoint.sh & sleep 5; mkfs.ext4 -F /i; mount -o loop /i /var/lib/docker; wait",
    ],
)
def test_what_a_script_mounts_on_the_root_would_hide_the_disk(text: str) -> None:
    container = dind(command=["sh", "-c", text], volumeMounts=[mount("s", "/scratch")])
    result, _ = repaired(pod(container, volumes=[{"name": "s", "emptyDir": {}}]))
    assert result.patch == ()
    assert "root.script-mounts" in finding_ids(result)


# ---- Users' values


HOSTILE = ["1G; rm -rf /", "$(whoami)", "`id`", "20Gi\nKATA=1", "1e9Gi", "-5Gi", "9" * 5000, "20Gi$(X)"]


@pytest.mark.parametrize("value", HOSTILE)
def test_annotations_never_reach_a_script_or_a_word(value: str) -> None:
    annotations: dict[str, Any] = {
        "kata-dind.io/size": value,
        "kata-dind.io/data-root": value,
        "kata-dind.io/container": value,
    }
    result, after = repaired(pod(dind(), annotations=annotations), validate=False)
    assert container_of(after).get("command", WRAPPED)[:4] == WRAPPED
    assert value not in str(result.patch)
    assert variables_of(after) in ({}, {"DATA_ROOT": "loop", "SIZE": "20G", "DIR": "/var/lib/kata-dind"})


def test_a_path_of_the_user_is_a_value_and_nothing_else() -> None:
    path = "/d/$(A)`id`/../x"
    container = dind(command=["sh", "-c", f"exec dockerd --data-root '{path}'"], env=[{"name": "A", "value": "1"}])
    _, after = repaired(pod(container))
    command = container_of(after)["command"]
    assert command[:4] == WRAPPED
    assert command[4:] == container["command"]


def test_a_name_of_a_container_reaches_no_script() -> None:
    document = pod(dind(name="a;rm -rf $(id)"))
    _, after = repaired(document, validate=False)
    assert after["spec"]["containers"][0]["command"] == [*WRAPPED, "dockerd-entrypoint.sh"]


def test_a_long_annotation_is_cut() -> None:
    containers = [dind(name=f"dind-{number}-{'x' * 50}") for number in range(20)]
    _, after = repaired(pod(*containers))
    assert len(after["metadata"]["annotations"]["kata-dind.io/repaired"]) <= 250
    assert faults_of(after) == []


# ---- Images whose own entrypoint starts Docker under another name.


def agent(image: str, variable: str = "", value: str = "", **security: Any) -> Json:
    own = [{"name": variable, "value": value}] if variable else []
    context = {"privileged": True, **security}
    return pod({"name": "agent", "image": image, "env": own, "securityContext": context})


TEAMCITY = ("jetbrains/teamcity-agent:2025.07-linux-sudo", "DOCKER_IN_DOCKER", "start")
GITHUB = ("registry.example/hub/myoung34/github-runner:2.320.0", "START_DOCKER_SERVICE", "true")
GOCD = ("gocd/gocd-agent-docker-dind:v24.1.0",)


@pytest.mark.parametrize(
    ("image", "security", "runs"),
    [
        (TEAMCITY, {"runAsUser": 0}, ["/run-services.sh"]),
        (GITHUB, {}, ["/entrypoint.sh", "./bin/Runner.Listener", "run", "--startuptype", "service"]),
        (GOCD, {"runAsUser": 0}, ["/docker-entrypoint.sh"]),
    ],
)
def test_what_an_agents_image_runs_stands_behind_the_guest_entrypoint(
    image: tuple[str, ...], security: Json, runs: list[str]
) -> None:
    result, after = repaired(agent(*image, **security))
    assert (result.kind, result.unrepaired) == ("loop", False)
    assert container_of(after, "agent")["command"] == [*WRAPPED, *runs]


def test_arguments_of_an_image_without_an_entrypoint_are_its_command() -> None:
    given = agent(*TEAMCITY, runAsUser=0)
    given["spec"]["containers"][0]["args"] = ["/run-services.sh", "--now"]
    _, after = repaired(given)
    container = container_of(after, "agent")
    assert (container["command"], container["args"]) == (WRAPPED, ["/run-services.sh", "--now"])


@pytest.mark.parametrize("image", [TEAMCITY, GOCD])
def test_an_agent_that_starts_docker_by_sudo_can_have_no_disk_mounted(image: tuple[str, ...]) -> None:
    result, _ = repaired(agent(*image))
    (finding,) = result.gave_up
    assert finding.id == "root.rootless"
    assert "of its image, who starts Docker by sudo" in finding.message
    assert finding.hint.startswith("Set securityContext.runAsUser: 0. Or use a RuntimeClass")
    plain, after = repaired(agent(*image), BLOCK_PLAIN)
    assert (plain.kind, plain.unrepaired) == ("block-plain", False)
    assert "initContainers" not in after["spec"], "the volume stays root's"


def test_an_image_of_the_same_name_and_another_owner_may_run_anything() -> None:
    result, _ = repaired(agent("registry.example/ci/github-runner:1", "START_DOCKER_SERVICE", "true"))
    assert [finding.id for finding in result.gave_up] == ["pod.entrypoint-unknown"]
