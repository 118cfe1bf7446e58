"""The files and the steps that prepare a cluster for dind pods; pure.

With Kata 4.0 and later there is a RuntimeClass of its own, whose emptyDirs are disks: the setting is in a handler's
configuration, and holds for all pods of the handler, so that other pods keep theirs. Source of the chart's keys:
tools/packaging/kata-deploy/helm-chart of kata-containers/kata-containers at 4.1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kata_dind.cluster.needs import (
    BLOCK_PLAIN_SINCE,
    NEWEST,
    OLDEST,
    RUST_IS_DEFAULT_SINCE,
    SHIMS_AS_MAPPING_SINCE,
    Version,
    needs_of,
    parse_version,
    written,
)
from kata_dind.errors import SpecError
from kata_dind.manifest.emit import dumped
from kata_dind.pod.handlers import HANDLERS, KATA_4_1_CLASSES, Handler, Vmm, find_handler

CLASS = "kata-dind"
"""The RuntimeClass for dind pods; those of further handlers have the shim's name behind it."""

NODE_LABEL = "katacontainers.io/kata-runtime"
"""What kata-deploy gives to the nodes on which Kata is installed, with the value `true`."""

DROP_IN = '[runtime]\nemptydir_mode = "block-plain"\n'

CHART = "oci://ghcr.io/kata-containers/kata-deploy-charts/kata-deploy"
RELEASE = "kata-deploy"
NAMESPACE = "kube-system"

DISTRIBUTIONS = ("k8s", "k3s", "rke2", "k0s", "microk8s")
"""What the chart takes as `k8sDistribution`: where containerd's configuration is."""

_OVERHEAD = {Vmm.QEMU: "320Mi"}
_OTHER_OVERHEAD = "130Mi"
_OVERHEAD_GPU = ("10240Mi", "1.0")

_TRIAL_IMAGE = "docker:28-dind"


@dataclass(frozen=True, slots=True)
class Class:
    """A RuntimeClass that the cluster should have."""

    name: str
    shim: str
    """kata-deploy's name of the handler that it builds on."""
    block_plain: bool

    @property
    def handler(self) -> str:
        """What the RuntimeClass names as its handler."""
        return self.name if self.block_plain else f"kata-{self.shim}"

    def as_fields(self) -> dict[str, Any]:
        """Return it for `--json`."""
        fields = {"name": self.name, "handler": self.handler, "builds_on": self.shim}
        return {**fields, "block_plain": self.block_plain}


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a cluster should have."""

    version: Version
    distribution: str
    classes: tuple[Class, ...]

    @property
    def warning(self) -> str:
        """What is not sure about the plan; empty if nothing is."""
        if self.version <= NEWEST:
            return ""
        known, version = written(NEWEST), written(self.version)
        return f"this kata-dind knows Kata up to {known}, so the plan for {version} is what that one needs"

    @property
    def block_plain(self) -> bool:
        """Whether emptyDirs become disks."""
        return self.version >= BLOCK_PLAIN_SINCE


@dataclass(frozen=True, slots=True)
class File:
    """A file of the plan."""

    name: str
    what: str
    text: str


def plan_cluster(*, version: str = "", handlers: Sequence[str] = (), distribution: str = "k8s") -> ClusterPlan:
    """Make a plan. Raises SpecError for what Kata does not have, or on which no dind pod works."""
    number = _version(version)
    if distribution not in DISTRIBUTIONS:
        raise SpecError(
            f"--distribution: {distribution!r} is not one of {', '.join(DISTRIBUTIONS)}", id="spec.wrong-value"
        )
    default = "qemu-runtime-rs" if number >= RUST_IS_DEFAULT_SINCE else "qemu"
    shims = list(dict.fromkeys(each.removeprefix("kata-") for each in handlers)) or [default]
    for shim in shims:
        _require_fit(shim, number)
    block_plain = number >= BLOCK_PLAIN_SINCE
    if block_plain:
        names = {shim: CLASS if index == 0 else f"{CLASS}-{shim}" for index, shim in enumerate(shims)}
    else:
        names = {shim: f"kata-{shim}" for shim in shims}
    return ClusterPlan(number, distribution, tuple(Class(names[shim], shim, block_plain) for shim in shims))


def fitting_handlers() -> list[str]:
    """Return kata-deploy's names of the handlers on which dind pods work."""
    return [shim for shim in (each.removeprefix("kata-") for each in KATA_4_1_CLASSES) if not _unfit(shim)]


