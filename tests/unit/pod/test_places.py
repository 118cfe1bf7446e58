"""Where pods are found, and how a pod's patch becomes the document's."""

from __future__ import annotations

import copy
import textwrap
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.manifest import read_documents
from kata_dind.pod.model import Operation, Place
from kata_dind.pod.places import config_maps_in, find_pods, translate

CONTAINERS = "[{name: dind, image: docker:27-dind}]"
TEMPLATE = f"{{metadata: {{labels: {{a: b}}}}, spec: {{runtimeClassName: kata, containers: {CONTAINERS}}}}}"


def read(text: str, name: str = "f.yaml") -> dict[str, Any]:
    (document,) = read_documents(textwrap.dedent(text), name)
    assert isinstance(document.data, dict)
    return document.data


def places(text: str, name: str = "f.yaml") -> list[Place]:
    return list(find_pods(read(text, name)))


def the_place(text: str, name: str = "f.yaml") -> Place:
    (found,) = places(text, name)
    return found


def names(place: Place, key: str = "containers") -> list[Any]:
    return [entry.get("name") for entry in place.pod["spec"].get(key, [])]


def in_document(place: Place, *pointer: str | int) -> str | None:
    """Return where a pointer of the pod lies in the document."""
    path = "".join(f"/{step}" for step in pointer)
    held, _left = translate(place, [{"op": "replace", "path": path, "value": None}])
    return held[0]["path"] if held else None


