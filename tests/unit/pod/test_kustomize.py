"""JSON patches of Kustomize: the pod that they add containers to, and what only looks like such a patch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kata_dind.manifest.patch import patched
from kata_dind.pod.detect import detect
from kata_dind.pod.model import Place
from kata_dind.pod.places import find_pods, translate
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair
from tests.unit.pod.checks import script

SPEC = "/spec/template/spec"
DIND = {"name": "dind", "image": "docker:27-dind", "securityContext": {"privileged": True}}
CLASS = {"op": "add", "path": f"{SPEC}/runtimeClassName", "value": "kata-qemu"}
ADDED = {"op": "add", "path": f"{SPEC}/containers/-", "value": DIND}


def places(document: Any) -> list[Place]:
    return list(find_pods(document))


def engines(place: Place) -> list[tuple[str, str, bool]]:
    found = detect(place.pod, Policy())
    return [(engine.list, engine.container, found.is_kata) for engine in found.engines]


@pytest.mark.parametrize(
    "operations",
    [
        [CLASS, ADDED],
        [{**ADDED, "path": "/spec/containers/0"}, {**CLASS, "path": "/spec/runtimeClassName"}],
        [CLASS, {"op": "replace", "path": f"{SPEC}/containers", "value": [DIND]}],
        [CLASS, {"op": "add", "path": f"{SPEC}/initContainers/-", "value": {**DIND, "restartPolicy": "Always"}}],
        [
            CLASS,
            {"op": "replace", "path": f"{SPEC}/containers/1/image", "value": "docker:27-dind"},
            {"op": "add", "path": f"{SPEC}/containers/1/securityContext", "value": {"privileged": True}},
            {"op": "add", "path": f"{SPEC}/containers/1/env/-", "value": {"name": "A", "value": "b"}},
            {"op": "add", "path": f"{SPEC}/containers/1/env/-", "value": {"name": "C", "value": "d"}},
        ],
        [{"op": "replace", "path": SPEC, "value": {"runtimeClassName": "kata-qemu", "containers": [DIND]}}],
    ],
)
def test_a_patch_that_adds_a_docker(operations: list[Any]) -> None:
    (place,) = places(operations)
    ((_, _, is_kata),) = engines(place)
    assert is_kata
    assert place.incomplete == ""


def test_a_patch_as_text_in_a_kustomization() -> None:
    patches = [{"target": {"kind": "Deployment"}, "patch": json.dumps([CLASS, ADDED], indent=1)}]
    document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "patches": patches}
    (place,) = places(document)
    assert (place.kind, engines(place)) == ("Kustomization", [("containers", "dind", True)])
    older = {key: value for key, value in document.items() if key != "patches"}
    assert len(places({**older, "patchesJson6902": patches})) == 1


def test_without_a_class_it_is_said_where_that_stands() -> None:
    (place,) = places([ADDED])
    assert place.incomplete.startswith("This patch of Kustomize's names no RuntimeClass")
    assert engines(place) == [("containers", "dind", False)]


def test_a_repair_that_needs_a_new_volume_has_no_place_in_the_patch() -> None:
    (place,) = places([CLASS, ADDED])
    own, elsewhere = translate(place, repair(place.pod, Policy(), script=script).patch)
    assert "/spec/volumes" in [operation["path"] for operation in elsewhere]
    assert all(operation["path"].startswith("/1/value/") for operation in own)


def test_a_repair_of_a_patch_with_its_volumes_goes_into_it() -> None:
    container = {**DIND, "volumeMounts": [{"name": "docker", "mountPath": "/var/lib/docker"}]}
    volumes = {"op": "add", "path": f"{SPEC}/volumes", "value": [{"name": "docker", "emptyDir": {}}]}
    document = [CLASS, volumes, {**ADDED, "value": container}]
    (place,) = places(document)
    own, elsewhere = translate(place, repair(place.pod, Policy(), script=script).patch)
    assert [operation["path"] for operation in elsewhere] == ["/metadata"]
    after: Any = patched(document, own)
    assert after[1]["value"] == [{"name": "docker", "emptyDir": {"sizeLimit": "21Gi"}}]
    assert after[2]["value"]["command"][-1] == "dockerd-entrypoint.sh"
    assert places(after)[0].pod["spec"]["containers"] == [after[2]["value"]]


@pytest.mark.parametrize(
    "document",
    [
        [],
        [1, "x"],
        [{"op": "add"}],
        [{"op": "sub", "path": f"{SPEC}/containers/-", "value": DIND}],
        [{"op": "add", "path": "spec/containers/-", "value": DIND}],
        [{"op": "remove", "path": f"{SPEC}/containers/0"}],
        [{"op": "add", "path": f"{SPEC}/containers/-"}],
        [{"op": "add", "path": f"{SPEC}/containers/0/ports/0/name", "value": "x"}],
        [{"op": "add", "path": f"{SPEC}/volumes/-", "value": {"name": "a"}}],
        [CLASS],
    ],
)
def test_what_adds_no_container(document: Any) -> None:
    assert places(document) == []


@pytest.mark.parametrize("value", [None, 1, "x", [], [[]], {"a": 1}, {"name": 7, "image": []}])
@pytest.mark.parametrize("path", ["containers/-", "containers", "containers/0/env/-", "containers/0/image", "volumes"])
def test_values_of_any_type_stop_nothing(path: str, value: Any) -> None:
    for place in places([CLASS, {"op": "add", "path": f"{SPEC}/{path}", "value": value}, ADDED]):
        translate(place, repair(place.pod, Policy(), script=script).patch)
