"""What the chart and the manifest install, run by a cluster: controllers, a scheduler, kubelet, and our own image.

The commands are those of docs/install-webhook.md. Programs, arguments, rights and volumes of each pod are the chart's,
and nothing is done for it. Other tests run the same programs as processes, which takes less time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kata_dind.pod.annotations import REPAIRED
from scripts import build_helm, build_kube
from scripts.build_wheels import REPOSITORY
from tests import requirements
from tests.kube.chart import needs_helm
from tests.kube.client import Client
from tests.kube.cluster import PROGRAMS, start_cluster, wait_until
from tests.kube.docker_pods import SIZE_MIB, check_docker, dind
from tests.kube.installing import CONFIGURATION, HOOKS, SECRET, in_namespace
from tests.kube.needs import needs
from tests.kube.node import Node, NodeNotReady
from tests.kube.objects import dind_spec, pod
from tests.kube.pod_images import NodeImages
from tests.kube.running import END_SECONDS, started, wait_until_nothing_is_left
from tests.kube.test_webhook import Creating, failed_open
from tests.own_image import own_image_archive
from tests.vm.driver import KATA_DIND

_IS_BUILT = build_helm.find_helm() and all(map(build_kube.find_program, PROGRAMS))
# Measured on two busy cores: four minutes for the image, and four for the rest.
pytestmark = [
    pytest.mark.slow(minutes=12 if _IS_BUILT else 40),
    *needs(*PROGRAMS),
    *needs_helm(),
    pytest.mark.requires("mmdebstrap"),
    pytest.mark.timeout(3600),
]

PAGE = (REPOSITORY / "docs" / "install-webhook.md").read_text(encoding="utf-8")
NAMESPACE = "kata-dind"
IMAGE = "registry.example/kata-dind:0.1.0"
INSTALL = "helm install kata-dind deploy/helm/kata-dind --namespace kata-dind --create-namespace"
STATUS = "kubectl --namespace kata-dind rollout status deployment/kata-dind"
MANIFEST = "kata-dind webhook manifest"
_NO_IMAGE = {"ErrImagePull", "ImagePullBackOff"}

_FACTS = """
import json, os
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
    return ""
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "ids": status["Uid"].split() + status["Gid"].split(), "no new privileges": status["NoNewPrivs"],
    "seccomp": status["Seccomp"], "root": refused("/file"), "tmp": refused("/tmp/file"),
    "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "keys": sorted(name for name in os.listdir("/etc/kata-dind/tls") if not name.startswith(".")),
    "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
}))
"""


def commands() -> set[str]:
    """Return the page's commands, each on a line."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return {line.removeprefix("$ ") for line in lines if line.startswith("$ ")}


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, private_directories: Path) -> Iterator[Node]:
    """A cluster whose node has our image, as if it were in a registry."""
    directory = private_directories / "cluster"
    directory.mkdir(mode=0o711)
    with contextlib.ExitStack() as stack:
        try:
            node = stack.enter_context(start_cluster(directory))
        except NodeNotReady as error:
            requirements.refuse(request.config, "kubelet", str(error))
        place = directory / "image"
        place.mkdir()
        archive = own_image_archive(IMAGE, directory=place)
        node.load_image(archive)
        archive.unlink()
        yield node


@pytest.fixture
def api(cluster: Node) -> Iterator[Client]:
    with cluster.server.client() as client:
        yield client


