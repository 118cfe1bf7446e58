"""Text within documents: the manifest in a string of a Jenkins or chart value, the patch in Argo's podSpecPatch."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from kata_dind.errors import SpecError

_MAY_BE_POD = re.compile(r"""(?:[cC]ontainers|containerMode|jenkins):|path["']?:.*/(?:c|initC)ontainers\b""")
_LONGEST = 256 * 1024
"""Characters of such a text. What is longer is a program, not a manifest."""


def parsed_text(source: str) -> Iterator[Mapping[Any, Any] | list[Any]]:
    """Yield the documents in a text that could hold a pod or a runner's configuration; nothing if it can't be read."""
    if len(source) > _LONGEST:
        return
    if "[runners.kubernetes" in source:
        try:
            yield tomllib.loads(source)
        except (tomllib.TOMLDecodeError, RecursionError):
            return
    elif _MAY_BE_POD.search(source):
        yield from _yaml_documents(source)


def parsed_patch(source: object) -> Mapping[Any, Any]:
    """Return the pod spec patch in a string (JSON or YAML), or the mapping that it is already; empty if unreadable."""
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str) or len(source) > _LONGEST:
        return {}
    return next((data for data in _yaml_documents(source) if isinstance(data, Mapping)), {})


def with_fields(source: str, fields: Mapping[str, Any]) -> str | None:
    """Return the text of a pod spec patch with some fields set, as JSON; None if the text can't be read.

    Argo takes YAML as well, but a YAML text may have comments, which would be lost: it is only read.
    """
    if not source.strip():
        return json.dumps(dict(fields))
    try:
        known = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return json.dumps({**known, **fields}) if isinstance(known, dict) else None


def _yaml_documents(source: str) -> Iterator[Mapping[Any, Any] | list[Any]]:
    from kata_dind.manifest.yaml_text import parse_yaml

    try:
        documents = list(parse_yaml(source))
    except SpecError:
        # A placeholder of a template, most often.
        return
    yield from (data for data in documents if isinstance(data, Mapping | list))
