"""Which pods a real API server asks the webhook about.

Nobody answers at the webhook's address, and the failure policy is Fail. So a pod that the server asks about is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kata_dind.pod.policy import parse_policy
from kata_dind.vocabulary import FailurePolicy
from kata_dind.webhook.manifest import Installation, objects
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.objects import dind_spec, namespace_named, pod, runtime_class

pytestmark = needs()

_NUMBERS = itertools.count(1)
_CLASSES = ("kata", "kata-qemu", "kata-old", "kata-b1", "kata1", "vm.1", "vm-1", "gvisor", "akata", "k")

Asked = Callable[[dict[str, Any]], bool]


@pytest.fixture
def classes(api: Client) -> tuple[str, ...]:
    """RuntimeClasses of Kata's and of others."""
    api.make(*map(runtime_class, _CLASSES))
    return _CLASSES


@contextlib.contextmanager
def configured(api: Client, namespace: str, policy: dict[str, Any]) -> Iterator[Asked]:
    """Let the server ask about the pods of a namespace by a policy, and yield a function that tells whether it does."""
    installation = Installation(parse_policy(policy), policy_text="", failure_policy=FailurePolicy.FAIL)
    configuration = next(item for item in objects(installation) if item["kind"].startswith("Mutating"))
    marked = f"asked-{next(_NUMBERS)}"
    (webhook,) = configuration["webhooks"]
    configuration["metadata"]["name"] = marked
    webhook["clientConfig"] = {"url": "https://127.0.0.1:1/mutate"}
    webhook["namespaceSelector"]["matchLabels"] = {"kata-dind.io/test": marked}
    # One that asks about a pod by its name alone, which tells when the server knows the configuration.
    ready = {**webhook, "name": "ready.kata-dind.io", "matchConditions": [_named("is-it-ready")]}
    configuration["webhooks"].append(ready)
    labels = {"metadata": {"labels": {"kata-dind.io/test": marked}}}
    api.merge(namespace_named(namespace), labels)
    made = api.create(configuration)
    assert made.accepted, made.message

    def asked(item: dict[str, Any]) -> bool:
        return is_asked(api, item)

    try:
        api.wait_until(lambda: asked(pod("is-it-ready", namespace, {"containers": [{"name": "a", "image": "a"}]})))
        yield asked
    finally:
        api.delete(configuration)


def _named(name: str) -> dict[str, str]:
    return {"name": "name", "expression": f"object.metadata.?name.orValue('') == '{name}'"}


def is_asked(api: Client, item: dict[str, Any]) -> bool:
    """Tell whether the server asks before it makes an object."""
    answer = api.create(item, dry_run=True)
    if answer.accepted:
        return False
    assert "failed calling webhook" in answer.message, answer.message
    return True


@pytest.mark.parametrize(
    ("rules", "kata"),
    [
        ([{"match": "kata"}, {"match": "kata-*"}], {"kata", "kata-qemu", "kata-old", "kata-b1"}),
        ([{"match": "kata-old", "kata": False}, {"match": "kata-*"}], {"kata-qemu", "kata-b1"}),
        ([{"match": "kata-[a-c]?"}, {"match": "vm.1"}], {"kata-b1", "vm.1"}),
        ([{"match": "kata?"}], {"kata1"}),
        ([{"match": "kata-[!a-p]*"}], {"kata-qemu"}),
        ([{"match": "gvisor", "kata": False}, {"match": "*"}], {*_CLASSES, ""} - {"gvisor"}),
        ([{"match": "k[z-a]"}], {*_CLASSES, ""}),
        ([{"match": "gvisor", "kata": False}], set()),
    ],
)
def test_pods_of_katas_classes_are_asked_about_and_no_others(
    api: Client, namespace: str, classes: tuple[str, ...], rules: list[dict[str, Any]], kata: set[str]
) -> None:
    with configured(api, namespace, {"runtimeClasses": rules}) as asked:
        found = {name for name in classes if asked(pod("dind", namespace, dind_spec(name)))}
        without = dind_spec()
        del without["runtimeClassName"]
        assert found | ({""} if asked(pod("dind", namespace, without)) else set()) == kata


def test_a_policy_of_any_kind_gives_a_condition_that_the_server_takes(
    api: Client, namespace: str, classes: tuple[str, ...]
) -> None:
    chance = random.Random(7)
    signs = ["kata", "-", "vm", ".", "1", "*", "?", "[a-c]", "[!0-9x]", "[c-a]", "[", "]", "'", "\\", "_"]
    for _ in range(12):
        rules = [
            {"match": "".join(chance.choices(signs, k=chance.randint(1, 4))), "kata": chance.random() < 0.6}
            for _ in range(chance.randint(1, 40))
        ]
        policy = parse_policy({"runtimeClasses": rules})
        with configured(api, namespace, {"runtimeClasses": rules}) as asked:
            for name in classes:
                if policy.class_of(name):
                    assert asked(pod("dind", namespace, dind_spec(name))), (rules, name)


def test_a_guard_of_pods_without_a_vm_asks_about_all(api: Client, namespace: str, classes: tuple[str, ...]) -> None:
    with configured(api, namespace, {"guards": {"sharedKernel": "deny"}}) as asked:
        assert asked(pod("dind", namespace, dind_spec("gvisor")))


def test_a_label_takes_a_pod_or_a_namespace_out(api: Client, namespace: str, kata_class: str) -> None:
    disabled = {"kata-dind.io/webhook": "disabled"}
    with configured(api, namespace, {}) as asked:
        assert asked(pod("dind", namespace, dind_spec(), labels={"kata-dind.io/webhook": "enabled"}))
        assert not asked(pod("dind", namespace, dind_spec(), labels=disabled))
        api.merge(namespace_named(namespace), {"metadata": {"labels": disabled}})
        api.wait_until(lambda: not asked(pod("dind", namespace, dind_spec())))


@pytest.mark.parametrize("excluded", ["kube-system", "kata-dind"])
def test_its_own_pods_and_those_of_the_system_come_up_without_it(api: Client, kata_class: str, excluded: str) -> None:
    api.make(namespace_named(excluded))
    with configured(api, "default", {}) as asked:
        labels = api.read(namespace_named("default"))["metadata"]["labels"]
        mark = {"kata-dind.io/test": labels["kata-dind.io/test"]}
        api.merge(namespace_named(excluded), {"metadata": {"labels": mark}})
        assert asked(pod("dind", "default", dind_spec()))
        assert not asked(pod("dind", excluded, dind_spec()))
    for name in (excluded, "default"):
        api.merge(namespace_named(name), {"metadata": {"labels": {"kata-dind.io/test": None}}})


def test_of_a_pod_that_is_there_only_a_new_ephemeral_container_is_asked_about(
    api: Client, namespace: str, classes: tuple[str, ...]
) -> None:
    mine, other = (pod(name, namespace, dind_spec(name)) for name in ("kata-qemu", "gvisor"))
    api.make(mine, other)
    debugger = {"spec": {"ephemeralContainers": [{"name": "debugger", "image": "docker:28-dind"}]}}
    with configured(api, namespace, {}):
        api.merge(mine, {"metadata": {"labels": {"a": "b"}}})
        with pytest.raises(AssertionError, match="failed calling webhook"):
            api.merge(mine, debugger, strategic=True, part="ephemeralcontainers")
        api.merge(other, debugger, strategic=True, part="ephemeralcontainers")
        api.delete(mine)
        api.delete(other)