@pytest.fixture
def reader(cluster: Node, api: Client, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who types what the page says; a test that fails leaves nothing to the next one."""
    reader = Reader(cluster, api, tmp_path)
    yield reader
    reader.runs("helm uninstall kata-dind --namespace kata-dind --ignore-not-found")
    reader.runs(f"{MANIFEST} | kubectl delete --ignore-not-found -f -")
    reader.runs("kubectl delete namespace kata-dind --ignore-not-found")


class Reader:
    """Somebody at a terminal."""

    def __init__(self, node: Node, api: Client, directory: Path) -> None:
        self.node = node
        self.api = api
        self._objects, self._traces = api.inventory(), node.traces()
        (directory / "pod.yaml").write_text(json.dumps(pod("mine", "ci", dind_spec())), encoding="utf-8")
        (directory / "deploy").symlink_to(REPOSITORY / "deploy")
        programs = {
            "kubectl": str(build_kube.require_program("kubectl")),
            "helm": str(build_helm.require_helm()),
            "kata-dind": shlex.join(KATA_DIND),
        }
        functions = "; ".join(f'{name}() {{ {argv} "$@"; }}' for name, argv in programs.items())
        self._before = f"cd {directory}; {functions}; "

    def types(self, command: str) -> str:
        """Run a command of the page, and return what it prints."""
        assert command in commands(), command
        return self.runs(command)

    def runs(self, command: str) -> str:
        """Run any command."""
        return self.node.succeed("bash", "-euo", "pipefail", "-c", self._before + command, timeout_seconds=400)

    def pods(self, component: str = "webhook") -> list[dict[str, Any]]:
        """Return the pods of a component."""
        path, label = f"/api/v1/namespaces/{NAMESPACE}/pods", f"app.kubernetes.io/component={component}"
        return list(self.api.request("GET", path, labelSelector=label).body["items"])

    def is_repaired(self) -> bool:
        """Tell whether a pod that is created would be repaired."""
        answer = self.api.create(pod("probe", "ci", dind_spec()), dry_run=True)
        assert answer.accepted, answer.message
        return REPAIRED in answer.body["metadata"].get("annotations", {})

    def waits_until_repaired(self) -> None:
        """Wait until the API server has learnt of the webhooks, or of their authority."""
        wait_until(self.is_repaired, self.describe)

    def authorities(self) -> tuple[set[str], str]:
        """Return whom the API server trusts, and the authority in the Secret."""
        bundles = {each["clientConfig"].get("caBundle", "") for each in self.api.read(CONFIGURATION)["webhooks"]}
        data = self.api.read(in_namespace(SECRET, NAMESPACE)).get("data") or {}
        return bundles, data.get("ca.crt", "")

    def sees_that_nothing_is_left(self) -> None:
        """Wait until cluster and node have what they had before."""
        wait_until(
            lambda: self.api.inventory() == self._objects,
            lambda: f"left in the cluster: {sorted(self.api.inventory() ^ self._objects)}",
        )
        wait_until_nothing_is_left(self.node.traces, self._traces, timeout_seconds=END_SECONDS)

    def describe(self) -> str:
        """Say what is known of the pods."""
        names = f"--namespace={NAMESPACE}"
        said = self.node.kubectl("describe", "pods,jobs,events", names).stdout
        logs = self.node.kubectl("logs", names, "--selector=app.kubernetes.io/part-of!=x", "--prefix", "--tail=50")
        return f"{said}\n{logs.stdout}{logs.stderr}"


def check_rights(reader: Reader) -> None:
    """Check what the processes of the webhooks may do, who they are, and what of the Secret they have."""
    wait_until(lambda: not any("deletionTimestamp" in each["metadata"] for each in reader.pods()), reader.describe)
    for each in reader.pods():
        name = each["metadata"]["name"]
        argv = ["exec", f"--namespace={NAMESPACE}", name, "--", "/usr/bin/python3", "-I", "-c", _FACTS]
        done = reader.node.kubectl(*argv)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "ids": ["65532"] * 8,
            "no new privileges": "1",
            "seccomp": "2",
            "root": "Read-only file system",
            "tmp": "Read-only file system",
            "capabilities": [0] * 4,
            "keys": ["tls.crt", "tls.key"],
            "token": False,
        }


def check_certificates(reader: Reader) -> None:
    """Check that the job has run, and that the API server trusts the authority that it made."""
    (bundles, authority), (job,) = reader.authorities(), reader.pods("certs")
    assert bundles == {authority}
    assert base64.b64decode(authority).startswith(b"-----BEGIN CERTIFICATE-----")
    assert job["status"]["phase"] == "Succeeded"


def check_docker_in_a_pod(reader: Reader, images: NodeImages) -> None:
    """Check that Docker works in a pod that somebody creates."""
    with started(reader.node, dind(images.dind("20.10"), size=f"{SIZE_MIB}Mi")) as running:
        assert "loop" in running.read()["metadata"]["annotations"][REPAIRED]
        running.wait_until_ready()
        assert running.succeed("docker info --format '{{.Driver}}'").strip() == "overlay2"
        check_docker(running)
    # The server closes what was idle for minutes, while the image was made; the next request opens it again.
    reader.api.close()


@contextlib.contextmanager
def counted(reader: Reader) -> Iterator[dict[str, int]]:
    """Create pods, for nothing, and count what was refused, what was not repaired, and which calls failed."""
    counts: dict[str, int] = {}
    missed = {name: failed_open(reader.api, name) for name in HOOKS}
    with Creating(reader.node.server, "ci", dind_spec(), users=4) as creating:
        creating.wait_for(50)
        yield counts
        creating.wait_for(50)
    refused = [each.message for each in creating.answers if not each.accepted]
    counts |= {name: failed_open(reader.api, name) - missed[name] for name in HOOKS}
    counts |= {"refused": len(refused), "unrepaired": len(creating.failures) - len(refused)}
    counts |= {"pods": len(creating.answers)}


def check_rollout(reader: Reader) -> dict[str, int]:
    """Check that no call fails while all webhooks are replaced."""
    before = {each["metadata"]["name"] for each in reader.pods()}
    with counted(reader) as counts:
        reader.runs("kubectl --namespace kata-dind rollout restart deployment/kata-dind")
        reader.types(STATUS)
        wait_until(lambda: not before & {each["metadata"]["name"] for each in reader.pods()}, reader.describe)
    assert {name: count for name, count in counts.items() if count} == {"pods": counts["pods"]}
    return counts


def restarts(each: Mapping[str, Any]) -> int:
    """Return how often a pod's container was started again."""
    (status,) = each["status"]["containerStatuses"]
    return int(status["restartCount"])


def check_killed(reader: Reader) -> dict[str, int]:
    """Check what becomes of pods while one of two webhooks is killed, and is started again by kubelet."""
    serving = [pid for pid, line in reader.node.namespaces.processes().items() if "webhook serve" in line]
    assert len(serving) == 2
    with counted(reader) as counts:
        os.kill(serving[0], signal.SIGKILL)
        wait_until(lambda: [restarts(each) for each in reader.pods()] in ([0, 1], [1, 0]), reader.describe)
        reader.types(STATUS)
    assert counts["refused"] == 0
    assert counts["unrepaired"] <= counts[HOOKS[1]]
    return counts


def test_a_reader_installs_uses_upgrades_and_removes_the_chart(
    reader: Reader, cluster: Node, tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, Any], None]
) -> None:
    reader.types(f"{INSTALL} --set image.repository=registry.example/kata-dind")
    assert "successfully rolled out" in reader.types(STATUS)
    check_certificates(reader)
    check_rights(reader)
    assert re.search(r"Phase: +Succeeded", reader.types("helm test kata-dind --namespace kata-dind"))
    assert f"{REPAIRED}:" in reader.types("kubectl create --dry-run=server -o yaml -f pod.yaml")
    check_docker_in_a_pod(reader, NodeImages(cluster, tmp_path_factory.mktemp("images")))
    record_property("rollout", check_rollout(reader))
    record_property("killed", check_killed(reader))

    reader.types("kubectl delete mutatingwebhookconfiguration kata-dind")
    wait_until(lambda: not reader.is_repaired(), reader.describe)
    reader.types("helm upgrade kata-dind deploy/helm/kata-dind --namespace kata-dind --reset-then-reuse-values")
    assert reader.authorities()[0] == {""}
    reader.types("kubectl --namespace kata-dind create job --from=cronjob/kata-dind-certs kata-dind-certs-now")
    reader.waits_until_repaired()
    reader.types("helm uninstall kata-dind --namespace kata-dind")
    reader.types("kubectl delete namespace kata-dind")
    reader.sees_that_nothing_is_left()


