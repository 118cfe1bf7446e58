"""Repairs of pods that are almost right, or not at all: no crash, nothing lost, and what was valid stays valid."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kata_dind.pod.model import PodDict
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.repair import repair
from tests.unit.pod.checks import BLOCK, BLOCK_PLAIN, MEMORY, Json, repaired, script

# An example is small enough as it is; to make it smaller takes minutes, with a validation at each step.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

DELIVERIES = [{}, {"delivery": "init", "deliveryImage": "r/k:1"}, {"delivery": "image", "deliveryImage": "r/k:1"}]
POLICIES = [
    parse_policy(kind | delivery | {"registryMirrors": ["https://m.example"], "certificates": [CERTIFICATE]})
    for CERTIFICATE in [{"host": "r.example", "configMap": "ca"}]
    for kind in ({}, BLOCK_PLAIN, BLOCK, {"dataRoot": {"kind": "memory", "size": "1Gi"}})
    for delivery in DELIVERIES
]

IMAGES = st.sampled_from(
    [
        *("docker:dind", "docker:27-dind", "docker:29-dind-rootless", "docker:20.10-dind", "docker", "busybox"),
        *("moby/buildkit:v0.20.0", "moby/buildkit:rootless", "plugins/docker", "earthly/buildkitd:v0.8.15"),
        *("registry.dagger.io/engine:v0.15.1", "summerwind/actions-runner-dind", "docker@sha256:" + "0" * 64),
    ]
)
WORDS = st.sampled_from(
    [
        *("dockerd", "dockerd-entrypoint.sh", "--storage-driver=vfs", "--storage-driver", "vfs", "-s", "overlay2"),
        *("--data-root=/data", "--data-root", "/d", "-g", "--debug", "$(A)", "$$(A)", "sh", "-c", "sleep 1 & dockerd"),
        *("--registry-mirror=https://x.example", "buildkitd", "--root=/b", "mount -o loop /x /var/lib/docker; dockerd"),
    ]
)
PATHS = st.sampled_from(
    [
        *("/var/lib/docker", "/var/lib", "/var/lib/docker/volumes", "/data", "/var/lib/kata-dind", "/d/", "/etc"),
        *("/home/rootless/.local/share/docker", "/var/lib/buildkit", "/opt/kata-dind", "/var/lib/docker/../docker"),
    ]
)
NAMES = st.sampled_from(["a", "b", "kata-dind", "kata-dind-1", "kata-dind-entrypoint"])
SOURCES: st.SearchStrategy[Json] = st.sampled_from(
    [
        {"emptyDir": {}},
        {"emptyDir": {"sizeLimit": "10Gi"}},
        {"emptyDir": {"sizeLimit": "100Mi"}},
        {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"persistentVolumeClaim": {"claimName": "c"}},
        {"hostPath": {"path": "/x"}},
        {"configMap": {"name": "c"}},
        {"nfs": {"server": "s", "path": "/x"}},
        {"ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "30Gi"}}}}}},
    ]
)
VARIABLES = st.sampled_from(
    [
        {"name": "DOCKER_DRIVER", "value": "vfs"},
        {"name": "A", "value": "$(B)"},
        {"name": "DOCKER_TLS_CERTDIR", "value": ""},
        {"name": "KATA_DIND_SIZE", "value": "30G"},
        {"name": "KATA_DIND_DATA_ROOT", "value": "loop"},
        {"name": "KATA_DIND_DIR", "value": "/data/x"},
        {"name": "KATA_DIND_DEVICE", "value": "/dev/vdb"},
        {"name": "PLUGIN_STORAGE_PATH", "value": "/data"},
    ]
)
PRIVILEGED = st.sampled_from([{"privileged": True}] * 4 + [{}, {"runAsUser": 1000, "privileged": True}])


def uniquely(strategy: st.SearchStrategy[Any], key: str, most: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=most, unique_by=lambda entry: entry[key].rstrip("/"))


MOUNTS = uniquely(
    st.fixed_dictionaries(
        {"name": NAMES, "mountPath": PATHS},
        optional={"subPath": st.just("x"), "readOnly": st.booleans()},
    ),
    "mountPath",
    3,
)
CONTAINERS: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"image": IMAGES, "securityContext": PRIVILEGED, "volumeMounts": MOUNTS},
    optional={
        "command": st.lists(WORDS, max_size=3),
        "args": st.lists(WORDS, max_size=4),
        "env": uniquely(VARIABLES, "name", 3),
        "resources": st.sampled_from(
            [
                {"limits": {"memory": "1Gi"}},
                {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}},
                {"limits": {"ephemeral-storage": "5Gi"}},
            ]
        ),
        "startupProbe": st.sampled_from([{"tcpSocket": {"port": 1}}, {"tcpSocket": {"port": 1}, "periodSeconds": 3}]),
        "restartPolicy": st.just("Always"),
    },
)
ANNOTATIONS: st.SearchStrategy[Json] = st.sampled_from(
    [{}, MEMORY, {"kata-dind.io/size": "5Gi"}, {"kata-dind.io/data-root": "loop"}, {"kata-dind.io/repaired": "x"}]
)


@st.composite
def pods(draw: st.DrawFn) -> Json:
    containers: list[Json] = draw(st.lists(CONTAINERS, min_size=1, max_size=2))
    inits: list[Json] = draw(st.lists(CONTAINERS, max_size=2))
    for number, container in enumerate([*containers, *inits]):
        container["name"] = f"c{number}"
    for container in containers:
        container.pop("restartPolicy", None)
    mounted = sorted({mount["name"] for container in [*containers, *inits] for mount in container["volumeMounts"]})
    spec: Json = {
        "runtimeClassName": draw(st.sampled_from(["kata", "kata-qemu", "kata-fc", "kata-clh-runtime-rs"])),
        "containers": containers,
        "volumes": [{"name": name, **draw(SOURCES)} for name in mounted],
    }
    if inits:
        spec["initContainers"] = inits
    if draw(st.booleans()):
        more: Json = draw(st.sampled_from([{"hostUsers": False}, {"terminationGracePeriodSeconds": 1}]))
        spec |= more
    return {"metadata": {"name": "p", "annotations": {**draw(ANNOTATIONS)}}, "spec": spec}


@settings(max_examples=40, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(pods(), st.sampled_from(POLICIES), st.booleans())
def test_a_valid_pod_stays_valid_and_a_second_repair_is_empty(document: Json, policy: Policy, improve: bool) -> None:
    result, after = repaired(document, policy, improve=improve)
    untouched = [container for container in all_containers(document) if not is_named(container, result.reasons)]
    assert all(container in all_containers(after) for container in untouched)
    if not improve:
        for before in all_containers(document):
            later = next(container for container in all_containers(after) if container["name"] == before["name"])
            assert_kept(before, later)


def all_containers(document: Json) -> list[Json]:
    return [*document["spec"].get("initContainers", []), *document["spec"]["containers"]]


def is_named(container: Json, reasons: tuple[str, ...]) -> bool:
    return any(f"`{container['name']}`" in reason for reason in reasons)


def assert_kept(before: Json, later: Json) -> None:
    """Check that words, variables and mounts are there in their order, unless they name a storage driver."""
    drivers = ("vfs", "-s", "--storage-driver", "--storage-driver=vfs")
    for key in ("command", "args"):
        words = [word for word in before.get(key, []) if word not in drivers]
        left = [word for word in later.get(key, []) if word not in drivers]
        assert left[len(left) - len(words) :] == words or left[: len(words)] == words
    variables = [entry for entry in before.get("env", []) if entry["name"] != "DOCKER_DRIVER"]
    kept = [entry for entry in later.get("env", []) if entry["name"] != "DOCKER_DRIVER"]
    assert kept[: len(variables)] == variables
    paths = [mount["mountPath"] for mount in before["volumeMounts"]]
    assert [mount["mountPath"] for mount in later["volumeMounts"]][: len(paths)] == paths
    for key in set(before) - {"command", "args", "env", "volumeMounts", "resources", "startupProbe"}:
        assert later[key] == before[key]


# ---- Pods that are wrong


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["docker:dind"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places_in(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below: list[tuple[Any, ...]] = [here] if here else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        below += places_in(inner, (*here, key))
    return below


@st.composite
def broken_pods(draw: st.DrawFn) -> Json:
    document = copy.deepcopy(draw(pods()))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places_in(document)))
        parent: Any = document
        for key in place[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[place[-1]] = draw(JUNK)
        elif isinstance(parent, dict):
            del parent[place[-1]]
        else:
            parent.append(copy.deepcopy(parent[place[-1]]))
        if not isinstance(document.get("spec"), dict):
            document["spec"] = {}
    return document


@settings(max_examples=100, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(broken_pods(), st.sampled_from(POLICIES), st.booleans())
def test_no_pod_is_too_wrong(document: PodDict, policy: Policy, improve: bool) -> None:
    before = copy.deepcopy(document)
    repair(document, policy, script=script, improve=improve)
    assert repr(document) == repr(before)


@given(JUNK)
def test_what_is_no_pod_is_left_alone(document: Any) -> None:
    pod = document if isinstance(document, dict) else {"spec": document}
    assert repair(pod, Policy(), script=script).patch == ()
