"""Safe access to what others wrote: each function takes any value and answers with the type that it promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from kata_dind.pod.model import ContainerList, Pointer

CONTAINER_LISTS: tuple[ContainerList, ...] = ("initContainers", "containers", "ephemeralContainers")

_NOTHING: Mapping[str, Any] = {}
# `list | tuple` would make a new union at each call, which takes longer than the question.
_LISTS = (list, tuple)
# Most are dicts, and to ask an abstract class takes ten times as long.
_MAPPINGS = (dict, Mapping)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value is a mapping."""
    return isinstance(value, _MAPPINGS)


def mapping(value: object) -> Mapping[Any, Any]:
    """Return a mapping as it is, and an empty one for anything else. Its keys may have any type, too."""
    if isinstance(value, dict):
        return value
    return value if value is not None and isinstance(value, Mapping) else _NOTHING


def items(value: object) -> Sequence[Any]:
    """Return a list (or tuple) as it is, and an empty one for anything else."""
    return value if isinstance(value, _LISTS) else ()


def text(value: object) -> str:
    """Return a string as it is, and an empty one for anything else."""
    return value if isinstance(value, str) else ""


def number(value: object) -> int | None:
    """Return an integer as it is, and None for anything else; True and False are none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def words(value: object) -> list[str]:
    """Return the words of a `command` or `args`, as many as the list has, so that indexes hold.

    A number is its digits, as in `[sleep, 60]`, which an API server refuses; anything else is an empty word.
    """
    return [_word(item) for item in items(value)]


def _word(item: object) -> str:
    if isinstance(item, str):
        return item
    whole = number(item)
    # A number of thousands of digits is a ValueError for str().
    return str(whole) if whole is not None and abs(whole) < 10**18 else ""


def post_start_words(container: Mapping[str, Any]) -> list[str]:
    """Return the words of a container's postStart hook; none if it has no such hook, or one without a command."""
    return words(mapping(mapping(mapping(container.get("lifecycle")).get("postStart")).get("exec")).get("command"))


def containers_of(spec: Mapping[str, Any]) -> Iterator[tuple[ContainerList, int, Mapping[str, Any]]]:
    """Yield each container of a pod spec with its list and its index; what isn't a mapping is passed over."""
    for list_name in CONTAINER_LISTS:
        for index, container in enumerate(items(spec.get(list_name))):
            if is_mapping(container):
                yield list_name, index, container


def volumes_of(spec: Mapping[str, Any]) -> Iterator[tuple[Pointer, Mapping[str, Any]]]:
    """Yield each volume of a pod spec with its pointer."""
    for index, volume in enumerate(items(spec.get("volumes"))):
        if is_mapping(volume):
            yield ("spec", "volumes", index), volume


def is_true(value: object) -> bool:
    """Tell whether a value is the boolean true; the word is not."""
    return value is True


def is_privileged(container: Mapping[Any, Any]) -> bool:
    """Tell whether a container may mount: it is privileged, or has CAP_SYS_ADMIN, in whatever spelling."""
    context = mapping(container.get("securityContext"))
    if context.get("privileged") is True:
        return True
    added = items(mapping(context.get("capabilities")).get("add"))
    return any(text(name).upper().removeprefix("CAP_") in ("SYS_ADMIN", "ALL") for name in added)
