"""Comparing a cluster with what dind pods need: a row for each thing that was looked at; pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kata_dind.cluster.needs import BLOCK_PLAIN_SINCE, Version, needs_of, parse_version, written
from kata_dind.cluster.plan import NODE_LABEL
from kata_dind.pod.classes import with_handlers
from kata_dind.pod.handlers import Runtime, runtime_of
from kata_dind.pod.names import is_subdomain
from kata_dind.pod.policy import EmptyDirMode, Policy
from kata_dind.pod.reading import items, mapping, text

WEBHOOK = "pods.kata-dind.io"
"""The name of our webhook in its configuration."""

MATCH_CONDITIONS_SINCE = (1, 30)
"""The version of Kubernetes in which matchConditions are stable, by which API servers call us for Kata's pods alone."""


Object = Mapping[str, Any]


class Result(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """We may not look."""


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table."""

    name: str
    result: Result
    found: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What there is in a cluster; None for what we may not read."""

    server_version: str
    nodes: Sequence[Object] | None = ()
    runtime_classes: Sequence[Object] | None = ()
    daemon_sets: Sequence[Object] | None = ()
    """Those that run kata-deploy."""
    custom_runtimes: Sequence[Object] | None = ()
    """kata-deploy's ConfigMaps of handlers of one's own."""
    webhooks: Sequence[Object] | None = ()
    """The MutatingWebhookConfigurations with a webhook of ours."""
    ready_addresses: Mapping[tuple[str, str], int | None] = field(default_factory=dict)
    """How many replicas are ready behind a Service, by its namespace and name."""


def check_cluster(facts: ClusterFacts, policy: Policy) -> list[Check]:
    """Return what is right in a cluster, and what is not."""
    policy = with_handlers(policy, facts.runtime_classes or ()) or policy
    version = kata_version(facts)
    return [
        _api_server(facts),
        _nodes(facts),
        *_kata_deploy(facts, version),
        *_classes(facts, policy, version),
        *_missing_classes(facts, policy),
        *_webhook(facts),
    ]


def kata_version(facts: ClusterFacts) -> Version | None:
    """Return the version of Kata that kata-deploy installs, from the tag of its image; None if it isn't known."""
    for each in facts.daemon_sets or ():
        for image in _images(each):
            tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
            if version := parse_version(tag):
                return version
    return None


def _api_server(facts: ClusterFacts) -> Check:
    found = f"Kubernetes {facts.server_version}"
    version = parse_version(facts.server_version)
    if version is None or version[:2] >= MATCH_CONDITIONS_SINCE:
        return Check("api server", Result.OK, found)
    least = ".".join(map(str, MATCH_CONDITIONS_SINCE))
    return Check(
        "api server",
        Result.WARNING,
        f"{found}; the webhook's matchConditions came with {least}, so it is asked about every pod",
        f"upgrade to {least} or later, or install the webhook without matchConditions",
    )


def _nodes(facts: ClusterFacts) -> Check:
    name = "nodes"
    if facts.nodes is None:
        return Check(name, Result.UNKNOWN, "not allowed to list nodes", "kubectl auth can-i list nodes")
    with_kata = [each for each in facts.nodes if _labels(each).get(NODE_LABEL) == "true"]
    ready = [each for each in with_kata if _is_ready(each)]
    have = "has" if len(facts.nodes) == 1 else "have"
    found = f"{len(with_kata)} of {_counted(len(facts.nodes), 'node')} {have} Kata"
    if not with_kata:
        # Kata that is installed by other means gives no label.
        result = Result.WRONG if facts.daemon_sets else Result.WARNING
        return Check(name, result, f"{found} (the label {NODE_LABEL}=true)", "kata-dind cluster plan")
    if len(ready) < len(with_kata):
        return Check(
            name, Result.WARNING, f"{found}, of which {len(ready)} are ready", f"kubectl get nodes -l {NODE_LABEL}=true"
        )
    return Check(name, Result.OK, found)


def _kata_deploy(facts: ClusterFacts, version: Version | None) -> Iterator[Check]:
    name = "kata-deploy"
    if facts.daemon_sets is None:
        yield Check(name, Result.UNKNOWN, "not allowed to list DaemonSets", "kubectl auth can-i list daemonsets -A")
        return
    if not facts.daemon_sets:
        found = "no DaemonSet of kata-deploy; Kata may be installed by its Jobs, or by other means"
        yield Check(name, Result.OK if facts.custom_runtimes else Result.WARNING, found)
        return
    for each in facts.daemon_sets:
        status, metadata = mapping(each.get("status")), mapping(each.get("metadata"))
        wanted, ready = int(status.get("desiredNumberScheduled") or 0), int(status.get("numberReady") or 0)
        place = f"{metadata.get('namespace')}/{metadata.get('name')}"
        what = f"Kata {written(version)}" if version else "Kata of an unknown version"
        found = f"{what}, by {place}: ready on {ready} of {_counted(wanted, 'node')}"
        if ready < wanted or not wanted:
            hint = f"kubectl --namespace {metadata.get('namespace')} rollout status daemonset/{metadata.get('name')}"
            yield Check(name, Result.WRONG, found, hint)
        else:
            yield Check(name, Result.OK, found)
    if version and version < BLOCK_PLAIN_SINCE:
        for need in needs_of(version):
            yield Check(f"kata {written(version)}", Result.WARNING, need)


def _classes(facts: ClusterFacts, policy: Policy, version: Version | None) -> Iterator[Check]:
    if facts.runtime_classes is None:
        hint = "kubectl auth can-i list runtimeclasses"
        yield Check("classes", Result.UNKNOWN, "not allowed to list RuntimeClasses", hint)
        return
    ours = [(each, runtime_of(_name(each), {}, policy)) for each in facts.runtime_classes]
    kata = [(each, runtime) for each, runtime in ours if runtime is not None]
    if not kata:
        count = _counted(len(facts.runtime_classes), "RuntimeClass", "RuntimeClasses")
        yield Check("classes", Result.WRONG, f"{count}, and none is Kata's by the policy", "kata-dind cluster plan")
    for each, runtime in kata:
        yield _class(each, runtime, facts, version)


def _class(each: Object, runtime: Runtime, facts: ClusterFacts, version: Version | None) -> Check:
    name = f"class {runtime.name}"
    if facts.nodes is not None and not (places := _places(each, facts.nodes)):
        selector = mapping(mapping(each.get("scheduling")).get("nodeSelector"))
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        found = "no node has its labels, so its pods stay pending" if labels else "there is no node"
        return Check(name, Result.WRONG, found, f"kubectl get nodes --selector '{labels}'" if labels else "")
    where = f", on {_counted(places, 'node')}" if facts.nodes is not None else ""
    if runtime.left_alone:
        return Check(name, Result.OK, runtime.left_alone)
    if version and runtime.version and runtime.version != version:
        return Check(
            name,
            Result.WRONG,
            f"the policy says Kata {written(_triple(runtime.version))}, and kata-deploy installs {written(version)}",
            f"policy: version: {written(version)}",
        )
    configured = _configured_mode(text(each.get("handler")), facts)
    if configured and configured != runtime.empty_dir:
        return Check(
            name,
            Result.WRONG,
            f"its handler has emptydir_mode {configured}, and the policy says {runtime.empty_dir}",
            f"policy: emptyDir: {configured}",
        )
    disks = runtime.empty_dir is EmptyDirMode.BLOCK_PLAIN
    if disks and not configured and facts.custom_runtimes and text(each.get("handler")) == runtime.name:
        return Check(
            name,
            Result.WRONG,
            "the policy says that its emptyDirs are disks, and kata-deploy has no such setting for its handler",
            "kata-dind cluster plan -o values",
        )
    if disks and version and version < BLOCK_PLAIN_SINCE:
        came = written(BLOCK_PLAIN_SINCE)
        found = f"the policy says that its emptyDirs are disks, which came with Kata {came}"
        return Check(name, Result.WRONG, found, "policy: leave out emptyDir: block-plain")
    if disks:
        return Check(name, Result.OK, f"emptyDirs are disks, the best data root{where}")
    if not runtime.loop_works:
        return Check(name, Result.WRONG, "its guest can't mount a disk in a file", "upgrade Kata to 3.14 or later")
    return Check(
        name, Result.OK, f"a repaired pod gets a disk in a file, or a block volume where the policy has one{where}"
    )


def _missing_classes(facts: ClusterFacts, policy: Policy) -> Iterator[Check]:
    """Yield the classes that the policy describes by their names, and that the cluster does not have."""
    there = {_name(each) for each in facts.runtime_classes or ()}
    for rule in policy.runtime_classes if facts.runtime_classes is not None else ():
        described = rule.handler or rule.version or rule.empty_dir
        if rule.kata and described and is_subdomain(rule.match) and rule.match not in there:
            found = "the policy describes it, and the cluster does not have it"
            yield Check(f"class {rule.match}", Result.WRONG, found, "kata-dind cluster plan")


def _webhook(facts: ClusterFacts) -> Iterator[Check]:
    name = "webhook"
    if facts.webhooks is None:
        what = "mutatingwebhookconfigurations"
        yield Check(
            name, Result.UNKNOWN, "not allowed to list webhook configurations", f"kubectl auth can-i list {what}"
        )
        return
    if not facts.webhooks:
        found = "not installed: pods are not repaired when they are created"
        yield Check(name, Result.WARNING, found, "kata-dind webhook manifest --create-namespace | kubectl apply -f -")
    for configuration in facts.webhooks:
        for webhook in items(configuration.get("webhooks")):
            if mapping(webhook).get("name") == WEBHOOK:
                yield _one_webhook(_name(configuration), mapping(webhook), facts)


def _one_webhook(configuration: str, webhook: Object, facts: ClusterFacts) -> Check:
    name = f"webhook {configuration}"
    client = mapping(webhook.get("clientConfig"))
    policy = f"failurePolicy {webhook.get('failurePolicy', 'Fail')}"
    service = mapping(client.get("service"))
    place = (text(service.get("namespace")), text(service.get("name")))
    if service and not client.get("caBundle"):
        hint = (
            f"kata-dind webhook certs --namespace {place[0]} --service {place[1]} --secret {place[1]}-tls "
            f"--configuration {configuration}"
        )
        return Check(name, Result.WRONG, "no caBundle, so API servers trust none of its certificates", hint)
    if not service:
        return Check(name, Result.OK, f"called at {client.get('url')}; {policy}")
    ready = facts.ready_addresses.get(place)
    if ready is None:
        found, hint = (
            f"not allowed to see who is ready behind it; {policy}",
            "kubectl auth can-i list endpointslices -A",
        )
        return Check(name, Result.UNKNOWN, found, hint)
    if not ready:
        hint = f"kubectl --namespace {place[0]} get pods"
        return Check(name, Result.WRONG, f"no replica is ready; {policy}", hint)
    result = Result.OK if ready > 1 else Result.WARNING
    return Check(name, result, f"{_counted(ready, 'replica')} ready; {policy}", "" if ready > 1 else "run two of them")


def _configured_mode(handler: str, facts: ClusterFacts) -> str:
    """Return the `emptydir_mode` that kata-deploy gives to a handler of one's own; empty if it says nothing."""
    for each in facts.custom_runtimes or ():
        drop_in = text(mapping(each.get("data")).get(f"dropin-{handler}.toml"))
        try:
            mode = text(mapping(tomllib.loads(drop_in).get("runtime")).get("emptydir_mode"))
        except tomllib.TOMLDecodeError:
            continue
        if mode:
            return mode
    return ""


def _places(each: Object, nodes: Sequence[Object]) -> int:
    selector = mapping(mapping(each.get("scheduling")).get("nodeSelector"))
    return sum(1 for node in nodes if all(_labels(node).get(key) == value for key, value in selector.items()))


def _is_ready(node: Object) -> bool:
    conditions = map(mapping, items(mapping(node.get("status")).get("conditions")))
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _images(workload: Object) -> Iterator[str]:
    spec = mapping(mapping(mapping(workload.get("spec")).get("template")).get("spec"))
    for container in map(mapping, items(spec.get("containers"))):
        yield text(container.get("image"))


def _labels(each: Object) -> Mapping[str, Any]:
    return mapping(mapping(each.get("metadata")).get("labels"))


def _name(each: Object) -> str:
    return text(mapping(each.get("metadata")).get("name"))


def _triple(version: tuple[int, ...]) -> Version:
    major, minor, patch = (*version, 0, 0)[:3]
    return major, minor, patch


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
