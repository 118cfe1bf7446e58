"""Tekton: the class stands in a run's podTemplate, the steps and sidecars in the task that is embedded in it.

A Task or a Pipeline alone has no class, a run that refers to a task has no containers: their pods are incomplete,
unless the run lies beside the task that it refers to, which then gets the class of its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import items, mapping, text

_MADE_BY = "Tekton makes a pod for each run of a task"
_BY_NAME = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists of stepTemplate that are merged into a step's, with the key that tells entries apart."""

_Source = tuple[Any, Pointer]


def tekton_pods(document: Mapping[Any, Any], pointer: Pointer) -> Iterator[Place]:
    """Yield the pod of each task in a TaskRun, PipelineRun, Task or Pipeline."""
    spec, at = mapping(document.get("spec")), (*pointer, "spec")
    kind = text(document.get("kind"))
    if kind == "TaskRun":
        yield _pod(document, pointer, _task_of(spec, at), [(spec.get("podTemplate"), (*at, "podTemplate"))])
    elif kind == "PipelineRun":
        yield from _pipeline(document, pointer, (mapping(spec.get("pipelineSpec")), (*at, "pipelineSpec")), run=spec)
    elif kind == "Pipeline":
        yield from _pipeline(document, pointer, (spec, at), run=None)
    elif kind == "StepAction":
        yield _pod(document, pointer, ({"steps": [spec]}, at), None, step_action=True)
    elif spec:
        yield _pod(document, pointer, (spec, at), None)


Templates = Mapping[tuple[str, str], Mapping[str, Any]]
"""The podTemplate that a run gives to the pods of what it refers to, by that one's kind and name."""


def templates_of_runs(objects: Iterable[Mapping[str, Any]]) -> Templates:
    """Return what the runs among some objects say about the Tasks and Pipelines that they refer to.

    A podTemplate with a class counts before one without, and an earlier one before a later one.
    """
    known = list(objects)
    pipelines = {_name(each): mapping(each.get("spec")) for each in known if each.get("kind") == "Pipeline"}
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for each in known:
        spec = mapping(each.get("spec"))
        if each.get("kind") == "TaskRun":
            _note(found, spec.get("taskRef"), "Task", [(spec.get("podTemplate"), ())])
        elif each.get("kind") == "PipelineRun":
            _note(found, spec.get("pipelineRef"), "Pipeline", _templates(spec, (), ""))
            pipeline = mapping(spec.get("pipelineSpec")) or pipelines.get(_reference(spec.get("pipelineRef")), {})
            for task in map(mapping, (*items(pipeline.get("tasks")), *items(pipeline.get("finally")))):
                _note(found, task.get("taskRef"), "Task", _templates(spec, (), text(task.get("name"))))
    return found


def _note(
    found: dict[tuple[str, str], Mapping[str, Any]], reference: object, kind: str, templates: Sequence[_Source]
) -> None:
    key = (text(mapping(reference).get("kind")) or kind, _reference(reference))
    merged = {name: value for template, _ in reversed(templates) for name, value in mapping(template).items()}
    if key[1] and merged and ("runtimeClassName" in merged or key not in found):
        found.setdefault(key, merged)
        if "runtimeClassName" not in found[key]:
            found[key] = merged


def _name(each: Mapping[str, Any]) -> str:
    return text(mapping(each.get("metadata")).get("name"))


def _reference(reference: object) -> str:
    return text(mapping(reference).get("name"))


def with_run(place: Place, templates: Templates) -> Place:
    """Return the pod of a Task or Pipeline with what its run gives to it; as it is, if no run is known."""
    template = templates.get((place.kind, place.name)) if place.class_elsewhere else None
    spec = mapping(place.pod.get("spec"))
    if not template or any(not isinstance(name, str) for name in template):
        return place
    own, added = items(spec.get("volumes")), items(template.get("volumes"))
    merged = {**template, **spec}
    if added:
        merged["volumes"] = [*own, *added]
    # They stand in another document, where a patch of this one can't reach them.
    parts = tuple((("spec", "volumes", len(own) + index), None) for index in range(len(added)))
    return replace(
        place,
        pod={**place.pod, "spec": merged},
        parts=(*parts, *place.parts),
        incomplete="",
        class_elsewhere="runtimeClassName" not in merged,
    )


def _pipeline(
    document: Mapping[Any, Any], pointer: Pointer, pipeline: _Source, *, run: Mapping[Any, Any] | None
) -> Iterator[Place]:
    spec, at = pipeline
    if run is not None and not (spec.get("tasks") or spec.get("finally")):
        yield _pod(document, pointer, (_refers(run.get("pipelineRef"), "Pipeline"), ()), _templates(run, pointer, ""))
        return
    for part in ("tasks", "finally"):
        for index, entry in enumerate(items(spec.get(part))):
            task = mapping(entry)
            templates = None if run is None else _templates(run, pointer, text(task.get("name")))
            yield _pod(document, pointer, _task_of(task, (*at, part, index)), templates)