def files_of(plan: ClusterPlan) -> list[File]:
    """Return the files, in the order in which they are used."""
    by_hand = "for a cluster in which Kata is installed without the chart"
    classes = "---\n".join(dumped(runtime_class(each)) for each in plan.classes)
    drop_in = File("50-kata-dind.toml", f"what the handler's configuration has in config.d, {by_hand}", DROP_IN)
    return [
        File("kata-deploy-values.yaml", "values for kata-deploy's chart", values_text(plan)),
        File("runtimeclasses.yaml", f"the RuntimeClasses, {by_hand}", classes),
        *([drop_in] if plan.block_plain else []),
        File("policy.yaml", "the policy of the webhook, and of `kata-dind fix`", policy_text(plan)),
        File("trial.yaml", "a pod that shows that it works", dumped(_trial(plan.classes[0]))),
    ]


def values_text(plan: ClusterPlan) -> str:
    """Return the values of kata-deploy's chart."""
    head = f"# Values of kata-deploy's chart, version {written(plan.version)}. What is not here keeps its default.\n"
    return head + dumped(values(plan))


def values(plan: ClusterPlan) -> dict[str, Any]:
    """Return the values as data."""
    if not plan.block_plain:
        shims = {each.shim: {"enabled": True} for each in plan.classes}
        known = plan.version >= SHIMS_AS_MAPPING_SINCE  # before, the chart has a list, and makes all classes without it
        return {"k8sDistribution": plan.distribution, **({"shims": shims} if known else {})}
    runtimes = {
        each.name: {
            "baseConfig": each.shim,
            "dropIn": DROP_IN,
            "runtimeClass": dumped(runtime_class(each)),
        }
        for each in plan.classes
    }
    return {"k8sDistribution": plan.distribution, "customRuntimes": {"enabled": True, "runtimes": runtimes}}


def runtime_class(each: Class) -> dict[str, Any]:
    """Return a RuntimeClass, with the overhead that kata-deploy gives to the handler."""
    row = find_handler(each.shim)
    memory, cpu = _OVERHEAD.get(row.vmm, _OTHER_OVERHEAD) if row and row.vmm else _OTHER_OVERHEAD, "250m"
    if "nvidia-gpu" in each.shim:
        memory, cpu = _OVERHEAD_GPU
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": each.name, "labels": {"app.kubernetes.io/managed-by": "kata-deploy"}},
        "handler": each.handler,
        "overhead": {"podFixed": {"memory": memory, "cpu": cpu}},
        "scheduling": {"nodeSelector": {NODE_LABEL: "true"}},
    }


def policy_text(plan: ClusterPlan) -> str:
    """Return a policy that tells what the classes can do."""
    rules = []
    for each in plan.classes:
        rule = {"match": each.name, "handler": f"kata-{each.shim}", "version": written(plan.version)}
        rules.append({**rule, "emptyDir": "block-plain"} if each.block_plain else rule)
    others = [{"match": "kata"}, {"match": "kata-*", "version": written(plan.version)}]
    return "# `kata-dind policy check FILE` explains it; `kata-dind policy show` has all fields.\n" + dumped(
        {"runtimeClasses": [*rules, *others]}
    )


def steps(plan: ClusterPlan, directory: str = "") -> list[tuple[str, list[str]]]:
    """Return what to do, in order: each step with its commands. The files are in a directory."""
    place = f"{directory.rstrip('/')}/" if directory else ""
    version = written(plan.version)
    name = plan.classes[0].name
    return [
        (
            "Look whether your nodes can run virtual machines: /dev/kvm must be there, and /dev/vhost-vsock for QEMU.",
            ["ls -l /dev/kvm /dev/vhost-vsock  # on a node"],
        ),
        (
            f"Install Kata {version} on the nodes, or give an installation these values beside its own. The chart "
            "restarts containerd on each node, and makes the RuntimeClasses.",
            [
                f"helm upgrade --install {RELEASE} {CHART} --version {version} --namespace {NAMESPACE} "
                f"--reset-then-reuse-values --values {place}kata-deploy-values.yaml --wait",
                f"kubectl get nodes --selector {NODE_LABEL}=true",
                f"kubectl get runtimeclass {' '.join(each.name for each in plan.classes)}",
            ],
        ),
        (
            "Tell kata-dind what the classes can do, and install the webhook with it.",
            [
                f"kata-dind policy check {place}policy.yaml",
                f"kata-dind webhook manifest --create-namespace --policy {place}policy.yaml "
                "| kubectl apply --filename -",
            ],
        ),
        (
            "Start a pod, and see that Docker works in it.",
            [
                f"kubectl apply --filename {place}trial.yaml"
                if plan.block_plain
                else f"kata-dind fix -f {place}trial.yaml --policy {place}policy.yaml | kubectl apply --filename -",
                f"kubectl wait --for=condition=Ready --timeout=5m pod/{name}-trial",
                f"kubectl exec {name}-trial -- docker info --format '{{{{.Driver}}}} {{{{.DockerRootDir}}}}'",
                f"kubectl delete --filename {place}trial.yaml",
            ],
        ),
        ("Compare the cluster with this plan, at any time.", [f"kata-dind cluster check --policy {place}policy.yaml"]),
    ]


