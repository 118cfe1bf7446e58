"""Reading a cluster, and never writing to it: what may not be read is None, and the check says so."""

from __future__ import annotations

from collections.abc import Iterable

from kata_dind.cluster.check import WEBHOOK, ClusterFacts
from kata_dind.errors import KubernetesError
from kata_dind.kube.client import Client, Object, may_not
from kata_dind.kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    ENDPOINT_SLICES,
    MUTATING_WEBHOOKS,
    NODES,
    RUNTIME_CLASSES,
    Resource,
)
from kata_dind.pod.reading import items, mapping, text

_KATA_DEPLOY = "kata-deploy"


def read_cluster(client: Client) -> ClusterFacts:
    """Read what the checks need. Raises KubernetesError for a cluster that can't be reached."""
    version = text(client.get_raw("/version").get("gitVersion")).removeprefix("v")
    webhooks = _listed(client, MUTATING_WEBHOOKS)
    ours = None if webhooks is None else [each for each in webhooks if _has_ours(each)]
    daemon_sets = _listed(client, DAEMON_SETS)
    deploys = None if daemon_sets is None else [each for each in daemon_sets if _runs_kata_deploy(each)]
    return ClusterFacts(
        server_version=version,
        nodes=_listed(client, NODES),
        runtime_classes=_listed(client, RUNTIME_CLASSES),
        daemon_sets=deploys,
        custom_runtimes=_custom_runtimes(client, deploys or ()),
        webhooks=ours,
        ready_addresses={place: _ready(client, *place) for place in _services(ours or ())},
    )


def _listed(client: Client, resource: Resource, *, namespace: str = "", labels: str = "") -> list[Object] | None:
    try:
        return list(client.list(resource, namespace=namespace, labels=labels))
    except KubernetesError as error:
        if may_not(error):
            return None
        raise


def _custom_runtimes(client: Client, daemon_sets: Iterable[Object]) -> list[Object] | None:
    """Read kata-deploy's own ConfigMaps, beside its DaemonSets; where Jobs install, in the chart's usual namespace."""
    found = []
    places = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in daemon_sets}
    for namespace, name in sorted(places or {("kube-system", _KATA_DEPLOY)}):
        suffix = name.removeprefix(_KATA_DEPLOY)
        try:
            each = client.find(CONFIG_MAPS, f"{_KATA_DEPLOY}-custom-configs{suffix}", namespace=namespace)
        except KubernetesError as error:
            if may_not(error):
                return None
            raise
        if each is not None:
            found.append(each)
    return found


def _ready(client: Client, namespace: str, service: str) -> int | None:
    slices = _listed(client, ENDPOINT_SLICES, namespace=namespace, labels=f"kubernetes.io/service-name={service}")
    if slices is None:
        return None
    endpoints = [mapping(each) for slice in slices for each in items(slice.get("endpoints"))]
    return sum(1 for each in endpoints if mapping(each.get("conditions")).get("ready") is not False)


def _services(configurations: Iterable[Object]) -> set[tuple[str, str]]:
    webhooks = [mapping(each) for configuration in configurations for each in items(configuration.get("webhooks"))]
    services = [
        mapping(mapping(each.get("clientConfig")).get("service")) for each in webhooks if each.get("name") == WEBHOOK
    ]
    return {(text(each.get("namespace")), text(each.get("name"))) for each in services if each}


def _has_ours(configuration: Object) -> bool:
    return any(mapping(each).get("name") == WEBHOOK for each in items(configuration.get("webhooks")))


def _runs_kata_deploy(daemon_set: Object) -> bool:
    template = mapping(mapping(daemon_set.get("spec")).get("template"))
    labels = mapping(mapping(template.get("metadata")).get("labels"))
    return text(labels.get("name")).startswith(_KATA_DEPLOY)
