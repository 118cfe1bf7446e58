"""The pod and the container of a plan, as CRI takes them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.containerd.plan import (
    Annotation,
    Pod,
    PodPlan,
    PodShare,
    container_config,
    pod_config,
    pod_plan,
    volume_label,
)
from kata_dind.backend.plan import Plan, PlannedImage, plan_from_json, plan_to_json
from kata_dind.vocabulary import DataRootKind, Fallback, Filesystem, NetworkMode

DIRECTORY = Path("/state/sandboxes/demo")


def plan(kind: DataRootKind = DataRootKind.LOOP, **changes: Any) -> PodPlan:
    own = Pod(
        address=Path("/run/containerd/containerd.sock"),
        handler="kata-qemu",
        identity="0123",
        isolated=True,
        argv=("dockerd", "--host=unix:///var/run/docker.sock"),
        filesystem=Filesystem.EXT4,
        network=NetworkMode.NAT,
        data_directory=DIRECTORY,
        shares=(PodShare(Path("/src"), "/src", read_only=True),),
        annotations=(Annotation("io.katacontainers.config.hypervisor.kernel", "/boot/vmlinuz"),),
    )
    made: PodPlan = Plan(
        backend="containerd", name="demo", image=PlannedImage("docker:dind", "sha256:ab"), accelerator="kata-qemu",
        accelerator_reason="as asked", kernel_version="", cpus=2, memory_mib=2048, data_root=kind,
        data_root_reason="as asked", data_root_mib=1024, fallback=Fallback.NONE, timeout_seconds=60.0, own=own,
        outlives_owner=True,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


RESOURCES = {"cpu_period": 100_000, "cpu_quota": 200_000, "cpu_shares": 2048, "memory_limit_in_bytes": 2 << 30}


def test_a_pod() -> None:
    assert pod_config(plan(), DIRECTORY) == {
        "metadata": {"name": "demo", "uid": "0123", "namespace": "kata-dind"},
        "hostname": "demo",
        "log_directory": "/state/sandboxes/demo/pod",
        "labels": {"kata-dind.io/sandbox": "demo", "kata-dind.io/identity": "0123"},
        "annotations": {"io.katacontainers.config.hypervisor.kernel": "/boot/vmlinuz"},
        "linux": {
            "security_context": {"privileged": True, "namespace_options": {"pid": "CONTAINER"}},
            "resources": RESOURCES,
        },
    }
    assert pod_config(plan(volume="work"), DIRECTORY)["labels"]["kata-dind.io/volume"] == "state.sandboxes.demo"


def test_a_container_with_a_loop_disk() -> None:
    container = container_config(plan(), script="the script", published_port="another", check=True)
    command = container.pop("command")
    assert command[:2] == ["/bin/sh", "-c"]
    assert command[3:] == ["kata-dind", "the script", "another", "dockerd", "--host=unix:///var/run/docker.sock"]
    assert container == {
        "metadata": {"name": "dind"},
        "image": {"image": "sha256:ab"},
        "working_dir": "/",
        "envs": [
            {"key": "KATA_DIND_DATA_ROOT", "value": b"loop"},
            {"key": "KATA_DIND_SIZE", "value": b"1024M"},
            {"key": "KATA_DIND_PATH", "value": b"/var/lib/docker"},
            {"key": "KATA_DIND_FILESYSTEM", "value": b"ext4"},
            {"key": "KATA_DIND_CHECK", "value": b"1"},
            {"key": "KATA_DIND_DIR", "value": b"/var/lib/kata-dind"},
        ],
        "mounts": [
            {"host_path": "/src", "container_path": "/src", "readonly": True},
            {
                "host_path": "/state/sandboxes/demo/data-root",
                "container_path": "/var/lib/kata-dind",
                "readonly": False,
            },
        ],
        "labels": {"kata-dind.io/sandbox": "demo", "kata-dind.io/identity": "0123"},
        "log_path": "dind.log",
        "linux": {
            "security_context": {"privileged": True, "namespace_options": {"pid": "CONTAINER"}},
            "resources": RESOURCES,
        },
    }


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        (DataRootKind.BLOCK, {"DATA_ROOT", "DEVICE", "PATH", "FILESYSTEM"}),
        (DataRootKind.MEMORY, {"DATA_ROOT", "SIZE", "PATH"}),
        (DataRootKind.VIRTIOFS, {"DATA_ROOT", "PATH"}),
    ],
)
def test_each_kind_tells_the_guest_entrypoint_what_its_copy_knows(kind: DataRootKind, variables: set[str]) -> None:
    container = container_config(plan(kind), script="", published_port="", check=False)
    assert {each["key"] for each in container["envs"]} == {f"KATA_DIND_{name}" for name in variables}


def test_a_plan_survives_its_file() -> None:
    assert pod_plan(plan_from_json(json.loads(json.dumps(plan_to_json(plan()))))) == plan()


def test_the_label_of_a_volume_is_one_that_kubernetes_would_take() -> None:
    assert volume_label(Path("/a/" + "b" * 100)) == "b" * 63
    assert volume_label(Path("/var/lib/kata-dind/volumes/work")) == "var.lib.kata-dind.volumes.work"
