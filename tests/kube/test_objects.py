"""What we make ourselves: a real API server accepts rendered manifests, and gives scripts back byte for byte."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.detect import detect
from kata_dind.pod.places import find_pods, translate
from kata_dind.pod.policy import Policy, parse_policy
from kata_dind.pod.render import RenderSpec, render
from kata_dind.pod.repair import repair
from kata_dind.vocabulary import DataRootKind, Workload
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.objects import deployment, dind_spec, pod
from tests.unit.pod.test_corpus import patched

pytestmark = needs()

_CLASS = {"match": "kata*", "version": "4.1.0", "blockStorageClass": "fast-block"}
_POLICIES = {
    False: parse_policy({"runtimeClasses": [_CLASS]}),
    # Without root a disk has to be there already.
    True: parse_policy({"runtimeClasses": [_CLASS | {"emptyDir": "block-plain"}]}),
}
_KINDS = [kind for kind in DataRootKind if kind is not DataRootKind.VIRTIOFS]
_COMBINATIONS = [
    *((workload, kind, False) for workload, kind in itertools.product(Workload, _KINDS)),
    *((workload, DataRootKind.MEMORY, True) for workload in Workload),
    *((workload, DataRootKind.AUTO, True) for workload in Workload if workload is not Workload.STATEFULSET),
]


@pytest.mark.parametrize("sidecar", [False, True])
@pytest.mark.parametrize(("workload", "kind", "rootless"), _COMBINATIONS)
def test_what_is_rendered_is_accepted_and_left_alone(
    api: Client, namespace: str, kata_class: str, workload: Workload, kind: DataRootKind, rootless: bool, sidecar: bool
) -> None:
    has_client = sidecar or workload is Workload.JOB
    spec = RenderSpec(
        kind=kind,
        runtime_class=kata_class,
        workload=workload,
        namespace=namespace,
        sidecar_for="docker:29-cli" if has_client else "",
        rootless=rootless,
        cpu="2",
        memory="32Gi",
    )
    policy = _POLICIES[rootless]
    answer = api.create(render(spec, script=entrypoint_for_pods, policy=policy), dry_run=True)
    assert answer.accepted, answer.message
    (place,) = find_pods(answer.body)
    claims = place.claim_templates
    assert detect(place.pod, policy, claim_templates=claims).engines, "it is seen, and left alone for being well"
    assert repair(place.pod, policy, script=entrypoint_for_pods, claim_templates=claims).patch == ()


def test_the_script_of_a_pod_survives(api: Client, namespace: str, kata_class: str) -> None:
    sent = pod("survives", namespace, dind_spec(kata_class))
    sent = patched(sent, repair(sent, Policy(), script=entrypoint_for_pods).patch)
    (container,) = sent["spec"]["containers"]
    assert len(container["command"][2]) > 10_000
    created = api.create(sent)
    assert created.accepted, created.message
    (stored,) = api.read(sent)["spec"]["containers"]
    assert (stored["command"], stored.get("args"), stored["env"]) == (
        container["command"],
        container.get("args"),
        container["env"],
    )


def test_a_workload_is_patched_in_the_server_and_then_left_alone(api: Client, namespace: str, kata_class: str) -> None:
    sent = deployment("runner", namespace, dind_spec(kata_class))
    assert api.create(sent).accepted
    patch = patch_of(api.read(sent))
    answer = api.patch(sent, patch)
    assert answer.accepted, answer.message
    assert patch_of(api.read(sent)) == []
    assert answer.body["metadata"]["generation"] == 2
    # The same patch from the manifest that was sent, in which no defaults are.
    locally = patched(sent, patch_of(sent))
    (theirs,), (ours,) = (each["spec"]["template"]["spec"]["containers"] for each in (answer.body, locally))
    assert (theirs["command"], theirs["env"]) == (ours["command"], ours["env"])


def patch_of(item: dict[str, Any]) -> list[Any]:
    """Return what repairs an object, in its own pointers."""
    (place,) = find_pods(item)
    own, elsewhere = translate(place, repair(place.pod, Policy(), script=entrypoint_for_pods).patch)
    assert not elsewhere
    return list(own)
