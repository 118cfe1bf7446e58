"""Block devices for pods on a node: a loop device as a local volume, bound to the claim of a pod's own.

The controllers that make such a claim and bind it don't run; what they do is done here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kata_dind.host.process import run
from tests.kube.node import NAME, Node
from tests.kube.running import RunningPod
from tests.kube.webhook import kubectl

STORAGE_CLASS = "disks"
DISKS_CLASS = "kata-disks"
"""The RuntimeClass for whose pods the policy names the storage class."""
_MODES = ["ReadWriteOnce"]


@dataclass(frozen=True)
class Disk:
    """A block device of the node, for one pod."""

    node: Node
    device: str
    size_mib: int
    _made: list[str] = field(default_factory=list)

    def bind(self, pod: RunningPod) -> None:
        """Make the claim that a pod's ephemeral volume asks for, and give it the device."""
        manifest = pod.read()
        (volume,) = (each for each in manifest["spec"]["volumes"] if "ephemeral" in each)
        name = f"{pod.name}-{volume['name']}"
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": manifest["metadata"]["uid"]}
        wanted = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert wanted["storageClassName"] == STORAGE_CLASS
        assert wanted["volumeMode"] == "Block"
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": name,
                "namespace": pod.namespace,
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": {**wanted, "volumeName": name},
        }
        self._apply(claim)
        self._made.append(f"persistentvolumeclaim/{name}")
        uid = pod.client.read(claim)["metadata"]["uid"]
        reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "namespace": pod.namespace}
        self._apply(self._volume(name, {**reference, "uid": uid}))
        self._made.append(f"persistentvolume/{name}")
        bound: dict[str, Any] = {"phase": "Bound"}
        self._patch(f"persistentvolume/{name}", {"status": bound}, "--subresource=status")
        capacity = {"accessModes": _MODES, "capacity": {"storage": f"{self.size_mib}Mi"}}
        self._patch(f"persistentvolumeclaim/{name}", {"status": {**bound, **capacity}}, "--subresource=status")

    def release(self) -> None:
        """Remove the claim and the volume; the controller that waits for their users doesn't run."""
        for item in self._made:
            self._patch(item, {"metadata": {"finalizers": None}})
            self.node.succeed(*kubectl("delete", "--namespace=ci", item))
        self._made.clear()

    def _volume(self, name: str, claim: dict[str, str]) -> dict[str, Any]:
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": f"{self.size_mib}Mi"},
                "volumeMode": "Block",
                "accessModes": _MODES,
                "storageClassName": STORAGE_CLASS,
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": self.device},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                "claimRef": claim,
            },
        }

    def _apply(self, item: dict[str, Any]) -> None:
        self.node.succeed(*kubectl("apply", "--filename=-"), text=json.dumps(item))

    def _patch(self, item: str, patch: dict[str, Any], *options: str) -> None:
        self.node.succeed(
            *kubectl("patch", "--namespace=ci", item, "--type=merge", f"--patch={json.dumps(patch)}", *options)
        )


@contextlib.contextmanager
def disk_of(node: Node, directory: Path, *, size_mib: int) -> Iterator[Disk]:
    """Make a device for the length of the block."""
    file = directory / "disk.img"
    with file.open("wb") as opened:
        opened.truncate(size_mib << 20)
    device = run(["losetup", "--find", "--show", file], timeout_seconds=60).stdout.strip()
    disk = Disk(node, device, size_mib)
    try:
        yield disk
    finally:
        disk.release()
        run(["losetup", "--detach", device], timeout_seconds=60)
        file.unlink()
