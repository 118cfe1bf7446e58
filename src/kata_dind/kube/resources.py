"""Kinds of objects, and where the API has them; one table for all who read a cluster or change it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, and where the API has it."""

    version: str
    """With its group, as in `apps/v1`."""
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The group; empty for the first one, which has no name."""
        return self.version.rpartition("/")[0]

    def path(self, name: str = "", *, namespace: str = "") -> str:
        """Return the path of an object, or of all; all namespaces' without one."""
        prefix = f"/apis/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"{prefix}{scope}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")

    def named(self, name: str, *, namespace: str = "") -> str:
        """Name an object for people."""
        place = f" in the namespace {namespace!r}" if self.namespaced and namespace else ""
        return f"the {self.kind} {name!r}{place}"


CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("v1", "nodes", "Node", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
PODS = Resource("v1", "pods", "Pod")
POD_TEMPLATES = Resource("v1", "podtemplates", "PodTemplate")
REPLICATION_CONTROLLERS = Resource("v1", "replicationcontrollers", "ReplicationController")
SECRETS = Resource("v1", "secrets", "Secret")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")

DAEMON_SETS = Resource("apps/v1", "daemonsets", "DaemonSet")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps/v1", "replicasets", "ReplicaSet")
STATEFUL_SETS = Resource("apps/v1", "statefulsets", "StatefulSet")

CRON_JOBS = Resource("batch/v1", "cronjobs", "CronJob")
JOBS = Resource("batch/v1", "jobs", "Job")

ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
RUNTIME_CLASSES = Resource("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", namespaced=False)

WORKLOADS = (
    *(DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, REPLICA_SETS, CRON_JOBS, JOBS),
    *(REPLICATION_CONTROLLERS, POD_TEMPLATES, PODS),
)
"""What every cluster has that makes pods, and pods themselves."""

CUSTOM_WORKLOADS = {
    "actions.github.com": ("autoscalingrunnersets",),
    "actions.summerwind.dev": ("runnerdeployments", "runnersets", "runners"),
    "agents.x-k8s.io": ("sandboxes",),
    "extensions.agents.x-k8s.io": ("sandboxtemplates",),
    "argoproj.io": ("workflowtemplates", "clusterworkflowtemplates", "cronworkflows", "workflows"),
    "keda.sh": ("scaledjobs",),
    "tekton.dev": ("pipelineruns", "taskruns", "tasks", "pipelines"),
}
"""Custom resources that hold a pod, by their API groups; the version is the one that a cluster prefers."""
