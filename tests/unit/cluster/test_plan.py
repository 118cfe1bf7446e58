"""Plans: the files are pinned. kata-deploy's own chart (4.1.0) was rendered with these values, and took them."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from kata_dind.cluster.needs import NEEDS, NEWEST, needs_of, parse_version, written
from kata_dind.cluster.plan import DISTRIBUTIONS, files_of, plan_cluster, plan_in_words, steps
from kata_dind.errors import SpecError
from kata_dind.pod.handlers import KATA_4_1_CLASSES, runtime_of
from kata_dind.pod.policy import EmptyDirMode, parse_policy

VALUES = """\
# Values of kata-deploy's chart, version 4.1.0. What is not here keeps its default.
k8sDistribution: k3s
customRuntimes:
  enabled: true
  runtimes:
    kata-dind:
      baseConfig: qemu-runtime-rs
      dropIn: |
        [runtime]
        emptydir_mode = "block-plain"
      runtimeClass: |
        apiVersion: node.k8s.io/v1
        kind: RuntimeClass
        metadata:
          name: kata-dind
          labels:
            app.kubernetes.io/managed-by: kata-deploy
        handler: kata-dind
        overhead:
          podFixed:
            memory: 320Mi
            cpu: 250m
        scheduling:
          nodeSelector:
            katacontainers.io/kata-runtime: "true"
"""

POLICY = """\
# `kata-dind policy check FILE` explains it; `kata-dind policy show` has all fields.
runtimeClasses:
- match: kata-dind
  handler: kata-qemu-runtime-rs
  version: "4.1.0"
  emptyDir: block-plain
- match: kata
- match: kata-*
  version: "4.1.0"
