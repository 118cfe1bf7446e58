"""Pods through a real API server that asks the real webhook: created, and read back."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kata_dind.pod.places import find_pods
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair
from kata_dind.vocabulary import FailurePolicy
from scripts import build_kube
from tests.kube.balancer import start_balancer
from tests.kube.client import Answer, Client
from tests.kube.injector import Inject, docker, mesh, no_volumes, start_injector, steps
from tests.kube.installing import HOOKS
from tests.kube.needs import needs
from tests.kube.objects import dind_spec, pod
from tests.kube.registered import configuration_of, is_repaired, registered
from tests.kube.server import ApiServer
from tests.kube.test_corpus import Object, as_sent, each_file, objects_of, surroundings
from tests.unit.pod.cases import read_corpus
from tests.unit.pod.test_corpus import patched, script
from tests.webhook.pairs import Mounted, Pair, make_pair
from tests.webhook.process import Webhook, start_webhook

pytestmark = needs("kubectl")
__all__ = ["surroundings"]

UNREPAIRABLE = dind_spec(hostUsers=False)
UNREPAIRABLE["containers"][0].pop("securityContext")
SECONDS = 60


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    directory = tmp_path_factory.mktemp("pairs")
    return [make_pair(directory) for _ in range(2)]


@pytest.fixture(scope="module")
def webhook(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """One that no test harms."""
    with start_webhook(tmp_path_factory.mktemp("webhook"), pairs[0]) as started:
        yield started
        assert started.events("bug") == []


@pytest.fixture
def repairing(api: Client, namespace: str, kata_class: str, webhook: Webhook, pairs: list[Pair]) -> Iterator[str]:
    """A namespace whose pods are repaired."""
    with registered(api, namespace, configuration_of(webhook.port, pairs[0].certificate)):
        yield namespace


def created(api: Client, item: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    answer = api.create(item, **options)
    assert answer.accepted, answer.message
    return answer.body


def without_own(item: Object) -> Any:
    """Return what users care for in a pod: neither its namespace nor what the server makes anew for each."""
    return {"annotations": item["metadata"].get("annotations"), "spec": item["spec"]}


@each_file()
def test_the_pods_of_the_corpus_come_out_as_by_fix(api: Client, namespace: str, repairing: str, file: str) -> None:
    """Each pod is created as its controller would, beside one that is repaired by hand where nobody asks us."""
    seen: Counter[str] = Counter()
    plain = "default"
    for case in read_corpus():
        if case.file != file or case.policy:
            continue
        for item in objects_of(case):
            if not api.serves(item):
                continue
            for place in find_pods(item):
                sent = as_a_pod(place.pod, plain)
                before = api.create(sent, dry_run=True)
                if not before.accepted:
                    continue
                mended = repair(before.body, Policy(), script=script)
                by_hand = as_sent(patched(before.body, mended.patch))
                expected = created(api, by_hand, dry_run=True)
                found = created(api, as_a_pod(place.pod, repairing), dry_run=True)
                assert without_own(found) == without_own(expected), case.name
                seen["repaired" if mended.patch else "left"] += 1
    assert seen or file.startswith(("charts", "gitlab-")), "no pod without a policy of its own"


def as_a_pod(given: Any, namespace: str) -> dict[str, Any]:
    kept = {key: value for key, value in (given.get("metadata") or {}).items() if key in {"labels", "annotations"}}
    metadata = {**kept, "name": "of-the-corpus", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": given.get("spec")}


def test_a_stored_pod_is_read_back_repaired(api: Client, repairing: str) -> None:
    item = pod("stored", repairing, dind_spec())
    created(api, item)
    stored = api.read(item)
    assert is_repaired(stored)
    assert repair(stored, Policy(), script=script).patch == ()


def test_a_dry_run_is_answered_like_any_other_and_stores_nothing(api: Client, repairing: str, webhook: Webhook) -> None:
    item = pod("dry", repairing, dind_spec())
    assert is_repaired(created(api, item, dry_run=True))
    assert api.request("GET", f"/api/v1/namespaces/{repairing}/pods/dry").status == 404
    lines = [each for each in webhook.events("review") if each.get("name") == "dry"]
    assert [line["dry_run"] for line in lines] == [True]


def test_a_pod_whose_name_the_server_makes_is_repaired(api: Client, repairing: str, webhook: Webhook) -> None:
    item = pod("", repairing, dind_spec(), generateName="made-")
    del item["metadata"]["name"]
    assert is_repaired(created(api, item))
    assert [each for each in webhook.events("review") if str(each.get("name")).startswith("made-")]


def test_a_pod_of_another_class_is_not_even_asked_about(api: Client, repairing: str, webhook: Webhook) -> None:
    spec = dind_spec()
    del spec["runtimeClassName"]
    assert not is_repaired(created(api, pod("other", repairing, spec), dry_run=True))
    assert not [each for each in webhook.events("review") if each.get("name") == "other"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("inject", [mesh, steps, docker, no_volumes])
def test_beside_another_webhook_the_pod_ends_repaired(
    api: Client, repairing: str, pairs: list[Pair], tmp_path: Path, inject: Inject, first: bool
) -> None:
    """Webhooks are called in the order of their configurations' names; ours again where the other changed the pod."""
    with start_injector(tmp_path, pairs[1], inject) as port:
        other = configuration_of(port, pairs[1].certificate)
        mine = api.read(namespace_of(repairing))["metadata"]["labels"]["kata-dind.io/test"]
        other["metadata"]["name"] = f"{'a' if first else 'z'}-injector"
        other["webhooks"][0]["name"] = "injector.example.com"
        other["webhooks"][0]["namespaceSelector"]["matchLabels"] = {"kata-dind.io/test": mine}
        other["webhooks"][0]["reinvocationPolicy"] = "Never"
        created(api, other)
        try:
            marked = functools.partial(created, api, pod("probe", repairing, dind_spec()), dry_run=True)
            api.wait_until(lambda: is_called(marked(), inject))
            found = marked()
        finally:
            api.delete(other)
    assert is_repaired(found)
    assert repair(found, Policy(), script=script).patch == ()
    names = [each["name"] for each in [*found["spec"].get("initContainers", ()), *found["spec"]["containers"]]]
    assert len(names) == len(set(names))


