"""Decisions: a review and a policy in, an answer out."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from kata_dind.errors import WebhookError
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import Script, repair
from kata_dind.pod.wrapper import wrapped_words
from kata_dind.webhook.decide import MOST_POD_BYTES, Decided, Decision, decide
from tests.unit.pod.checks import Json, dind, mount, pod
from tests.unit.webhook.reviews import UID, decided, patched, request

ROOTLESS = {"name": "dind", "image": "docker:27-dind-rootless"}
"""Without privileges and with a claim, it can't be repaired."""
DENY_UNREPAIRED = {"unrepaired": "deny"}


def unrepairable() -> Json:
    return pod(dind(), hostUsers=False)


def outcome(found: Decided) -> tuple[str, str, bool]:
    return found.decision.value, found.reason, found.response["allowed"]


def warnings_of(found: Decided) -> str:
    return " ".join(found.response.get("warnings", []))


def test_a_broken_pod_is_repaired() -> None:
    broken = pod(dind())
    found = decided(broken)
    assert outcome(found) == ("repaired", "root.on-share", True)
    assert (found.kind, found.runtime_class) == ("loop", "kata-qemu")
    assert found.response["uid"] == UID
    assert found.response["auditAnnotations"] == {"decision": "repaired", "reason": "root.on-share", "kind": "loop"}
    assert "warnings" not in found.response
    after = patched(broken, found.response)
    assert wrapped_words(after["spec"]["containers"][0]["command"]) is not None
    assert "loop: /var/lib/docker of dind" in after["metadata"]["annotations"]["kata-dind.io/repaired"]


@pytest.mark.parametrize("script", [entrypoint_for_pods, lambda _: 'echo "\t\u2028\0ä\\"\n' * 1000])
def test_a_patch_is_what_the_repair_says(script: Script) -> None:
    """Long texts in it are put in as JSON that is there already."""
    given = pod(dind())
    for _ in range(2):
        found = repair(given, Policy(), script=script)
        response = decide(request(given), Policy(), script=script).response
        written = json.dumps(found.patch, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(written) > 10_000
        assert base64.b64decode(response["patch"]) == written


def test_a_repaired_pod_is_found_intact() -> None:
    broken = pod(dind())
    again = decided(patched(broken, decided(broken).response))
    assert outcome(again) == ("unchanged", "intact", True)
    assert "patch" not in again.response


def test_a_container_that_another_webhook_added_is_repaired_the_second_time() -> None:
    broken = pod(dind())
    once = patched(broken, decided(broken).response)
    once["spec"]["initContainers"] = [{"name": "mesh", "image": "istio/proxyv2", "restartPolicy": "Always"}]
    once["spec"]["containers"].append(dind(name="second"))
    again = decided(once)
    assert outcome(again) == ("repaired", "root.on-share", True)
    twice = patched(once, again.response)
    assert twice["spec"]["containers"][0] == once["spec"]["containers"][0]
    assert outcome(decided(twice)) == ("unchanged", "intact", True)


def test_a_volume_that_another_webhook_took_away_is_given_back() -> None:
    broken = pod(dind())
    once = patched(broken, decided(broken).response)
    once["spec"]["volumes"] = []
    again = decided(once)
    assert outcome(again) == ("repaired", "root.on-share", True)
    twice = patched(once, again.response)
    assert [volume["name"] for volume in twice["spec"]["volumes"]] == ["kata-dind"]
    assert outcome(decided(twice)) == ("unchanged", "intact", True)


def test_an_annotation_of_ours_that_a_user_wrote_proves_nothing() -> None:
    found = decided(pod(dind(), annotations={"kata-dind.io/repaired": "0.1.0 loop: all is well"}))
    assert found.decision is Decision.REPAIRED


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (pod(dind(), runtimeClassName="runc"), "not-kata"),
        ({"metadata": {}, "spec": {"containers": [dind()]}}, "not-kata"),
        (pod({"name": "web", "image": "nginx"}), "no-daemon"),
        (pod(dind(), annotations={"kata-dind.io/repair": "false"}), "opted-out"),
        (pod(dind(), runtimeClassName="kata-remote"), "left-alone"),
        (
            pod(
                dind(volumeMounts=[mount("root")]),
                volumes=[{"name": "root", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}],
            ),
            "works",
        ),
        ({}, "not-kata"),
        ({"metadata": 1, "spec": []}, "not-kata"),
    ],
)
def test_what_needs_nothing_is_left_as_it_is_without_a_word(given: Json, reason: str) -> None:
    found = decided(given)
    assert outcome(found) == ("unchanged", reason, True)
    assert found.response == {"uid": UID, "allowed": True}