def test_a_reader_applies_the_manifest_changes_and_removes_it(reader: Reader) -> None:
    reader.types(f"{MANIFEST} --create-namespace | kubectl apply -f -")
    # Nobody has this image, and the job's pod, whose Secret the others wait for, is the first to miss it.
    wait_until(lambda: {_waits_for(each) for each in reader.pods("certs")} & _NO_IMAGE != set(), reader.describe)
    reader.runs(f"{MANIFEST} --image {IMAGE} | kubectl apply -f -")
    assert "successfully rolled out" in reader.types(STATUS)
    reader.waits_until_repaired()
    check_rights(reader)
    reader.runs(f"{MANIFEST} --image {IMAGE} --replicas 1 | kubectl apply -f -")
    wait_until(lambda: len(reader.pods()) == 1, reader.describe)
    assert reader.is_repaired()
    reader.types(f"{MANIFEST} | kubectl delete --ignore-not-found -f -")
    reader.types("kubectl --namespace kata-dind delete jobs --selector app.kubernetes.io/component=certs")
    reader.types("kubectl delete namespace kata-dind")
    reader.sees_that_nothing_is_left()


def _waits_for(each: Mapping[str, Any]) -> str:
    (status,) = each["status"].get("containerStatuses") or [{}]
    return str(status.get("state", {}).get("waiting", {}).get("reason", ""))
