"""kubectl's configuration: files in YAML that name clusters, users and contexts, read and merged as kubectl does.

Of each name the first file that has it counts, and so does the first current context. Source: "Organizing Cluster
Access Using kubeconfig Files" in the documentation of Kubernetes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kata_dind.errors import KubernetesError, SpecError

_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A cluster, user or context, and the directory from which its relative paths start."""

    content: Mapping[str, Any]
    directory: Path

    def text(self, key: str) -> str:
        """Return a field that is text; empty when it is absent."""
        value = self.content.get(key)
        return value if isinstance(value, str) else ""

    def path(self, key: str) -> Path | None:
        """Return a field that is a path."""
        return self.directory / value if (value := self.text(key)) else None


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """What the files say together."""

    names: str
    """The files, for people."""
    clusters: Mapping[str, Entry]
    users: Mapping[str, Entry]
    contexts: Mapping[str, Entry]
    current: str


def find_kubeconfigs(given: str = "") -> list[Path]:
    """Return the files that are read: the given one, those of $KUBECONFIG, or the user's own; of those, what exists.

    Raises SpecError for a given file that does not exist.
    """
    if given:
        path = Path(os.path.expanduser(given))  # noqa: PTH111 - Path's own fails for a user that there is not
        if not path.is_file():
            raise SpecError(f"--kubeconfig: there is no file {given!r}", id="spec.unreadable-file")
        return [path]
    named = os.environ.get("KUBECONFIG", "")
    paths = [Path(each) for each in named.split(os.pathsep) if each] or _own()
    return [path for path in paths if path.is_file()]


def _own() -> list[Path]:
    try:
        return [Path("~/.kube/config").expanduser()]
    except RuntimeError:  # a user of a container has perhaps no home
        return []


def read_kubeconfig(paths: Sequence[Path]) -> Kubeconfig:
    """Read and merge files. Raises KubernetesError."""
    files = [(path.absolute().parent, _load(path)) for path in paths]
    currents = [str(content["current-context"]) for _, content in files if content.get("current-context")]
    return Kubeconfig(
        names=", ".join(map(str, paths)),
        clusters=_merged(files, "clusters", "cluster"),
        users=_merged(files, "users", "user"),
        contexts=_merged(files, "contexts", "context"),
        current=currents[0] if currents else "",
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = yaml.load(file.read(_MOST_BYTES), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise KubernetesError(
            f"{path} can't be read: {error.strerror}", id="kubernetes.kubeconfig-unreadable"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The parser's own message quotes the line, which may hold a token.
        place = getattr(error, "problem_mark", None)
        where = f" from line {place.line + 1} on" if place else ""
        raise KubernetesError(f"{path} is not YAML{where}", id="kubernetes.kubeconfig-unreadable") from None
    return content if isinstance(content, Mapping) else {}


def _merged(files: Sequence[tuple[Path, Mapping[str, Any]]], key: str, inner: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for directory, content in files:
        for name, entry in _named(content.get(key), inner):
            found.setdefault(name, Entry(entry, directory))
    return found


def _named(entries: object, inner: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in entries if isinstance(entries, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("name"), str):
            content = each.get(inner)
            yield each["name"], content if isinstance(content, Mapping) else {}