def test_a_pod_without_a_name_or_namespace_is_repaired() -> None:
    broken = pod(dind())
    broken["metadata"] = {"generateName": "runner-"}
    found = decided(broken, name="", namespace="ci")
    assert found.decision is Decision.REPAIRED
    assert patched(broken, found.response)["metadata"]["generateName"] == "runner-"


def test_a_pod_without_metadata_is_repaired() -> None:
    broken = {"spec": pod(dind())["spec"]}
    assert "annotations" in patched(broken, decided(broken).response)["metadata"]


def test_dry_run_makes_no_difference() -> None:
    assert decided(pod(dind()), dryRun=True) == decided(pod(dind()))


def test_what_is_not_repaired_is_admitted_with_a_warning() -> None:
    found = decided(unrepairable())
    assert found.decision is Decision.UNREPAIRED
    assert found.response["allowed"] is True
    assert "patch" not in found.response
    first = found.response["warnings"][0]
    assert first.startswith("kata-dind: did not repair this pod: ")
    assert found.response["auditAnnotations"]["reason"] == found.reason


def test_the_policy_may_be_silent_about_it_or_refuse_it() -> None:
    assert "warnings" not in decided(unrepairable(), {"unrepaired": "off"}).response
    found = decided(unrepairable(), DENY_UNREPAIRED)
    assert found.decision is Decision.DENIED
    assert found.response["allowed"] is False
    assert found.response["status"]["code"] == 403
    assert found.response["status"]["message"].startswith("The policy of kata-dind refuses this pod. ")
    assert "patch" not in found.response


def test_a_pod_that_is_repaired_in_part_keeps_the_repair_and_says_so() -> None:
    broken = pod(
        dind(), dind(name="own", volumeMounts=[mount("host")]), volumes=[{"name": "host", "hostPath": {"path": "/d"}}]
    )
    found = decided(broken)
    assert outcome(found) == ("unrepaired", "root.on-host", True)
    assert found.response["warnings"][0].startswith("kata-dind: repaired only a part of this pod: ")
    after = patched(broken, found.response)
    assert wrapped_words(after["spec"]["containers"][0]["command"]) is not None
    assert after["spec"]["containers"][1] == broken["spec"]["containers"][1]


def test_an_annotation_that_is_not_understood_is_told() -> None:
    found = decided(pod(dind(), annotations={"kata-dind.io/size": "much"}))
    assert found.decision is Decision.REPAIRED
    assert "The annotation kata-dind.io/size is 'much'" in warnings_of(found)
    found = decided(pod(dind(), annotations={"kata-dind.io/repair": "perhaps"}))
    assert outcome(found) == ("unrepaired", "annotation.repair", True)


@pytest.mark.parametrize("answer", ["off", "warn", "deny"])
def test_a_guard_does_what_it_is_switched_to(answer: str) -> None:
    found = decided(pod(dind(), runtimeClassName="runc"), {"guards": {"sharedKernel": answer}})
    expected = {
        "off": ("unchanged", "not-kata", True),
        "warn": ("unchanged", "not-kata", True),
        "deny": ("denied", "guard.shared-kernel", False),
    }
    assert outcome(found) == expected[answer]
    assert ("shares the kernel of the node" in warnings_of(found)) == (answer == "warn")


def test_a_guard_refuses_also_what_could_be_repaired() -> None:
    policy = {"runtimeClasses": [{"match": "kata*", "version": "3.20.0"}], "guards": {"noBoundary": "deny"}}
    found = decided(pod(dind(), runtimeClassName="kata-clh"), policy)
    assert outcome(found) == ("denied", "guard.no-boundary", False)


