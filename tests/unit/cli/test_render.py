"""`kata-dind render`: manifests for a new daemon, valid for a real API server, that need no repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from kata_dind.manifest import parse_yaml
from kata_dind.vocabulary import Workload
from tests.unit.cli.conftest import CommandLine, Outcome

_KINDS = {"pod": "Pod", "deployment": "Deployment", "statefulset": "StatefulSet", "job": "Job"}


def rendered(outcome: Outcome) -> dict[str, Any]:
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    [manifest] = parse_yaml(outcome.stdout)
    assert isinstance(manifest, dict)
    return manifest


def pod_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec if manifest["kind"] == "Pod" else spec["template"]["spec"]


@pytest.mark.parametrize("workload", [*Workload])
@pytest.mark.parametrize("more", [[], ["--sidecar"]])
@pytest.mark.parametrize("kind", ["loop", "memory", "auto"])
def test_each_workload_is_valid_and_needs_no_repair(
    cli: CommandLine, home: Path, workload: str, more: list[str], kind: str
) -> None:
    sizes = ["--memory", "40Gi"] if kind == "memory" else []
    outcome = cli(
        "render", "--kind", kind, "--workload", workload, "--runtime-class", "kata-qemu", "--size", "5G", *sizes, *more
    )
    manifest = rendered(outcome)
    assert manifest["kind"] == _KINDS[workload]
    kubernetes_validate.validate(manifest, "1.33", strict=True)
    spec = pod_spec(manifest)
    assert spec["runtimeClassName"] == "kata-qemu"
    assert ("initContainers" in spec) is (bool(more) or workload == "job")
    (home / "made.yaml").write_text(outcome.stdout)
    checked = cli("fix", "--check", str(home / "made.yaml"))
    assert (checked.exit_code, checked.stdout) == (0, "")
    [found] = json.loads(cli("fix", "--json", str(home / "made.yaml")).stdout)["pods"]
    assert [engine["program"] for engine in found["engines"]] == ["dockerd"]


def test_the_script_is_a_literal_block_and_parts_have_comments(cli: CommandLine) -> None:
    text = cli("render", "--kind", "loop", "--size", "50G", "--runtime-class", "kata-qemu").stdout
    assert "- |" in text
    assert "#!/bin/sh\n" in text
    assert "# The guest entrypoint prepares and proves the data root" in text
    assert "# Each pod gets a virtual machine" in text
    assert text.count("# Each pod gets a virtual machine") == 1
    before_script = text.partition("- /bin/sh")[0].splitlines()
    assert before_script[-3].strip().startswith("# The guest entrypoint prepares")


def test_what_is_asked_for_is_in_it(cli: CommandLine) -> None:
    argv = ["--image", "registry.example/docker:28-dind", "--name", "builder", "--namespace", "ci", "--cpus", "4"]
    manifest = rendered(cli("render", "--kind", "loop", "--memory", "8Gi", *argv))
    assert (manifest["metadata"]["name"], manifest["metadata"]["namespace"]) == ("builder", "ci")
    [container] = manifest["spec"]["containers"]
    assert container["image"] == "registry.example/docker:28-dind"
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}


def test_rootless_runs_without_root(cli: CommandLine) -> None:
    manifest = rendered(cli("render", "--rootless", "--kind", "memory", "--size", "2G", "--memory", "4Gi"))
    [container] = manifest["spec"]["containers"]
    assert "rootless" in container["image"]
    assert "/home/rootless/.local/share/docker" in json.dumps(manifest)


def test_json_is_the_same_manifest(cli: CommandLine) -> None:
    manifest = rendered(cli("render"))
    assert json.loads(cli("render", "-o", "json").stdout) == manifest
    assert json.loads(cli("render", "--json").stdout) == manifest


def test_what_a_class_or_a_user_can_not_have_is_refused_with_the_reason(cli: CommandLine) -> None:
    outcome = cli("render", "--rootless", "--kind", "loop")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("kata-dind: a daemon of the kind loop can't be had with the RuntimeClass kata\n")
    assert "does not run as root" in outcome.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--kind", "cloud"], "--kind: 'cloud' is not one of auto, memory"),
        (["--workload", "pods"], "--workload: 'pods' is not one of pod, deployment"),
        (["-o", "xml"], "--output: 'xml' is not one of yaml, json"),
        (["--size", "large"], "--size: "),
        (["--size", "1e9Gi"], "--size: "),
        (["--name", "Not A Name"], "--name: "),
        (["--namespace", "../x"], "--namespace: "),
        (["--image", "evil/docker:27-dind;rm -rf /"], "--image: "),
        (["--runtime-class", "Kata!"], "--runtime-class: "),
        (["--memory", "much"], "--memory: "),
        (["--cpus", "many"], "--cpus: "),
        (["--storage-class", "A B"], "--storage-class: "),
        (["--policy", "gone.yaml"], "gone.yaml: it cannot be read"),
    ],
)
def test_bad_input_is_told_in_one_line(cli: CommandLine, argv: list[str], said: str) -> None:
    outcome = cli("render", *argv)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"kata-dind: {said}")
    assert len([line for line in outcome.stderr.splitlines() if not line.startswith("hint: ")]) == 1
