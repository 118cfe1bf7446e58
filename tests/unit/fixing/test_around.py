"""What else lies in a file: which of it a pod of a namespace may mount, and that this is worked out once."""

from __future__ import annotations

from typing import Any

import pytest

from kata_dind.fixing.around import Around, around_with
from kata_dind.fixing.mend import Mender
from kata_dind.pod.policy import Policy


def config_map(name: str, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"kind": "ConfigMap", "metadata": metadata, "data": {"key": name}}


def test_a_pod_reaches_what_is_in_its_namespace_or_names_none() -> None:
    around = around_with([config_map("own", "a"), config_map("other", "b"), config_map("any")], None)
    reached = {namespace: set(around.config_maps_of(namespace)) for namespace in ("a", "b", "c", "")}
    assert reached == {"a": {"own", "any"}, "b": {"other", "any"}, "c": {"any"}, "": {"own", "other", "any"}}


def test_thousands_of_pods_do_not_gather_thousands_of_objects_each() -> None:
    around = around_with([config_map("own", "a"), config_map("any")], None)
    assert around.config_maps_of("a") is around.config_maps_of("a")
    assert around.claims_of("") is around.claims_of("")
    assert around.config_maps_of("c") is around.config_maps_of("d")


# --- Tekton: the sidecars stand in a Task, the class in a run of it

SIDECAR = {"name": "dind", "image": "docker:28-dind", "securityContext": {"privileged": True}}
TASK = {
    "apiVersion": "tekton.dev/v1",
    "kind": "Task",
    "metadata": {"name": "build"},
    "spec": {"steps": [{"name": "b", "image": "docker:28-cli"}], "sidecars": [SIDECAR]},
}
STEP = {"name": "t", "taskRef": {"name": "build"}}
PIPELINE = {"kind": "Pipeline", "metadata": {"name": "p"}, "spec": {"tasks": [STEP]}}
KATA = {"runtimeClassName": "kata-qemu"}


def run(kind: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"generateName": "r-"}, "spec": spec}


@pytest.mark.parametrize(
    "runs",
    [
        [run("TaskRun", taskRef={"name": "build"}, podTemplate=KATA)],
        [run("TaskRun", taskRef={"name": "build"}), run("TaskRun", taskRef={"name": "build"}, podTemplate=KATA)],
        [PIPELINE, run("PipelineRun", pipelineRef={"name": "p"}, taskRunTemplate={"podTemplate": KATA})],
        [PIPELINE, run("PipelineRun", pipelineRef={"name": "p"}, podTemplate=KATA)],
        [
            PIPELINE,
            run(
                "PipelineRun",
                pipelineRef={"name": "p"},
                taskRunSpecs=[{"pipelineTaskName": "t", "podTemplate": KATA}],
                taskRunTemplate={"podTemplate": {"runtimeClassName": "runc"}},
            ),
        ],
        [run("PipelineRun", pipelineSpec=PIPELINE["spec"], podTemplate=KATA)],
    ],
)
def test_a_task_has_the_class_of_a_run_beside_it(runs: list[dict[str, Any]]) -> None:
    (pod,) = Mender(Policy()).pods(TASK, around=around_with(runs, None))
    assert pod.detection.runtime_class == "kata-qemu"
    assert {operation["path"].split("/")[2] for operation in pod.patch} == {"sidecars", "volumes"}
    assert [finding.id for finding in pod.findings] == ["root.on-share"]


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [run("TaskRun", taskRef={"name": "lint"}, podTemplate=KATA)],
        [run("TaskRun", taskRef={"name": "build", "kind": "ClusterTask"}, podTemplate=KATA)],
        [PIPELINE, run("PipelineRun", pipelineRef={"name": "q"}, podTemplate=KATA)],
        [
            PIPELINE,
            run(
                "PipelineRun", pipelineRef={"name": "p"}, taskRunSpecs=[{"pipelineTaskName": "u", "podTemplate": KATA}]
            ),
        ],
        [run("TaskRun", taskRef={"name": "build"}, podTemplate={"nodeSelector": {"a": "b"}})],
        [run("TaskRun", taskRef=["build"], podTemplate="kata"), {"kind": "PipelineRun", "spec": None}],
    ],
)
def test_a_task_without_a_run_of_its_own_has_no_class(runs: list[dict[str, Any]]) -> None:
    (pod,) = Mender(Policy()).pods(TASK, around=around_with(runs, None))
    assert pod.detection.runtime_class == ""
    assert "pod.incomplete" in {finding.id for finding in pod.findings}


def test_volumes_of_a_run_are_seen_and_not_written_into_the_task() -> None:
    mount = {"name": "graph", "mountPath": "/var/lib/docker"}
    task = {**TASK, "spec": {**TASK["spec"], "sidecars": [{**SIDECAR, "volumeMounts": [mount]}]}}  # type: ignore[dict-item]
    for source, is_good in (({"emptyDir": {"medium": "Memory"}}, True), ({"emptyDir": {}}, False)):
        template = {**KATA, "volumes": [{"name": "graph", **source}]}
        around = around_with([run("TaskRun", taskRef={"name": "build"}, podTemplate=template)], None)
        (pod,) = Mender(Policy()).pods(task, around=around)
        assert [root.outcome for root in pod.detection.engines[0].roots] == ["works" if is_good else "slow"]
        assert pod.patch == ()
        assert [finding.id for finding in pod.findings] == ([] if is_good else ["root.on-share", "pod.made-elsewhere"])


def test_a_place_that_is_whole_stays_as_it_is() -> None:
    around = Around()
    pods = Mender(Policy()).pods({"kind": "Pod", "spec": {**KATA, "containers": [SIDECAR]}}, around=around)
    assert pods[0].patch