@pytest.mark.parametrize(
    ("kind", "spec", "pod_path"),
    [
        ("Pod", TEMPLATE[:-1].partition("spec: ")[2], ""),
        ("Deployment", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("StatefulSet", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("DaemonSet", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("ReplicaSet", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("ReplicationController", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("Job", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("CronJob", f"{{jobTemplate: {{spec: {{template: {TEMPLATE}}}}}}}", "/spec/jobTemplate/spec/template"),
        ("ScaledJob", f"{{jobTargetRef: {{template: {TEMPLATE}}}}}", "/spec/jobTargetRef/template"),
        ("Service", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("Sandbox", f"{{podTemplate: {TEMPLATE}}}", "/spec/podTemplate"),
        ("SandboxTemplate", f"{{podTemplate: {TEMPLATE}}}", "/spec/podTemplate"),
        ("AutoscalingRunnerSet", f"{{template: {TEMPLATE}}}", "/spec/template"),
        ("EphemeralRunnerSet", f"{{ephemeralRunnerSpec: {TEMPLATE}}}", "/spec/ephemeralRunnerSpec"),
        ("EphemeralRunner", TEMPLATE, "/spec"),
        ("Devbox", f"{{machine: {{parts: [{{}}, {{pod: {TEMPLATE}}}]}}}}", "/spec/machine/parts/1/pod"),
    ],
)
def test_a_pod_in_one_piece_is_found_with_its_metadata(kind: str, spec: str, pod_path: str) -> None:
    text = f"apiVersion: x.example/v1\nkind: {kind}\nmetadata: {{name: one, namespace: ns}}\nspec: {spec}\n"
    place = the_place(text)
    assert (place.kind, place.name, place.namespace) == (kind, "one", "ns")
    assert names(place) == ["dind"]
    assert place.pod["spec"]["runtimeClassName"] == "kata"
    assert in_document(place, "spec", "containers", 0, "image") == f"{pod_path}/spec/containers/0/image"
    assert in_document(place, "metadata") == f"{pod_path}/metadata"
    assert (place.made_by, place.incomplete) == ("", "")


def test_a_pod_template_holds_its_pod_at_the_top() -> None:
    place = the_place(f"{{apiVersion: v1, kind: PodTemplate, metadata: {{name: one}}, template: {TEMPLATE}}}")
    assert in_document(place, "spec") == "/template/spec"


def test_what_is_found_is_shared_with_the_document() -> None:
    document = read(f"{{apiVersion: v1, kind: Deployment, spec: {{template: {TEMPLATE}}}}}")
    (place,) = find_pods(document)
    assert place.pod is document["spec"]["template"]


def test_objects_in_a_list_have_their_own_kinds_and_names() -> None:
    item = f"{{apiVersion: v1, kind: Pod, metadata: {{name: NAME}}, spec: {{containers: {CONTAINERS}}}}}"
    found = places(f"{{apiVersion: v1, kind: List, items: [{item.replace('NAME', 'a')}, {item.replace('NAME', 'b')}]}}")
    assert [(place.kind, place.name) for place in found] == [("Pod", "a"), ("Pod", "b")]
    assert in_document(found[1], "spec", "volumes") == "/items/1/spec/volumes"


def test_claim_templates_are_those_of_the_object_around() -> None:
    claims = "volumeClaimTemplates: [{metadata: {name: data}}]"
    place = the_place(f"{{apiVersion: v1, kind: StatefulSet, spec: {{{claims}, template: {TEMPLATE}}}}}")
    assert place.claim_templates == ({"metadata": {"name": "data"}},)
    other = f"{{apiVersion: v1, kind: Pod, metadata: {{}}, spec: {{containers: {CONTAINERS}}}}}"
    found = places(
        f"{{apiVersion: v1, kind: List, items: ["
        f"{{apiVersion: v1, kind: StatefulSet, spec: {{{claims}, template: {TEMPLATE}}}}}, {other}]}}"
    )
    assert [len(place.claim_templates) for place in found] == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "{apiVersion: v1, kind: ConfigMap, data: {spec: {containers: [{name: a}]}}}",
        "{apiVersion: v1, kind: Service, spec: {ports: [{name: http}]}}",
        "{apiVersion: v1, kind: Pod, spec: {containers: []}}",
        "{apiVersion: v1, kind: Pod, spec: {containers: {name: dind}}}",
        "{apiVersion: v1, kind: Pod, spec: {containers: [dind, 3, null]}}",
        "{openAPIV3Schema: {properties: {containers: {items: {properties: {name: {type: string}}}}}}}",
    ],
)
def test_what_only_resembles_a_pod_is_none(text: str) -> None:
    assert places(text) == []


def test_a_pod_with_a_bad_container_among_others_is_one() -> None:
    assert len(places("{apiVersion: v1, kind: Pod, spec: {containers: [null, {image: docker:dind}]}}")) == 1


TASK_RUN = """
    apiVersion: tekton.dev/v1
    kind: TaskRun
    metadata: {generateName: build-, annotations: {kata-dind.io/repair: "true"}}
    spec:
      podTemplate:
        runtimeClassName: kata-qemu
        volumes: [{name: cache, emptyDir: {}}]
      taskSpec:
        stepTemplate:
          env: [{name: A, value: "1"}, {name: B, value: "2"}]
          securityContext: {runAsUser: 0}
        steps:
        - {name: build, image: docker:27-cli, script: "docker build .", env: [{name: B, value: "3"}]}
        sidecars:
        - {name: server, image: docker:27-dind, securityContext: {privileged: true}}
        volumes: [{name: certs, emptyDir: {}}]
"""


def test_a_task_run_has_its_class_from_the_template_and_its_containers_from_the_task() -> None:
    place = the_place(TASK_RUN)
    spec = place.pod["spec"]
    assert (place.kind, place.name, place.incomplete) == ("TaskRun", "build-", "")
    assert place.made_by == "Tekton makes a pod for each run of a task"
    assert spec["runtimeClassName"] == "kata-qemu"
    assert place.pod["metadata"]["annotations"] == {"kata-dind.io/repair": "true"}
    assert names(place) == ["build", "server"]
    assert [volume["name"] for volume in spec["volumes"]] == ["certs", "cache"]
    step = spec["containers"][0]
    assert step["command"] == ["/bin/sh", "-c", "docker build ."]
    assert step["securityContext"] == {"runAsUser": 0}
    assert step["env"] == [{"name": "B", "value": "3"}, {"name": "A", "value": "1"}]


def test_a_task_runs_patch_goes_where_each_part_stands() -> None:
    place = the_place(TASK_RUN)
    task = "/spec/taskSpec"
    assert in_document(place, "spec", "runtimeClassName") == "/spec/podTemplate/runtimeClassName"
    assert in_document(place, "spec", "containers", 1, "args") == f"{task}/sidecars/0/args"
    assert in_document(place, "spec", "containers", 0, "image") == f"{task}/steps/0/image"
    assert in_document(place, "spec", "containers", 0, "command", 2) == f"{task}/steps/0/script"
    assert in_document(place, "spec", "containers", 0, "env", 1, "value") == f"{task}/stepTemplate/env/0/value"
    assert in_document(place, "spec", "volumes", 1) == "/spec/podTemplate/volumes/0"
    for nowhere in (
        ("spec", "containers", 0, "command"),
        ("spec", "containers", 0, "securityContext"),
        ("spec", "hostname"),
    ):
        assert in_document(place, *nowhere) is None


def test_a_new_volume_of_a_task_run_becomes_the_tasks() -> None:
    volume = {"name": "new", "emptyDir": {}}
    patch: list[Operation] = [
        {"op": "add", "path": "/spec/volumes/-", "value": volume},
        {"op": "add", "path": "/spec/volumes/-", "value": {"name": "second"}},
    ]
    document = read(TASK_RUN)
    (place,) = find_pods(document)
    held, left = translate(place, patch)
    assert left == []
    assert [operation["path"] for operation in held] == ["/spec/taskSpec/volumes/-"] * 2
    # Without a list of the task's own, which is where it must go, since others share the template.
    del document["spec"]["taskSpec"]["volumes"]
    (place,) = find_pods(document)
    held, left = translate(place, patch)
    assert held == [
        {"op": "add", "path": "/spec/taskSpec/volumes", "value": [volume]},
        {"op": "add", "path": "/spec/taskSpec/volumes/-", "value": {"name": "second"}},
    ]
    patched = jsonpatch.apply_patch(document, held)
    (again,) = find_pods(patched)
    assert [entry["name"] for entry in again.pod["spec"]["volumes"]] == ["new", "second", "cache"]


def test_a_task_and_a_run_by_reference_are_incomplete() -> None:
    task = "{apiVersion: tekton.dev/v1, kind: Task, metadata: {name: t}, spec: {sidecars: %s, steps: []}}"
    place = the_place(task % CONTAINERS)
    assert names(place) == ["dind"]
    assert place.incomplete == (
        "Tekton makes a pod for each run of a task, and the runtime class is in the podTemplate of the run."
    )
    assert place.class_elsewhere
    run = the_place(
        "{apiVersion: tekton.dev/v1, kind: TaskRun, spec: {taskRef: {name: t}, podTemplate: {runtimeClassName: kata}}}"
    )
    assert run.pod["spec"] == {"runtimeClassName": "kata"}
    assert run.incomplete == "The steps and sidecars are in the Task t, not in this document."
    assert not run.class_elsewhere


def test_a_pipeline_run_has_a_pod_for_each_task_with_the_nearest_template() -> None:
    found = places("""
        apiVersion: tekton.dev/v1
        kind: PipelineRun
        metadata: {name: p}
        spec:
          taskRunTemplate: {podTemplate: {runtimeClassName: kata}}
          taskRunSpecs:
          - {pipelineTaskName: plain, podTemplate: {runtimeClassName: runc}}
          pipelineSpec:
            tasks:
            - {name: build, taskSpec: {steps: [{name: s, image: a}], sidecars: [{name: d, image: docker:dind}]}}
            - {name: plain, taskSpec: {steps: [{name: s, image: a}]}}
            finally:
            - {name: other, taskRef: {name: clean}}
    """)
    assert [place.pod["spec"]["runtimeClassName"] for place in found] == ["kata", "runc", "kata"]
    assert [bool(place.incomplete) for place in found] == [False, False, True]
    path = "/spec/pipelineSpec/tasks/0/taskSpec"
    assert in_document(found[0], "spec", "containers", 1, "image") == f"{path}/sidecars/0/image"
    assert in_document(found[0], "spec", "volumes") == f"{path}/volumes"
    assert in_document(found[0], "spec", "runtimeClassName") == "/spec/taskRunTemplate/podTemplate/runtimeClassName"


WORKFLOW = """
    apiVersion: argoproj.io/v1alpha1
    kind: Workflow
    metadata: {generateName: w-}
    spec:
      entrypoint: main
      podSpecPatch: '{"runtimeClassName": "kata-qemu", "containers": [{"name": "main", "stdin": true}]}'
      volumeClaimTemplates: [{metadata: {name: work}}]
      volumes: [{name: shared, emptyDir: {}}]
      templates:
      - name: main
        steps: [[{name: a, template: build}]]
      - name: build
        container: {image: docker:27-cli, command: [docker, info]}
        sidecars:
        - {name: dind, image: docker:27-dind, securityContext: {privileged: true}}
        volumes: [{name: own, emptyDir: {}}]
      - name: script
        podSpecPatch: |
          runtimeClassName: kata-clh
        script: {image: alpine, command: [sh], source: "dockerd &"}
"""


def test_argos_class_is_read_from_the_string() -> None:
    build, script = places(WORKFLOW)
    assert names(build) == ["main", "dind"]
    assert build.pod["spec"]["runtimeClassName"] == "kata-qemu"
    assert build.pod["spec"]["containers"][0]["stdin"] is True
    assert [volume["name"] for volume in build.pod["spec"]["volumes"]] == ["own", "shared"]
    assert build.claim_templates == ({"metadata": {"name": "work"}},)
    assert build.made_by == "Argo's workflow controller makes a pod for each step"
    assert script.pod["spec"]["runtimeClassName"] == "kata-clh"
    assert script.pod["spec"]["containers"][0]["command"] == ["/bin/sh", "-c", "dockerd &"]


def test_argos_patch_goes_to_the_template() -> None:
    build, script = places(WORKFLOW)
    assert in_document(build, "spec", "runtimeClassName") == "/spec/templates/1/podSpecPatch"
    assert in_document(build, "spec", "containers", 0, "stdin") is None
    assert in_document(build, "spec", "containers", 0, "image") == "/spec/templates/1/container/image"
    assert in_document(build, "spec", "containers", 1, "args") == "/spec/templates/1/sidecars/0/args"
    assert in_document(build, "spec", "volumes", 1) == "/spec/volumes/0"
    assert in_document(build, "metadata") == "/spec/templates/1/metadata"
    assert in_document(script, "spec", "containers", 0, "command", 2) == "/spec/templates/2/script/source"
    held, _ = translate(build, [{"op": "add", "path": "/spec/volumes/-", "value": {"name": "one"}}])
    assert held[0]["path"] == "/spec/templates/1/volumes/-"
    held, _ = translate(script, [{"op": "add", "path": "/spec/volumes/-", "value": {"name": "one"}}])
    assert held == [{"op": "add", "path": "/spec/templates/2/volumes", "value": [{"name": "one"}]}]


def test_single_fields_of_argos_pod_go_into_the_string_that_patches_it() -> None:
    build, script = places(WORKFLOW)
    grace: Operation = {"op": "add", "path": "/spec/terminationGracePeriodSeconds", "value": 60}
    shares: Operation = {"op": "add", "path": "/spec/securityContext/runAsUser", "value": 0}
    held, left = translate(build, [grace, shares])
    path = "/spec/templates/1/podSpecPatch"
    assert held == [{"op": "add", "path": path, "value": '{"terminationGracePeriodSeconds": 60}'}]
    assert left == [shares]
    patched = jsonpatch.apply_patch(read(WORKFLOW), held)
    again, _ = find_pods(patched)
    assert again.pod["spec"]["terminationGracePeriodSeconds"] == 60
    assert again.pod["spec"]["runtimeClassName"] == "kata-qemu"
    # YAML in the string is read, and left alone.
    assert translate(script, [grace]) == ([], [grace])


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [("WorkflowTemplate", "SPEC"), ("ClusterWorkflowTemplate", "SPEC"), ("CronWorkflow", "{workflowSpec: SPEC}")],
)
def test_argos_other_kinds_hold_the_same(kind: str, wrap: str) -> None:
    spec = wrap.replace("SPEC", f"{{podSpecPatch: 'runtimeClassName: kata', templates: [{{sidecars: {CONTAINERS}}}]}}")
    place = the_place(f"{{apiVersion: argoproj.io/v1alpha1, kind: {kind}, spec: {spec}}}")
    assert (place.kind, names(place), place.pod["spec"]["runtimeClassName"]) == (kind, ["dind"], "kata")


SCALE_SET = """
    githubConfigUrl: https://github.com/o/r
    containerMode: {type: dind}
    template:
      spec:
        runtimeClassName: kata-qemu
        containers:
        - {name: runner, image: ghcr.io/actions/actions-runner:latest}
"""


def test_arcs_values_get_the_daemon_that_the_chart_adds() -> None:
    place = the_place(SCALE_SET, "values.yaml")
    assert (place.kind, place.pod["spec"]["runtimeClassName"]) == ("", "kata-qemu")
    assert (names(place), names(place, "initContainers")) == (["runner"], ["dind"])
    assert the_place("containerMode: {type: dind}").incomplete == "", (
        "without a class of Kata's there is nothing to say"
    )
    assert place.made_by == "ARC's chart adds the container dind to the pods of this scale set"
    assert place.incomplete.startswith("The container dind isn't in these values")
    assert in_document(place, "spec", "initContainers", 0, "command") is None
    assert in_document(place, "spec", "containers", 0, "env") == "/template/spec/containers/0/env"


def test_a_helm_releases_values_are_read_as_such() -> None:
    text = textwrap.indent(textwrap.dedent(SCALE_SET), "    ")
    release = (
        f"apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: r}}\nspec:\n  values:\n{text}"
    )
    place = the_place(release)
    assert (place.kind, place.name, names(place, "initContainers")) == ("HelmRelease", "r", ["dind"])
    plain = the_place(
        f"{{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, spec: {{values: {{x: {TEMPLATE}}}}}}}"
    )
    assert plain.made_by == "Helm makes the pod of these values"


@pytest.mark.parametrize("field", ["valuesObject", "values"])
def test_an_argo_cd_applications_values_are_read(field: str) -> None:
    values = "\n".join(f"          {line}" for line in ("x:", "  spec:", "    containers: [{name: dind}]"))
    place = the_place(
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: a}\nspec:\n  source:\n    helm:\n"
        f"      {field}:{' |' if field == 'values' else ''}\n{values}\n"
    )
    assert (place.kind, place.name, names(place)) == ("Application", "a", ["dind"])
    held = in_document(place, "spec", "containers")
    assert held == (None if field == "values" else "/spec/source/helm/valuesObject/x/spec/containers")


def legacy(kind: str, settings: str, *, in_template: bool = True) -> Place:
    spec = f"{{template: {{spec: {{runtimeClassName: kata, {settings}}}}}}}"
    if not in_template:
        spec = f"{{{settings}, template: {{spec: {{runtimeClassName: kata}}}}}}"
    return the_place(
        f"{{apiVersion: actions.summerwind.dev/v1alpha1, kind: {kind}, metadata: {{name: r}}, spec: {spec}}}"
    )


def test_the_older_controller_adds_its_daemon_unless_told_not_to() -> None:
    place = legacy("RunnerDeployment", "repository: o/r, dockerVolumeMounts: [{name: d, mountPath: /var/lib/docker}]")
    assert names(place) == ["runner", "docker"]
    assert place.incomplete.startswith("The container docker isn't in this document")
    daemon = place.pod["spec"]["containers"][1]
    assert daemon["securityContext"] == {"privileged": True}
    assert daemon["volumeMounts"][-1] == {"name": "d", "mountPath": "/var/lib/docker"}
    assert in_document(place, "spec", "containers", 1, "volumeMounts", 3) == "/spec/template/spec/dockerVolumeMounts/0"
    assert in_document(place, "spec", "containers", 1, "command") is None
    assert "repository" not in place.pod["spec"]
    for told in ("dockerEnabled: false", "containerMode: kubernetes"):
        place = legacy("RunnerDeployment", told)
        assert (names(place), place.incomplete) == (["runner"], "")


def test_a_container_of_the_older_controller_is_completed() -> None:
    place = legacy("RunnerDeployment", "containers: [{name: docker, volumeMounts: [{name: d, mountPath: /d}]}]")
    daemon = place.pod["spec"]["containers"][0]
    assert (daemon["image"], daemon["securityContext"]) == ("docker:dind", {"privileged": True})
    assert daemon["volumeMounts"] == [{"name": "d", "mountPath": "/d"}]
    assert (
        in_document(place, "spec", "containers", 0, "volumeMounts") == "/spec/template/spec/containers/0/volumeMounts"
    )
    assert in_document(place, "spec", "containers", 0, "image") is None
    assert place.incomplete.startswith("The container docker is only in part in this document")


@pytest.mark.parametrize(("kind", "in_template"), [("RunnerDeployment", True), ("RunnerSet", False)])
def test_the_older_controllers_daemon_within_the_runner(kind: str, in_template: bool) -> None:
    place = legacy(kind, "dockerdWithinRunnerContainer: true", in_template=in_template)
    (runner,) = place.pod["spec"]["containers"]
    assert runner["image"] == "summerwind/actions-runner-dind:latest"
    assert place.incomplete.startswith("The daemon is started in the container runner")
    assert place.made_by == "Actions Runner Controller makes the runner's pod"


CONFIG = """
concurrent = 4
[[runners]]
  name = "k"
  executor = "kubernetes"
  environment = ["DOCKER_DRIVER=vfs"]
  [runners.kubernetes]
    namespace = "ci"
    privileged = true
    runtime_class_name = "kata"
    [[runners.kubernetes.services]]
      name = "docker:27-dind"
      alias = "docker"
      command = ["--mtu=1450"]
    [[runners.kubernetes.volumes.empty_dir]]
      name = "docker"
      mount_path = "/var/lib/docker"
      medium = "Memory"
    [[runners.kubernetes.volumes.pvc]]
      name = "cache"
      mount_path = "/cache"
[[runners]]
  name = "s"
  executor = "shell"
"""


@pytest.mark.parametrize("name", ["config.toml", "-"])
def test_gitlabs_runner_is_a_pod_with_the_services_that_are_named(name: str) -> None:
    place = the_place(CONFIG, name)
    spec = place.pod["spec"]
    assert (place.name, place.namespace, spec["runtimeClassName"]) == ("k", "ci", "kata")
    assert names(place) == ["build", "helper", "docker"]
    service = spec["containers"][2]
    assert (service["image"], service["args"]) == ("docker:27-dind", ["--mtu=1450"])
    assert service["securityContext"] == {"privileged": True}
    assert service["env"] == [{"name": "DOCKER_DRIVER", "value": "vfs"}]
    assert service["volumeMounts"][0] == {"name": "docker", "mountPath": "/var/lib/docker"}
    assert spec["volumes"] == [
        {"name": "docker", "emptyDir": {"medium": "Memory"}},
        {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}},
    ]
    assert place.made_by == "GitLab Runner makes a pod for each job"
    assert place.incomplete.startswith("GitLab Runner makes a pod for each job, and this file has no place for")
    without = the_place(CONFIG.replace("services", "other"), name)
    assert without.incomplete.startswith("The job names the images")
    assert in_document(place, "spec", "volumes") is None


def test_gitlabs_chart_values_hold_the_configuration_as_text() -> None:
    indented = textwrap.indent(CONFIG, "    ")
    place = the_place(f"runners:\n  config: |\n{indented}", "values.yaml")
    assert names(place) == ["build", "helper", "docker"]


def test_jenkins_pod_in_a_string_is_found_and_not_rewritten() -> None:
    place = the_place("""
        jenkins:
          clouds:
          - kubernetes:
              templates:
              - name: build
                yaml: |
                  spec:
                    runtimeClassName: kata
                    containers:
                    - {name: dind, image: docker:27-dind}
    """)
    assert names(place) == ["dind"]
    assert place.made_by == (
        "the manifest is text in the field jenkins.clouds.0.kubernetes.templates.0.yaml, which is not rewritten"
    )
    assert in_document(place, "spec", "containers") is None


def test_jenkins_template_joins_its_containers_and_the_yaml_beside_them() -> None:
    place = the_place("""
        jenkins:
          templates:
          - name: build
            containers:
            - {name: dind, image: docker:27-dind, privileged: true, args: "--mtu=1450 -D"}
            volumes:
            - emptyDirVolume: {memory: true, mountPath: /var/lib/docker}
            yaml: |
              spec:
                runtimeClassName: kata
                containers:
                - {name: dind, tty: true}
                - {name: jnlp}
    """)
    spec = place.pod["spec"]
    dind = spec["containers"][0]
    assert (names(place), spec["runtimeClassName"], dind["tty"]) == (["dind", "jnlp"], "kata", True)
    assert (dind["args"], dind["securityContext"]) == (["--mtu=1450", "-D"], {"privileged": True})
    assert dind["volumeMounts"] == [{"name": "volume-0", "mountPath": "/var/lib/docker"}]
    assert spec["volumes"] == [{"name": "volume-0", "emptyDir": {"medium": "Memory"}}]
    assert place.made_by == "Jenkins makes a pod of this template"
    assert in_document(place, "spec", "containers", 0, "args") is None


def test_a_text_in_a_text_is_read() -> None:
    place = the_place("""
        controller:
          configScripts:
            agents: |
              jenkins:
                templates:
                - yaml: |
                    spec: {runtimeClassName: kata, containers: [{name: dind, image: docker:dind}]}
                  # two lines
    """)
    assert place.made_by.startswith("the manifest is text in the field controller.configScripts.agents")


def test_jenkins_yaml_without_a_kind_is_a_pod() -> None:
    assert in_document(the_place(f"spec: {{containers: {CONTAINERS}}}"), "metadata") == "/metadata"


def test_buildkites_plugin_has_sidecars_beside_the_pod_spec() -> None:
    place = the_place("""
        steps:
        - plugins:
          - kubernetes:
              podSpec: {runtimeClassName: kata, containers: [{image: docker:cli}]}
              sidecars: [{image: docker:dind, command: [dockerd-entrypoint.sh]}]
    """)
    assert [container["image"] for container in place.pod["spec"]["containers"]] == ["docker:cli", "docker:dind"]
    at = "/steps/0/plugins/0/kubernetes"
    assert in_document(place, "spec", "containers", 1, "args") == f"{at}/sidecars/0/args"
    assert in_document(place, "spec", "volumes") == f"{at}/podSpec/volumes"
    assert place.incomplete == ""
    assert names(place) == ["container-0", "sidecar-0"]


def test_the_script_in_a_pipeline_of_buildkites_has_each_dollar_twice() -> None:
    # Its agent replaces `$NAME` in all of a pipeline, and `$$` is a dollar.
    plugin = "{sidecars: [{image: docker:dind, command: [run, $$HOME]}], podSpec: {containers: []}}"
    script = '#!/bin/sh\n# kata-dind 1 guest entrypoint, interface 1, loop\nrun "$@"\n'
    command = ["/bin/sh", "-c", script, "kata-dind", "run", "$$HOME"]
    patch: list[Operation] = [
        {"op": "replace", "path": "/spec/containers/0/command", "value": command},
        {"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "A", "value": "$B"}]},
        {"op": "remove", "path": "/spec/containers/0/args"},
    ]
    held, _ = translate(the_place(f"steps: [{{plugins: [{{kubernetes: {plugin}}}]}}]"), patch)
    doubled = script.replace("$", "$$")
    assert held[0]["value"] == ["/bin/sh", "-c", doubled, "kata-dind", "run", "$$HOME"]
    assert held[1]["value"] == [{"name": "A", "value": "$B"}]
    assert patch[0]["value"] == command
    held, _ = translate(the_place(f"config: {plugin}"), patch)
    assert held[0]["value"] == command


def test_what_has_fields_of_its_own_beside_a_spec_gets_no_metadata() -> None:
    job = "{always_run: true%s, spec: {containers: %s}}"
    place = the_place(f"presubmits: {{org/repo: [{job % ('', CONTAINERS)}]}}")
    assert in_document(place, "spec", "volumes") == "/presubmits/org~1repo/0/spec/volumes"
    assert in_document(place, "metadata", "annotations") is None
    place = the_place(f"job: {job % (', metadata: {}', CONTAINERS)}")
    assert in_document(place, "metadata", "annotations") == "/job/metadata/annotations"


def test_a_bare_pod_spec_has_no_place_for_metadata() -> None:
    place = the_place(f"agent: {{podTemplate: {{runtimeClassName: kata, containers: {CONTAINERS}}}}}")
    assert in_document(place, "spec", "volumes") == "/agent/podTemplate/volumes"
    assert in_document(place, "metadata", "annotations") is None


def test_an_entry_that_is_put_in_front_moves_the_others() -> None:
    document = read(TASK_RUN)
    (place,) = find_pods(document)
    held, left = translate(
        place,
        [
            {"op": "remove", "path": "/spec/volumes/0"},
            {"op": "add", "path": "/spec/volumes/0/name", "value": "was-second"},
        ],
    )
    assert left == []
    patched = jsonpatch.apply_patch(copy.deepcopy(document), held)
    assert patched["spec"]["podTemplate"]["volumes"] == [{"name": "was-second", "emptyDir": {}}]


def test_a_pointers_signs_are_kept() -> None:
    place = the_place(f"{{apiVersion: v1, kind: Pod, spec: {{containers: {CONTAINERS}}}}}")
    path = "/metadata/annotations/kata-dind.io~1repair~0"
    assert translate(place, [{"op": "add", "path": path, "value": ""}])[0][0]["path"] == path


def test_deep_and_cyclic_documents_end() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert list(find_pods(deep)) == []
    cyclic: dict[str, Any] = {"spec": {"containers": [{"name": "a"}]}}
    cyclic["again"] = cyclic
    assert len(list(find_pods(cyclic))) == 1


def test_aliases_that_multiply_are_walked_once() -> None:
    node: Any = {"x": "y"}
    for _ in range(60):
        node = [node, node]
    assert list(find_pods({"a": node})) == []
    pods: Any = {"spec": {"containers": [{"name": "a"}]}}
    for _ in range(60):
        pods = [pods, pods]
    assert len(list(find_pods({"a": pods}))) == 10_000


def test_config_maps_are_read_from_documents_and_lists() -> None:
    one = read("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {daemon.json: '{}', n: 1}}")
    listed = {"kind": "List", "items": [{"kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "v"}}, None]}
    assert config_maps_in([one, listed]) == {"a": {"daemon.json": "{}"}, "b": {"k": "v"}}


_WORDS = st.sampled_from(
    ["kind", "apiVersion", "metadata", "spec", "template", "containers", "initContainers", "sidecars", "steps",
     "volumes", "env", "podTemplate", "taskSpec", "taskRef", "tasks", "pipelineSpec", "taskRunTemplate", "taskRunSpecs",
     "script",
     "stepTemplate", "templates", "container", "podSpecPatch", "volumeClaimTemplates", "containerMode", "type", "yaml",
     "dockerVolumeMounts", "dockerEnv", "runners", "kubernetes", "services", "pod_spec", "values", "items", "podSpec"]
)  # fmt: skip
_TEXTS = st.sampled_from(
    ["dind", "", "spec:\n  containers: [{name: a}]\n", '{"a": 1}', "[runners.kubernetes]\na = 1\n"]
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=6),
    max_leaves=30,
)
_KINDS = st.sampled_from(["Pod", "TaskRun", "PipelineRun", "Task", "Workflow", "CronWorkflow", "RunnerSet", "Runner"])
_GROUPS = st.sampled_from(["v1", "tekton.dev/v1", "argoproj.io/v1alpha1", "actions.summerwind.dev/v1alpha1"])


@given(document=st.dictionaries(_WORDS, _ANYTHING), kind=_KINDS, group=_GROUPS, spec=st.dictionaries(_WORDS, _ANYTHING))
def test_values_of_any_type_anywhere_do_no_harm(
    document: dict[str, Any], kind: str, group: str, spec: dict[str, Any]
) -> None:
    document |= {"kind": kind, "apiVersion": group, "spec": spec | {"containers": [{"name": "a"}, spec]}}
    patch: list[Operation] = [
        {"op": "add", "path": "/spec/volumes/-", "value": {}},
        {"op": "remove", "path": "/spec/containers/0"},
        {"op": "add", "path": "/spec/terminationGracePeriodSeconds", "value": 3},
    ]
    for place in find_pods(document):
        held, left = translate(place, patch)
        assert len(held) + len(left) == len(patch)
        assert all(isinstance(entry, dict) for entry in place.claim_templates)