def is_called(item: Mapping[str, Any], inject: Inject) -> bool:
    traces: dict[Inject, str] = {mesh: "istio-proxy", steps: "tekton-internal-bin", docker: "injected-dind"}
    if inject is no_volumes:  # it leaves no trace where we come last
        time.sleep(1.5)
        return True
    return traces[inject] in json.dumps(item["spec"])


def namespace_of(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


class Creating:
    """Pods are created, for nothing, by several users at once until the end of the block."""

    def __init__(self, server: ApiServer, namespace: str, spec: dict[str, Any], users: int = 4) -> None:
        self.answers: list[Answer] = []
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._create, args=(server, pod(f"load-{number}", namespace, spec)))
            for number in range(users)
        ]

    def _create(self, server: ApiServer, item: dict[str, Any]) -> None:
        with server.client() as client:
            while not self._ends.is_set():
                self.answers.append(client.create(item, dry_run=True))

    def __enter__(self) -> Creating:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        wanted = len(self.answers) + count
        Client.wait_until(lambda: len(self.answers) >= wanted, timeout_seconds=120)

    @property
    def failures(self) -> list[str]:
        """What was refused, or admitted without a repair."""
        return [each.message for each in self.answers if not each.accepted or not is_repaired(each.body)]


def test_certificates_are_rotated_under_load(
    api: Client, api_server: ApiServer, namespace: str, kata_class: str, pairs: list[Pair], tmp_path: Path
) -> None:
    """As `webhook certs` does it: first the server knows both authorities, then the certificate changes."""
    with start_webhook(tmp_path, pairs[0]) as own:
        configuration = configuration_of(own.port, pairs[0].certificate)
        with registered(api, namespace, configuration), Creating(api_server, namespace, dind_spec()) as creating:
            creating.wait_for(50)
            bundle = base64.b64encode(pairs[0].certificate + pairs[1].certificate).decode()
            path = "/webhooks/0/clientConfig/caBundle"
            assert api.patch(configuration, [{"op": "replace", "path": path, "value": bundle}]).accepted
            creating.wait_for(100)
            own.tls.swap(pairs[1].files)
            own.wait_for_event("certificate-reloaded")
            creating.wait_for(100)
            bundle = base64.b64encode(pairs[1].certificate).decode()
            assert api.patch(configuration, [{"op": "replace", "path": path, "value": bundle}]).accepted
            creating.wait_for(100)
        assert creating.failures == []


def test_a_policy_changes_under_load(
    api: Client, api_server: ApiServer, namespace: str, kata_class: str, pairs: list[Pair], tmp_path: Path
) -> None:
    policy = Mounted(tmp_path / "policy", {"policy.yaml": b"unrepaired: warn\n"})
    with start_webhook(tmp_path, pairs[0], "--policy", str(policy / "policy.yaml")) as own:
        configuration = configuration_of(own.port, pairs[0].certificate)
        refused = pod("refused", namespace, UNREPAIRABLE)
        with registered(api, namespace, configuration), Creating(api_server, namespace, dind_spec()) as creating:
            assert api.create(refused, dry_run=True).accepted
            policy.swap({"policy.yaml": b"unrepaired: deny\n"})
            own.wait_for_event("policy-reloaded")
            answer = api.create(refused, dry_run=True)
            assert answer.status == 403
            assert 'admission webhook "pods.kata-dind.io" denied the request: The policy of kata-dind' in answer.message
            policy.swap({"policy.yaml": b"unrepaired: perhaps\n"})
            own.wait_for_event("policy-kept")
            assert api.create(refused, dry_run=True).status == 403
            creating.wait_for(100)
        assert creating.failures == []


