"""The corpus before a real API server: what it accepts, it accepts after a repair, and gives back as repaired.

The server fills in defaults and drops nothing, so that a pod that comes back has many more fields than the one that was
sent: what a repair sees at admission. Nothing is stored, but the pod templates of the last test.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kata_dind.manifest import read_documents
from kata_dind.pod.detect import detect
from kata_dind.pod.model import Place, Repair
from kata_dind.pod.places import config_maps_in, find_pods, translate
from kata_dind.pod.repair import repair
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.objects import namespace_named, priority_class, runtime_class
from tests.kube.server import ApiServer
from tests.unit.pod.cases import Case, read_corpus
from tests.unit.pod.test_corpus import patched, policy_of, script, without_aliases

pytestmark = needs()

Object = Mapping[str, Any]
_CASES = read_corpus()


@functools.cache
def objects_of(case: Case) -> list[Object]:
    """Return all objects in a case's documents, those of Lists included."""
    found: list[Object] = []
    for document in read_documents(case.text, case.file):
        if isinstance(document.data, Mapping):
            is_list = document.data.get("kind") == "List"
            found += document.data["items"] if is_list else [document.data]
    return [without_aliases(item) for item in found if isinstance(item, Mapping)]


def repairs(case: Case, item: Object) -> list[tuple[Place, Repair]]:
    """Return what a repair says of each pod of an object."""
    config_maps, policy = config_maps_in(objects_of(case)), policy_of(case.policy)
    return [
        (
            place,
            repair(place.pod, policy, script=script, config_maps=config_maps, claim_templates=place.claim_templates),
        )
        for place in find_pods(item)
    ]


def with_repairs(case: Case, item: Object) -> Object:
    """Return an object with all the patches that it can hold."""
    for place, result in repairs(case, item):
        own, elsewhere = translate(place, result.patch)
        if own and all(operation["path"].startswith("/metadata") for operation in elsewhere):
            item = patched(item, own)
    return item


def outcomes(case: Case, item: Object) -> list[tuple[str, bool, bool, list[str]]]:
    """Return what a repair comes to, without its words."""
    config_maps, policy = config_maps_in(objects_of(case)), policy_of(case.policy)
    found = []
    for place, result in repairs(case, item):
        claims = place.claim_templates
        engines = detect(place.pod, policy, config_maps=config_maps, claim_templates=claims).engines
        names = [f"{engine.list}/{engine.container} {engine.program}" for engine in engines]
        found.append((result.kind, bool(result.patch), result.unrepaired, names))
    return found


def as_sent(item: Object) -> dict[str, Any]:
    """Return an object that the server gave, as it can be created again: what is its own to set is taken out."""
    own = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")
    metadata = {key: value for key, value in item["metadata"].items() if key not in own}
    sent = {**item, "metadata": metadata}
    return _without_generated_selector(sent) if item["kind"] == "Job" else sent


