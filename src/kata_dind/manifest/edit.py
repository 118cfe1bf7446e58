"""Changes of a document's text: what a patch doesn't touch stays as it is, byte by byte.

Where the text and the patched data differ, `editor` changes the text: an entry that is new becomes new lines, one that
is gone loses its lines, a scalar is replaced. A node that can't be changed in parts is written anew, at worst the whole
document. The result is read again, and must be the patched data.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from kata_dind.errors import SpecError
from kata_dind.manifest import emit
from kata_dind.manifest.documents import Document
from kata_dind.manifest.editor import Editor, Unfit, all_below, column_of
from kata_dind.manifest.emit import Style
from kata_dind.manifest.patch import Patch, patched, same
from kata_dind.manifest.yaml_text import Node, compose

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def edited(document: Document, patch: Patch) -> str:
    """Return the document's `source` with the patch applied; lines that it doesn't touch are byte-identical.

    Raises ValueError for a patch that doesn't fit the document, and SpecError for a document in TOML.
    """
    return rewritten(document, patched(document.data, patch))


def rewritten(document: Document, data: Any) -> str:
    """Return the document's `source`, changed so that it reads as this data, which shares what is unchanged."""
    if same(document.data, data):
        return document.source
    if document.kind == "toml":
        raise SpecError(f"{document.name}: TOML is read, and never changed", id="manifest.read-only")
    body = document.source[document.start : document.end]
    for attempt in _attempts(document, body, data):
        if _reads_as(attempt, data, is_json=document.kind == "json"):
            return document.source[: document.start] + attempt + document.source[document.end :]
    raise SpecError(
        f"{document.name}:{document.line}: this document can't be changed without harm",
        id="manifest.not-editable",
        hint="apply the patch yourself: kata-dind fix -o patch",
    )


def line_of(document: Document, pointer: Sequence[str | int]) -> int:
    """Return the line of the file, from 1, in which a value begins; of the nearest one around it if it isn't there."""
    if document.kind == "toml":
        return document.line
    node = _tree(document, document.source[document.start : document.end])
    first = document.line - (node.line if node else 0)
    line = node.line if node else 0
    for step in pointer:
        while node is not None and node.kind == "alias":
            node = node.target
        if node is None:
            break
        found = _child(node, str(step))
        if found is None:
            break
        line, node = found
    return first + line


def _child(node: Node, step: str) -> tuple[int, Node] | None:
    for key, value in node.entries:
        if str(key.data) == step:
            return key.line, value
    if step.isdecimal() and int(step) < len(node.items):
        item = node.items[int(step)]
        return item.line, item
    return None


def _attempts(document: Document, body: str, data: Any) -> Iterator[str]:
    """Yield texts for the document's own part of the source, the gentlest first."""
    style = _style(document.kind == "json", body)
    tree = _tree(document, body)
    if tree is not None:
        style = _with_steps(style, tree, body)
        with contextlib.suppress(Unfit):
            text = Editor(body, style, tree).text(document.data, data)
            if not body.endswith("\n"):
                yield text.removesuffix(style.newline)
            yield text
    header = re.match(r"(?:%[^\n]*\n)*---(?=\s)[^\n]*\n", body)
    yield (header[0] if header else "") + emit.dumped(data, style)


def _tree(document: Document, body: str) -> Node | None:
    if document.tree is not None:
        return document.tree
    try:
        # YAML knows no escaped surrogates. What stands for them has their length, and only positions count here.
        return next(compose(_SURROGATE.sub(r"\\u0041", body)), None)
    except SpecError:
        return None


def _reads_as(text: str, data: Any, *, is_json: bool) -> bool:
    try:
        found = [json.loads(text)] if is_json else [node.data for node in compose(text) if not node.is_nothing]
    except (SpecError, ValueError):
        return False
    return len(found) == 1 and same(found[0], data)


def _style(is_json: bool, body: str) -> Style:
    style = Style(newline="\r\n" if "\r\n" in body[: body.find("\n") + 1] else "\n", is_json=is_json)
    if not is_json:
        return style
    indent = re.match(r"[\[{][ \t]*\r?\n([ \t]+)", body)
    return replace(style, json_indent=indent[1] if indent else None, ascii_only=body.isascii())


def _with_steps(style: Style, tree: Node, body: str) -> Style:
    """Add how deep a document indents: as most of its mappings, and most of its lists, do."""
    if style.is_json:
        return style
    steps: dict[int, int] = {}
    offsets: dict[int, int] = {}
    for node in all_below(tree):
        for key, value in node.entries:
            if value.flow or value.kind not in ("mapping", "sequence") or node.flow:
                continue
            inner = value.entries[0][0] if value.kind == "mapping" else value
            if value.anchor or body.rfind("\n", 0, inner.start) < key.end:
                continue
            counts = steps if value.kind == "mapping" else offsets
            difference = column_of(body, inner.start) - column_of(body, key.start)
            counts[difference] = counts.get(difference, 0) + 1
    step = max(steps, key=lambda one: steps[one], default=2)
    offset = max(offsets, key=lambda one: offsets[one], default=0)
    return replace(style, step=max(step, 1), sequence_offset=max(offset, 0))