"""


def files(**options: object) -> dict[str, str]:
    return {file.name: file.text for file in files_of(plan_cluster(**options))}  # type: ignore[arg-type]


def test_the_values_of_the_chart() -> None:
    assert files(distribution="k3s")["kata-deploy-values.yaml"] == VALUES


def test_the_policy_tells_what_the_class_can_do() -> None:
    text = files()["policy.yaml"]
    assert text == POLICY
    runtime = runtime_of("kata-dind", {}, parse_policy(yaml.safe_load(text)))
    assert runtime is not None
    assert (runtime.empty_dir, runtime.version, runtime.left_alone) == (EmptyDirMode.BLOCK_PLAIN, (4, 1, 0), "")


def test_each_handler_gets_a_class() -> None:
    made = plan_cluster(handlers=["qemu-runtime-rs", "kata-clh-runtime-rs", "qemu-runtime-rs"])
    assert [each.as_fields() for each in made.classes] == [
        {"name": "kata-dind", "handler": "kata-dind", "builds_on": "qemu-runtime-rs", "block_plain": True},
        {
            "name": "kata-dind-clh-runtime-rs",
            "handler": "kata-dind-clh-runtime-rs",
            "builds_on": "clh-runtime-rs",
            "block_plain": True,
        },
    ]
    classes = list(yaml.safe_load_all(files(handlers=["qemu-runtime-rs", "clh-runtime-rs"])["runtimeclasses.yaml"]))
    assert [each["overhead"]["podFixed"]["memory"] for each in classes] == ["320Mi", "130Mi"]


def test_the_chart_reads_the_handler_from_a_line_of_its_own() -> None:
    """It looks for a line that begins with `handler:`, and takes the rest of it as it stands."""
    runtimes = yaml.safe_load(files()["kata-deploy-values.yaml"])["customRuntimes"]["runtimes"]
    lines = [line.strip() for line in runtimes["kata-dind"]["runtimeClass"].splitlines()]
    assert [line for line in lines if line.startswith("handler:")] == ["handler: kata-dind"]
    assert tomllib.loads(runtimes["kata-dind"]["dropIn"]) == {"runtime": {"emptydir_mode": "block-plain"}}


@pytest.mark.parametrize(
    ("version", "values"),
    [
        ("3.31.0", {"k8sDistribution": "k8s", "shims": {"qemu": {"enabled": True}}}),
        ("3.20", {"k8sDistribution": "k8s"}),
    ],
)
def test_before_kata_4_there_are_kata_s_own_classes(version: str, values: dict[str, object]) -> None:
    found = files(version=version)
    assert yaml.safe_load(found["kata-deploy-values.yaml"]) == values
    assert yaml.safe_load(found["runtimeclasses.yaml"])["metadata"]["name"] == "kata-qemu"
    assert "block-plain" not in "".join(found.values())
    assert "kata-dind fix" in str(steps(plan_cluster(version=version)))
    parse_policy(yaml.safe_load(found["policy.yaml"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": "2.5"}, "--kata-version: '2.5' is not a version of Kata from 3.0.0 on"),
        ({"version": "new"}, "--kata-version: 'new'"),
        ({"handlers": ["qemuu"]}, "--handler: Kata has no handler 'qemuu'; it has "),
        ({"handlers": ["stratovirt"]}, "--handler: Kata has no handler 'stratovirt'"),
        ({"handlers": ["qemu-snp"]}, "--handler: qemu-snp is confidential"),
        ({"handlers": ["fc"]}, "--handler: fc shares no directories"),
        ({"handlers": ["openvmm-azure-runtime-rs"]}, "--handler: openvmm-azure-runtime-rs can't plug a disk"),
        ({"distribution": "minikube"}, "--distribution: 'minikube' is not one of k8s, k3s"),
    ],
)
def test_what_does_not_work_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_cluster(**options)  # type: ignore[arg-type]
    assert said in caught.value.summary


def test_every_class_of_the_chart_is_planned_or_refused_with_a_reason() -> None:
    planned = []
    for name in KATA_4_1_CLASSES:
        try:
            planned.append(plan_cluster(handlers=[name]).classes[0].shim)
        except SpecError as error:
            assert "has no handler" not in error.summary
    assert {"qemu", "qemu-runtime-rs", "clh", "clh-runtime-rs", "dragonball", "qemu-nvidia-gpu"} <= set(planned)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_steps_name_the_files_where_they_are(distribution: str) -> None:
    made = plan_cluster(distribution=distribution)
    text = plan_in_words(made, "/srv/plan")
    assert "--values /srv/plan/kata-deploy-values.yaml" in text
    assert "--version 4.1.0" in text
    for file in files_of(made):
        assert file.name in text


@pytest.mark.parametrize("version", ["4.1.0", "3.31.0"])
def test_the_webhook_is_installed_with_the_plan_s_policy(version: str) -> None:
    commands = [each for _, some in steps(plan_cluster(version=version), "plan") for each in some]
    (installs,) = [each for each in commands if "kubectl apply" in each and "webhook manifest" in each]
    assert "--create-namespace --policy plan/policy.yaml" in installs


def test_the_trial_is_on_the_class_and_its_data_root_a_disk() -> None:
    pod = yaml.safe_load(files()["trial.yaml"])
    assert pod["spec"]["runtimeClassName"] == "kata-dind"
    assert pod["spec"]["volumes"] == [{"name": "docker", "emptyDir": {}}]


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((4, 1, 0), ["block-plain"]),
        ((4, 0, 0), ["block-plain"]),
        ((3, 31, 0), ["no block-plain"]),
        ((3, 30, 0), ["no block-plain", "GHSA-2gv2-cffp-j227", "GHSA-rr59-xxvx-96qr"]),
        (
            (3, 13, 0),
            ["no block-plain", "#10808", *["GHSA"] * 3, "ip6tables", "br_netfilter", "kubectl exec"],
        ),
    ],
)
def test_what_a_version_needs(version: tuple[int, int, int], words: list[str]) -> None:
    found = needs_of(version)
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))


def test_each_need_is_a_sentence_of_a_span() -> None:
    assert all(need.what.endswith(".") and need.what[0].islower() for need in NEEDS)
    assert all(need.before is None or need.since < need.before for need in NEEDS)
    assert needs_of(NEWEST)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("4.1.0", (4, 1, 0)),
        ("v1.37.2", (1, 37, 2)),
        ("1.37", (1, 37, 0)),
        ("1.31.4+k3s1", (1, 31, 4)),
        ("4.2.0-rc0", (4, 2, 0)),
        ("latest", None),
        ("", None),
        ("4", None),
        ("4.1.0.1", None),
        ("99999.1", None),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version
    assert version is None or parse_version(written(version)) == version