def _without_generated_selector(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job without the selector, and the labels for it, that name the job's uid."""
    spec = {key: value for key, value in job["spec"].items() if key != "selector"}
    metadata = spec["template"]["metadata"]
    labels = {key: value for key, value in metadata["labels"].items() if not key.endswith("controller-uid")}
    return {**job, "spec": {**spec, "template": {**spec["template"], "metadata": {**metadata, "labels": labels}}}}


@pytest.fixture(scope="module", autouse=True)
def surroundings(api_server: ApiServer) -> None:
    """What the objects of the corpus need before they may be made."""
    with api_server.client() as client:
        items = [item for case in _CASES for item in objects_of(case) if client.serves(item)]
        specs = [place.pod.get("spec") or {} for item in items for place in find_pods(item)]
        # A pod that was copied from a cluster has its class's overhead, and the server compares them.
        specs.sort(key=lambda spec: "overhead" not in spec)
        namespaces = {(item.get("metadata") or {}).get("namespace") or "default" for item in items}
        wanted = [namespace_named(name) for name in sorted(namespaces)]
        for spec in specs:
            overhead = {"overhead": {"podFixed": spec["overhead"]}} if "overhead" in spec else {}
            wanted.append(runtime_class(spec.get("runtimeClassName") or "kata") | overhead)
            wanted.append(priority_class(spec.get("priorityClassName") or "high"))
        for each in wanted:
            client.create(each)  # a name that the server refuses is one of the corpus's faults


def cases(file: str) -> Iterator[Case]:
    yield from (case for case in _CASES if case.file == file)


def accepted(api: Client, file: str) -> Iterator[tuple[Case, Object, Object]]:
    """Yield the objects of a file that the server accepts, and what it makes of them."""
    for case in cases(file):
        for item in objects_of(case):
            if api.serves(item) and any(True for _ in find_pods(item)):
                answer = api.create(item, dry_run=True)
                if answer.accepted:
                    yield case, item, answer.body


def each_file() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", sorted({case.file for case in _CASES}))


@each_file()
def test_the_server_refuses_what_the_corpus_calls_invalid_and_no_more(api: Client, file: str) -> None:
    """Or else what follows would be about nothing."""
    for case in cases(file):
        refused = []
        served = [item for item in objects_of(case) if api.serves(item)]
        for item in served:
            answer = api.create(item, dry_run=True)
            if not answer.accepted:
                refused.append(answer.message)
        if served:
            assert bool(refused) is (case.valid != "yes"), (case.name, refused)


def test_every_kind_of_repair_is_before_the_server(api: Client) -> None:
    """What is skipped for being refused, or for another kind of object, must not be all that there is of a kind."""
    seen: Counter[str] = Counter()
    for file in sorted({case.file for case in _CASES}):
        for case, item, _ in accepted(api, file):
            seen.update(result.kind for _, result in repairs(case, item) if result.patch)
    assert {kind for kind, count in seen.items() if count > 1} >= {"block", "block-plain", "driver", "loop", "memory"}
    assert seen["loop"] > 100


@each_file()
def test_what_is_accepted_is_accepted_after_its_repair(api: Client, file: str) -> None:
    for case, item, _ in accepted(api, file):
        after = with_repairs(case, item)
        answer = api.create(after, dry_run=True)
        assert answer.accepted, (case.name, answer.message)


@each_file()
def test_what_comes_back_repaired_needs_no_second_repair(api: Client, file: str) -> None:
    for case, item, _ in accepted(api, file):
        answer = api.create(with_repairs(case, item), dry_run=True)
        assert [result.patch for _, result in repairs(case, answer.body) if result.patch] == [], case.name


@each_file()
def test_defaults_do_not_change_what_a_repair_does(api: Client, file: str) -> None:
    for case, item, defaulted in accepted(api, file):
        assert outcomes(case, defaulted) == outcomes(case, item), case.name
        after = as_sent(with_repairs(case, defaulted))
        answer = api.create(after, dry_run=True)
        assert answer.accepted, (case.name, answer.message)
        assert [result.patch for _, result in repairs(case, answer.body) if result.patch] == [], case.name


@each_file()
def test_the_server_applies_a_patch_as_we_do(api: Client, namespace: str, file: str) -> None:
    """A pod template holds any pod's spec, and may be changed in all its fields."""
    number = 0
    for case, item, _ in accepted(api, file):
        for place, result in repairs(case, item):
            if not result.patch:
                continue
            number += 1
            template = template_of(place, f"template-{number}", namespace)
            stored = api.create(template)
            assert stored.accepted, (case.name, stored.message)
            for own_place, own in repairs(case, stored.body):
                patch, elsewhere = translate(own_place, own.patch)
                assert not elsewhere
                ours = api.create(
                    as_sent(patched(stored.body, patch)) | {"metadata": {"name": "other", "namespace": namespace}},
                    dry_run=True,
                )
                theirs = api.patch(template, patch, dry_run=True)
                assert (theirs.status, ours.status) == (200, 201), (case.name, theirs.message, ours.message)
                assert theirs.body["template"] == ours.body["template"], case.name


def template_of(place: Place, name: str, namespace: str) -> dict[str, Any]:
    """Return a template of a pod as its controller makes it, with claims in the place of claim templates."""
    kept = ("labels", "annotations")
    metadata = {key: value for key, value in (place.pod.get("metadata") or {}).items() if key in kept}
    claims = [template["metadata"]["name"] for template in place.claim_templates]
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-0"}} for claim in claims]
    spec = place.pod["spec"]
    if volumes:
        spec = {**spec, "volumes": [*(spec.get("volumes") or ()), *volumes]}
    return {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": name, "namespace": namespace},
        "template": {"metadata": metadata, "spec": spec},
    }
