"""Chart values, and kinds that are like them: containers in lists of other names than a pod spec's, or in words of
their own.

Charts render a list of whole containers (`extraContainers`, `sidecars`) as it stands, so a patch of the list holds.
Of a daemon that is described in a chart's own words (`dind.image.repository`), nothing can be changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.pod.images import CERTAIN, known_image
from kata_dind.pod.model import Place, Pointer
from kata_dind.pod.parts import Assembly
from kata_dind.pod.reading import is_true, items, mapping, text

_OF_A_POD = frozenset({"containers", "initContainers", "ephemeralContainers"})
_LISTS = ("ontainers", "idecars")
"""How the keys end: extraContainers, additionalContainers, sidecars, extraInitContainers."""
_CLASS = "runtimeClassName"


def container_lists(node: Mapping[Any, Any]) -> list[str]:
    """Return the keys of a mapping's lists of containers that no pod spec has."""
    return [
        key
        for key, value in node.items()
        if isinstance(key, str)
        and key.endswith(_LISTS)
        and key not in _OF_A_POD
        and any(_is_container(entry) for entry in items(value))
    ]


def _is_container(entry: object) -> bool:
    found = mapping(entry)
    return isinstance(found.get("name"), str) and bool(image_of(found))


def image_of(settings: Mapping[Any, Any]) -> str:
    """Return an image, whether it stands in one field or in two; empty if there is none."""
    image = settings.get("image")
    parts = mapping(image) if isinstance(image, Mapping) else settings
    name = image if isinstance(image, str) else text(parts.get("repository"))
    registry, tag = text(parts.get("registry")), parts.get("tag")
    if name and registry:
        name = f"{registry}/{name}"
    has_tag = isinstance(tag, str | int | float) and str(tag)
    return f"{name}:{tag}" if name and has_tag and ":" not in name.rpartition("/")[2] else name


def class_in(node: Mapping[Any, Any]) -> str:
    """Return the runtime class that values name for their pods: here, or one step below (`podSpec`)."""
    own = node.get(_CLASS)
    if isinstance(own, str):
        return own
    beside = (value for value in node.values() if isinstance(value, Mapping) and _OF_A_POD.isdisjoint(value))
    return next((text(value[_CLASS]) for value in beside if value.get(_CLASS)), "")


def values_pod(
    node: Mapping[Any, Any],
    pointer: Pointer,
    document: Mapping[Any, Any],
    *,
    lists: list[str],
    runtime_class: str,
    made_by: str,
) -> Place:
    """Return the pod of values with lists of containers."""
    pod = Assembly()
    own = _CLASS in node
    pod.field(_CLASS, node[_CLASS] if own else runtime_class, (*pointer, _CLASS) if own else None)
    if isinstance(node.get("podSecurityContext"), Mapping):
        pod.field("securityContext", node["podSecurityContext"], (*pointer, "podSecurityContext"))
    for kind in ("initContainers", "containers"):
        keys = [key for key in (kind, *lists) if key in node and ("nit" in key) == (kind == "initContainers")]
        # A chart may put containers of its own in front, so that none can be added.
        pod.gather(kind, [(_named_images(node[key]), (*pointer, key)) for key in keys], into=None)
    keys = [key for key, value in node.items() if isinstance(value, list) and str(key).endswith("olumes")]
    sources = [(node[key], (*pointer, key)) for key in keys]
    pod.gather("volumes", sources, into=sources[0][1] if sources else None)
    pod.metadata([({"annotations": node.get("podAnnotations")}, ())], into=None)
    return pod.place(document, made_by=made_by)


def _named_images(entries: object) -> list[Any]:
    return [
        {**entry, "image": image_of(entry)} if isinstance(mapping(entry).get("image"), Mapping) else entry
        for entry in items(entries)
    ]


def describes_daemon(node: Mapping[Any, Any]) -> bool:
    """Tell whether values describe a container of their own that runs a daemon, by its image."""
    if not ("image" in node or "repository" in node):
        return False
    known = known_image(image_of(node))
    return known.program is not None and known.weight >= CERTAIN and known.variable is None


def described_pods(
    node: Mapping[Any, Any],
    pointer: Pointer,
    document: Mapping[Any, Any],
    *,
    runtime_class: str,
    made_by: str,
) -> Iterator[Place]:
    """Yield the pod with the container that values describe, unless it is off; no patch finds its way into them."""
    if "enabled" in node and not is_true(node["enabled"]):
        return
    name = next((step for step in reversed(pointer) if isinstance(step, str) and step != "image"), "")
    container: dict[str, Any] = {"name": name, "image": image_of(node)}
    for key in ("command", "args", "env", "securityContext"):
        if isinstance(node.get(key), list | Mapping):
            container[key] = node[key]
    if not known_image(container["image"]).rootless:
        # The chart knows that it has to be.
        container.setdefault("securityContext", {"privileged": True})
    pod = Assembly()
    pod.field(_CLASS, runtime_class, None)
    pod.entry("containers", container, {(): None})
    incomplete = f"{made_by}, and only a part of it stands here: a volume may be mounted there that is not shown."
    yield pod.place(document, made_by=made_by, incomplete=incomplete)