def _task_of(holder: Mapping[Any, Any], pointer: Pointer) -> _Source:
    embedded = holder.get("taskSpec")
    if isinstance(embedded, Mapping):
        return embedded, (*pointer, "taskSpec")
    return _refers(holder.get("taskRef"), "Task"), ()


def _refers(reference: object, kind: str) -> str:
    name = text(mapping(reference).get("name"))
    return f"the {kind} {name}" if name else f"another {kind}"


def _templates(run: Mapping[Any, Any], pointer: Pointer, task: str) -> list[_Source]:
    """Return the podTemplates that count for a task of a PipelineRun, the nearest first (in v1, and in v1beta1)."""
    at: Pointer = (*pointer, "spec")
    found: list[_Source] = []
    for index, entry in enumerate(items(run.get("taskRunSpecs"))):
        own = mapping(entry)
        if task and own.get("pipelineTaskName") == task:
            found += [(own.get(key), (*at, "taskRunSpecs", index, key)) for key in ("podTemplate", "taskPodTemplate")]
    shared = mapping(run.get("taskRunTemplate"))
    found.append((shared.get("podTemplate"), (*at, "taskRunTemplate", "podTemplate")))
    found.append((run.get("podTemplate"), (*at, "podTemplate")))
    return [(template, where) for template, where in found if isinstance(template, Mapping)]


def _pod(
    document: Mapping[Any, Any],
    pointer: Pointer,
    task: _Source,
    templates: Sequence[_Source] | None,
    *,
    step_action: bool = False,
) -> Place:
    """Put the pod of one task together; `templates` is None where no run is in the document."""
    pod = Assembly()
    spec, at = task
    for template, where in templates or ():
        pod.fields(template, where)
    volumes = [(mapping(template).get("volumes"), (*where, "volumes")) for template, where in templates or ()]
    if isinstance(spec, str):
        pod.gather("volumes", volumes, into=None)
        incomplete = f"The steps and sidecars are in {spec}, not in this document."
    else:
        pod.gather("volumes", [(spec.get("volumes"), (*at, "volumes")), *volumes], into=(*at, "volumes"))
        _steps(pod, spec, at, step_action=step_action)
        _sidecars(pod, spec, at)
        incomplete = (
            "" if templates is not None else f"{_MADE_BY}, and the runtime class is in the podTemplate of the run."
        )
    pod.metadata([(document.get("metadata"), (*pointer, "metadata"))], into=None)
    return pod.place(document, made_by=_MADE_BY, incomplete=incomplete, class_elsewhere=templates is None)


def _steps(pod: Assembly, spec: Mapping[Any, Any], at: Pointer, *, step_action: bool) -> None:
    template = mapping(spec.get("stepTemplate"))
    for index, step in enumerate(items(spec.get("steps"))):
        where = at if step_action else (*at, "steps", index)
        merged, parts = _merged(step, where, template, (*at, "stepTemplate"))
        pod.entry("containers", *with_script(merged, where, parts))


def _sidecars(pod: Assembly, spec: Mapping[Any, Any], at: Pointer) -> None:
    for index, sidecar in enumerate(items(spec.get("sidecars"))):
        where = (*at, "sidecars", index)
        pod.entry("containers", *with_script(sidecar, where, {(): where}))


def _merged(
    step: object, at: Pointer, template: Mapping[Any, Any], template_at: Pointer
) -> tuple[object, dict[Pointer, Pointer | None]]:
    """Return a step with what the stepTemplate adds to it."""
    parts: dict[Pointer, Pointer | None] = {(): at}
    if not template or not isinstance(step, Mapping):
        return step, parts
    merged = {**template, **step}
    for key in template:
        if key not in step:
            parts[key,] = None
        elif key in _BY_NAME:
            merged[key] = list(items(step[key]))
            present = {str(mapping(entry).get(_BY_NAME[key])) for entry in merged[key]}
            for index, entry in enumerate(items(template[key])):
                if str(mapping(entry).get(_BY_NAME[key])) not in present:
                    parts[key, len(merged[key])] = (*template_at, key, index)
                    merged[key].append(entry)
    return merged, parts


def with_script(
    container: object, at: Pointer, parts: dict[Pointer, Pointer | None]
) -> tuple[object, dict[Pointer, Pointer | None]]:
    """Return a container whose `script` is its command, as Tekton and Argo make it; only the script can be changed."""
    script = mapping(container).get("script")
    if not isinstance(script, str) or not script:
        return container, parts
    changed = {**mapping(container), "command": ["/bin/sh", "-c", script]}
    return changed, {**parts, ("command",): None, ("command", 2): (*at, "script")}