def plan_in_words(plan: ClusterPlan, directory: str = "") -> str:
    """Return the plan for people."""
    lines = [f"Kata {written(plan.version)}:"]
    lines += [f"  - {need}" for need in needs_of(plan.version)]
    lines += ["", "RuntimeClasses for pods with Docker:"]
    for each in plan.classes:
        what = ", in which emptyDirs are disks" if each.block_plain else ""
        lines.append(f"  - {each.name}: {each.shim}{what}")
    lines += ["", "Files (`--directory DIR` writes them):" if not directory else f"Files in {directory}:"]
    lines += [f"  - {file.name}: {file.what}" for file in files_of(plan)]
    for number, (what, commands) in enumerate(steps(plan, directory), start=1):
        lines += ["", f"{number}. {what}", *(f"     {command}" for command in commands)]
    return "\n".join(lines)


def _version(text: str) -> Version:
    if not text:
        return NEWEST
    number = parse_version(text)
    if number is None or number < OLDEST:
        raise SpecError(
            f"--kata-version: {text!r} is not a version of Kata from {written(OLDEST)} on, such as {written(NEWEST)}",
            id="spec.wrong-value",
        )
    if number[0] > NEWEST[0]:
        raise SpecError(
            f"--kata-version: kata-dind knows Kata up to {written(NEWEST)}, and nothing of Kata {number[0]}",
            id="spec.wrong-value",
            hint=f"--kata-version {written(NEWEST)}, or a later kata-dind",
        )
    return number


def _require_fit(shim: str, version: Version) -> None:
    row = HANDLERS.get(shim.removesuffix("-runtime-rs"))
    if row is None or (version >= RUST_IS_DEFAULT_SINCE and f"kata-{shim}" not in KATA_4_1_CLASSES):
        known = ", ".join(fitting_handlers())
        raise SpecError(f"--handler: Kata has no handler {shim!r}; it has {known}", id="spec.wrong-value")
    if reason := _unfit(shim):
        raise SpecError(f"--handler: {shim} {reason}", id="spec.wrong-value", hint="--handler qemu-runtime-rs")


def _unfit(shim: str) -> str:
    row: Handler | None = find_handler(shim)
    if row is None:
        return ""
    if row.confidential:
        return "is confidential, so nobody may change what is in its pods"
    if row.vmm in (Vmm.FIRECRACKER, Vmm.REMOTE):
        return "shares no directories with its guests, so no dind pod works there"
    if not row.block_hotplug:
        return "can't plug a disk into a machine that runs, which an emptyDir as a disk needs"
    return ""


def _trial(each: Class) -> dict[str, Any]:
    """Return a pod whose data root is what the plan is about; without block-plain, the webhook repairs it."""
    container: dict[str, Any] = {
        "name": "dind",
        "image": _TRIAL_IMAGE,
        "env": [{"name": "DOCKER_TLS_CERTDIR", "value": ""}],
        "securityContext": {"privileged": True},
        "readinessProbe": {"exec": {"command": ["docker", "info"]}, "periodSeconds": 3, "timeoutSeconds": 10},
    }
    spec: dict[str, Any] = {"runtimeClassName": each.name, "containers": [container]}
    if each.block_plain:
        container["volumeMounts"] = [{"name": "docker", "mountPath": "/var/lib/docker"}]
        spec["volumes"] = [{"name": "docker", "emptyDir": {}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{each.name}-trial"}, "spec": spec}