@pytest.mark.parametrize("policy", FailurePolicy)
def test_without_a_webhook_the_failure_policy_decides(
    api: Client, namespace: str, kata_class: str, pairs: list[Pair], policy: FailurePolicy
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens
        configuration = configuration_of(silent.getsockname()[1], pairs[0].certificate, failure_policy=policy)
        item = pod("down", namespace, dind_spec())
        with registered(api, namespace, configuration, answers=False):
            if policy is FailurePolicy.FAIL:
                api.wait_until(lambda: not api.create(item, dry_run=True).accepted)
                assert 'failed calling webhook "pods.kata-dind.io"' in api.create(item, dry_run=True).message
            else:
                time.sleep(2)
                assert not is_repaired(created(api, item, dry_run=True))


def test_a_replica_that_ends_takes_no_pod_with_it(
    api: Client, api_server: ApiServer, namespace: str, kata_class: str, pairs: list[Pair], tmp_path: Path
) -> None:
    """Of two behind one address, one is told to end while pods are created, as in a rollout or a drain of its node."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        start_webhook(tmp_path / "one", pairs[0]) as one,
        start_webhook(tmp_path / "two", pairs[0]) as two,
        start_balancer([one.port, two.port]) as balancer,
        registered(api, namespace, configuration_of(balancer.port, pairs[0].certificate)),
    ):
        with Creating(api_server, namespace, dind_spec(), users=6) as creating:
            creating.wait_for(100)
            os.kill(one.process.pid, signal.SIGTERM)
            time.sleep(1)  # so long a cluster takes to learn of it
            balancer.remove(one.port)
            assert one.process.ended(within_seconds=20)
            creating.wait_for(100)
        assert one.process.returncode() == 0
        assert len(one.events("review")) > 10 < len(two.events("review"))
        assert creating.failures == []


@pytest.mark.parametrize(
    ("policy", "ask_again"), [(FailurePolicy.FAIL, False), (FailurePolicy.IGNORE, False), (FailurePolicy.IGNORE, True)]
)
def test_a_replica_that_is_killed_takes_pods_with_it_as_the_failure_policy_says(
    api: Client,
    api_server: ApiServer,
    namespace: str,
    kata_class: str,
    pairs: list[Pair],
    tmp_path: Path,
    policy: FailurePolicy,
    ask_again: bool,
    record_property: Callable[[str, object], None],
) -> None:
    """The server repeats no call: a review whose connection breaks, or can't be made, is a call that failed.

    But where it calls a second webhook of the configuration, too, the other replica answers about most of these pods.
    """
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    wishes: dict[str, Any] = {"failure_policy": policy, "ask_again": ask_again}
    with (
        start_webhook(tmp_path / "one", pairs[0]) as one,
        start_webhook(tmp_path / "two", pairs[0]) as two,
        start_balancer([one.port, two.port]) as balancer,
        registered(api, namespace, configuration_of(balancer.port, pairs[0].certificate, **wishes)),
    ):
        missed = {name: failed_open(api, name) for name in HOOKS}
        with Creating(api_server, namespace, dind_spec(), users=6) as creating:
            creating.wait_for(100)
            assert creating.failures == []
            balancer.choose_by_chance()
            os.kill(one.process.pid, signal.SIGKILL)
            time.sleep(1)  # so long a cluster takes to learn of it
            balancer.remove(one.port)
            creating.wait_for(20)  # for what was asked before that
            count = len(creating.answers)
            creating.wait_for(100)
        assert min(len(each.events("review")) for each in (one, two)) > 10
        assert all(each.accepted and is_repaired(each.body) for each in creating.answers[count:])
        failed = [each for each in creating.answers if not each.accepted]
        unrepaired = [each for each in creating.answers if each.accepted and not is_repaired(each.body)]
        first, again = (failed_open(api, name) - missed[name] for name in HOOKS)
        counts = {"refused": len(failed), "unrepaired": len(unrepaired), "first missed": first, "again missed": again}
        record_property("killed", counts)
        assert all('failed calling webhook "pods.kata-dind.io"' in each.message for each in failed)
        if policy is FailurePolicy.FAIL:
            assert (unrepaired, first, again) == ([], 0, 0)
            assert failed, "one of six users was being answered"
        else:
            assert failed == []
            assert first > 0, "one of six users was being answered"
            assert len(unrepaired) <= (again if ask_again else first)


def failed_open(api: Client, name: str) -> int:
    """Return how many pods the server has admitted although the call of a webhook failed."""
    metrics = api.request("GET", "/metrics").body["message"]
    found = re.search(rf'webhook_fail_open_count\{{name="{re.escape(name)}",type="admit"\}} (\d+)', metrics)
    return int(found[1]) if found else 0


def test_the_second_call_repairs_what_the_first_has_missed(
    api: Client, namespace: str, kata_class: str, webhook: Webhook, pairs: list[Pair]
) -> None:
    configuration = configuration_of(webhook.port, pairs[0].certificate, failure_policy=FailurePolicy.IGNORE)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens
        first, _ = configuration["webhooks"]
        first["clientConfig"]["url"] = f"https://127.0.0.1:{silent.getsockname()[1]}/mutate"
        with registered(api, namespace, configuration):
            found = created(api, pod("missed", namespace, dind_spec()))
    assert repair(found, Policy(), script=script).patch == ()
    assert [each["decision"] for each in webhook.events("review") if each.get("name") == "missed"] == ["repaired"]


@pytest.mark.parametrize(("policy", "calls"), [(FailurePolicy.IGNORE, 2), (FailurePolicy.FAIL, 1)])
def test_the_second_call_is_about_pods_that_are_not_repaired(
    api: Client, namespace: str, kata_class: str, webhook: Webhook, pairs: list[Pair], policy: FailurePolicy, calls: int
) -> None:
    configuration = configuration_of(webhook.port, pairs[0].certificate, failure_policy=policy)
    plain = {"runtimeClassName": kata_class, "containers": [{"name": "a", "image": "busybox"}]}
    pods = {"dind": (dind_spec(), {}), "plain": (plain, {}), "noted": (plain, {"example.com/a": "b"})}
    with registered(api, namespace, configuration):
        for name, (spec, annotations) in pods.items():
            created(api, pod(f"{policy}-{name}".lower(), namespace, spec, annotations=annotations))
    reviews = [each for each in webhook.events("review") if str(each.get("name")).startswith(f"{policy}-".lower())]
    reasons = {name: [each["reason"] for each in reviews if each["name"].endswith(name)] for name in pods}
    assert reasons == {"dind": ["root.on-share"], "plain": ["no-daemon"] * calls, "noted": ["no-daemon"] * calls}


@pytest.mark.parametrize(("size", "repaired"), [(1_400_000, True), (1_470_000, True), (1_500_000, False)])
def test_a_pod_near_the_size_limit_is_stored(api: Client, repairing: str, size: int, repaired: bool) -> None:
    spec = dind_spec()
    spec["containers"][0]["env"] = [{"name": "LARGE", "value": "x" * size}]
    stored = created(api, pod(f"large-{size}", repairing, spec))
    assert is_repaired(stored) is repaired


@pytest.fixture
def kubectl(api_server: ApiServer, tmp_path: Path, namespace: str) -> Any:
    config = api_server.kubeconfig(tmp_path / "kubeconfig", context="real", namespace=namespace)
    program = build_kube.require_program("kubectl")

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"KUBECONFIG": str(config), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        argv = [str(program), *words]
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
        )

    return run


def test_kubectl_shows_why_a_pod_is_not_repaired(kubectl: Any, repairing: str) -> None:
    done = kubectl("apply", "-f", "-", text=json.dumps(pod("warned", repairing, UNREPAIRABLE)))
    assert done.returncode == 0, done.stderr
    assert "Warning: kata-dind: did not repair this pod: " in done.stderr
    done = kubectl("apply", "-f", "-", text=json.dumps(pod("silent", repairing, dind_spec())))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_of_both_calls_is_shown_once(
    api: Client, kubectl: Any, namespace: str, kata_class: str, webhook: Webhook, pairs: list[Pair]
) -> None:
    configuration = configuration_of(webhook.port, pairs[0].certificate, failure_policy=FailurePolicy.IGNORE)
    with registered(api, namespace, configuration):
        done = kubectl("apply", "-f", "-", text=json.dumps(pod("warned", namespace, UNREPAIRABLE)))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning: kata-dind: did not repair this pod: ") == 1
    asked = [each["decision"] for each in webhook.events("review") if each.get("name") == "warned"]
    assert asked[-2:] == ["unrepaired"] * 2


def test_an_ephemeral_container_is_answered_by_a_warning(api: Client, kubectl: Any, repairing: str) -> None:
    created(api, pod("debugged", repairing, dind_spec()))
    done = kubectl("debug", "debugged", "--image=docker:27-dind", "--profile=sysadmin", "--container=debugger")
    assert done.returncode == 0, done.stderr
    assert "Warning: kata-dind: `debugger` is an ephemeral container" in done.stderr