@pytest.mark.parametrize(
    "asked",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"operation": "CONNECT", "subResource": "exec"},
        {"subResource": "binding"},
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
        {"resource": {"group": "example.org", "version": "v1", "resource": "pods"}},
        {"operation": ""},
    ],
)
def test_anything_but_a_new_pod_is_admitted_and_the_registration_is_blamed(asked: Json) -> None:
    found = decided(pod(dind()), **asked)
    assert outcome(found) == ("unchanged", "not-a-new-pod", True)
    assert "patch" not in found.response
    assert "MutatingWebhookConfiguration" in warnings_of(found)


def test_a_creation_without_an_object_is_no_review() -> None:
    with pytest.raises(WebhookError) as caught:
        decided(None)
    assert caught.value.id == "review.no-object"


def with_ephemeral(*containers: Json) -> Json:
    return pod({"name": "web", "image": "nginx"}, ephemeralContainers=list(containers))


def updated(new: Json, old: Json, policy: Json | None = None) -> Decided:
    return decided(new, policy, operation="UPDATE", subResource="ephemeralcontainers", oldObject=old)


def test_an_ephemeral_container_with_docker_in_it_is_answered_by_a_warning() -> None:
    found = updated(with_ephemeral(dind(name="debug")), with_ephemeral())
    assert outcome(found) == ("unrepaired", "pod.ephemeral-container", True)
    assert "`debug` is an ephemeral container" in warnings_of(found)
    assert "patch" not in found.response
    # Even where the policy refuses what can't be repaired: people debug with these.
    assert updated(with_ephemeral(dind(name="debug")), with_ephemeral(), DENY_UNREPAIRED).response["allowed"]


def test_only_what_is_new_is_spoken_of() -> None:
    old = with_ephemeral(dind(name="debug"))
    new = with_ephemeral(dind(name="debug"), {"name": "shell", "image": "busybox"})
    assert outcome(updated(new, old)) == ("unchanged", "ephemeral-container", True)
    assert "warnings" not in updated(new, old).response


def test_guards_hold_for_ephemeral_containers() -> None:
    new = with_ephemeral(dind(name="debug"))
    new["spec"]["runtimeClassName"] = "runc"
    policy = {"guards": {"sharedKernel": "deny"}}
    assert outcome(updated(new, with_ephemeral(), policy)) == ("denied", "guard.shared-kernel", False)
    assert updated(new, new, policy).response["allowed"]


def large(spare: int) -> Json:
    """Return a broken pod to which so many bytes may be added."""
    made = pod(dind(env=[{"name": "BIG", "value": ""}]))
    made["spec"]["containers"][0]["env"][0]["value"] = "x" * (MOST_POD_BYTES - spare)
    return made


def test_a_pod_that_would_become_too_large_is_left_as_it_is() -> None:
    found = decided(large(600), request_bytes=MOST_POD_BYTES)
    assert outcome(found) == ("unrepaired", "pod.too-large", True)
    assert "patch" not in found.response
    assert "deliveryImage" in warnings_of(found)
    assert decided(large(60_000), request_bytes=MOST_POD_BYTES).decision is Decision.REPAIRED


def test_the_entrypoint_comes_from_an_image_where_it_would_make_the_pod_too_large() -> None:
    def long_script(_: Any) -> str:
        return "#!/bin/sh\n# kata-dind 0.1.0 guest entrypoint, interface 1, kind loop\n" + "true\n" * 8000

    from kata_dind.pod.policy import parse_policy
    from kata_dind.webhook.decide import decide
    from tests.unit.webhook.reviews import request

    policy = parse_policy({"deliveryImage": "registry.example/kata-dind:1"})
    given = large(20_000)
    found = decide(request(given), policy, script=long_script, request_bytes=MOST_POD_BYTES)
    assert found.decision is Decision.REPAIRED
    after = patched(given, found.response)
    assert after["spec"]["initContainers"][0]["image"] == "registry.example/kata-dind:1"


def test_a_pod_is_never_changed_in_place() -> None:
    given = pod(dind())
    before = copy.deepcopy(given)
    decided(given)
    assert given == before
