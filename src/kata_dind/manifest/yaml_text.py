"""YAML text as a tree that knows where in the text each value stands, and as plain data.

libyaml's events are put together here, not by PyYAML: so that a position belongs to every node, a key that is there
twice is an error with its line, and aliases can't multiply without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kata_dind.errors import SpecError
from kata_dind.manifest.scalars import key_text, resolve

_DEEPEST = 200
"""Levels of nesting: more are an attack, and Python's stack is short."""
_MOST_ALIASED = 100_000
"""Nodes that stand in a document only through aliases."""

_TAG = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Node:
    """A value, and where it stands: `text[start:end]`, with its anchor and tag."""

    kind: Literal["mapping", "sequence", "scalar", "alias"]
    start: int
    end: int
    line: int
    """From 0, within the text."""
    data: Any = None
    anchor: str = ""
    flow: bool = False
    """Within brackets, or a scalar that isn't a block's."""
    style: str = ""
    """A scalar's: empty for a plain one, else its first sign."""
    entries: Sequence[tuple[Node, Node]] = ()
    """Of a mapping: keys and values, in order, `<<` included."""
    items: Sequence[Node] = ()
    size: int = 1
    """Nodes in it, those behind aliases included."""
    target: Node | None = None
    """Of an alias."""

    @property
    def is_nothing(self) -> bool:
        """Tell whether nothing is written: an empty document, or a key without a value."""
        return self.data is None and self.start == self.end


def parse_yaml(text: str, *, name: str = "the text", line: int = 1) -> Iterator[Any]:
    """Yield the data of each document in a YAML text. Raises SpecError with the line, which counts from `line`."""
    for node in compose(text, name=name, line=line):
        yield node.data


def compose(text: str, *, name: str = "the text", line: int = 1) -> Iterator[Node]:
    """Yield the tree of each document in a YAML text."""
    import yaml

    # PyYAML without libyaml, as a distribution may build it, is right and slow.
    parser: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    source = _Source(text, name, line)
    try:
        yield from _Composer(source, parser(text)).documents()
    except yaml.MarkedYAMLError as error:
        raise source.marked_error(error.problem or "it breaks off", error.problem_mark, error.context_mark) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise source.unprintable_error(str(error).partition("\n")[0]) from error


@dataclass(frozen=True, slots=True)
class _Source:
    text: str
    name: str
    line: int

    def error(self, problem: str, line: int) -> SpecError:
        """Return the error for a line, from 0; an unrendered template is named as what it is."""
        template = _template_line(self.text, line)
        if template is not None:
            return SpecError(
                f"{self.name}:{self.line + template}: this is a template, not a manifest yet",
                id="manifest.template",
                hint="render it first: helm template CHART | kata-dind fix -f -",
            )
        return SpecError(f"{self.name}:{self.line + line}: {problem}", id="manifest.unreadable")

    def marked_error(self, problem: str, mark: Any, began: Any) -> SpecError:
        """Return libyaml's error, with where the quote or the list began that has no end."""
        line = mark.line if mark else 0
        if self.text[mark.index : mark.index + 1] == "\t" if mark else False:
            return self.error("YAML is not indented by tabs: use spaces", line)
        if began and mark and began.line < line:
            problem += f", in what begins in line {self.line + began.line}"
        return self.error(f"it is not YAML: {problem}", line)

    def unprintable_error(self, problem: str) -> SpecError:
        """Return the error for a character that YAML has not, which libyaml tells without a line."""
        found = _UNPRINTABLE.search(self.text)
        if not found:
            return self.error(f"it is not YAML: {problem}", 0)
        line = self.text.count("\n", 0, found.start())
        return self.error(f"it contains the control character U+{ord(found[0]):04X}", line)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_TEMPLATE = re.compile(r"\{\{-|-\}\}|\{\{ *(?:[.$(]|/\*|(?:if|else|end|include|template|range|with|define|toYaml)\b)")


def _template_line(text: str, line: int) -> int | None:
    """Return the first line of a Helm (Go) template's action, if the text up to somewhat behind a line has one."""
    for number, content in enumerate(text.split("\n")[: line + 3]):
        if "{{" in content and _TEMPLATE.search(content):
            return number
    return None


class _Composer:
    """One reading of libyaml's events."""

    def __init__(self, source: _Source, parser: Any) -> None:
        import yaml

        self._source = source
        self._next = parser.get_event
        self._events = yaml
        self._anchors: dict[str, Node] = {}
        self._open: set[int] = set()
        self._aliased = 0

    def documents(self) -> Iterator[Node]:
        while (event := self._next()) is not None:
            if isinstance(event, self._events.DocumentStartEvent):
                self._anchors = {}
                self._aliased = 0
                yield self._node(self._next(), 0)

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event)
        if kind is self._events.ScalarEvent:
            return self._scalar(event)
        if kind is self._events.AliasEvent:
            return self._alias(event)
        mark = event.start_mark
        if depth >= _DEEPEST:
            raise self._source.error(f"it is nested more than {_DEEPEST} levels deep", mark.line)
        is_mapping = kind is self._events.MappingStartEvent
        node = Node("mapping" if is_mapping else "sequence", mark.index, mark.index, mark.line)
        node.flow = bool(event.flow_style)
        self._name(node, event.anchor)
        self._open.add(id(node))
        end = self._fill_mapping(node, depth) if is_mapping else self._fill_sequence(node, depth)
        self._open.discard(id(node))
        children = [child for entry in node.entries for child in entry] if is_mapping else node.items
        node.end = end.end_mark.index if node.flow or not children else max(node.start, children[-1].end)
        node.size = 1 + sum(child.size for child in children)
        return node

    def _fill_sequence(self, node: Node, depth: int) -> Any:
        node.items = items = []
        while not isinstance(event := self._next(), self._events.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        node.data = [item.data for item in items]
        return event

    def _fill_mapping(self, node: Node, depth: int) -> Any:
        own: dict[str, Any] = {}
        merged: list[Node] = []
        node.data = data = {}
        node.entries = entries = []
        while not isinstance(event := self._next(), self._events.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            entries.append((key, value))
            if is_merge(key):
                merged += value.items if value.kind == "sequence" else (value,)
                continue
            name = self._key(key)
            if name in own:
                raise self._source.error(f"the key {name} is there twice in one mapping", key.line)
            own[name] = value.data
        for source in reversed(merged):
            if not isinstance(source.data, dict):
                raise self._source.error("`<<` merges mappings, and this is something else", source.line)
            data.update(source.data)
        # What it has itself comes at its place, and wins.
        for name, value in own.items():
            data.pop(name, None)
            data[name] = value
        return event

    def _key(self, key: Node) -> str:
        data = key.data
        if type(data) is str:
            return data
        name = None if isinstance(data, dict | list) else key_text(data)
        if name is None:
            raise self._source.error("a key is neither a word nor a number", key.line)
        return name

    def _scalar(self, event: Any) -> Node:
        mark = event.start_mark
        style = event.style or ""
        node = Node("scalar", mark.index, event.end_mark.index, mark.line, style=style, flow=style not in ("|", ">"))
        if not node.flow:
            node.end = self._block_end(node)
        tag = event.tag
        if not tag:
            node.data = resolve(event.value) if not style else event.value
        else:
            node.data = _tagged(tag, event.value)
        self._name(node, event.anchor)
        return node

    def _block_end(self, node: Node) -> int:
        """Return the end of a block scalar's last line; libyaml's end lies behind the comments that follow it."""
        text = self._source.text
        block = text[node.start : node.end]
        header = block.partition("\n")[0]
        if "+" in header.partition("#")[0]:
            return node.start + len(block.rstrip(" ")) if block.endswith(" ") else node.end
        return node.start + len(block.rstrip())

    def _alias(self, event: Any) -> Node:
        mark = event.start_mark
        target = self._anchors.get(event.anchor)
        if target is None:
            raise self._source.error(f"the alias *{event.anchor} has no anchor above it", mark.line)
        if id(target) in self._open:
            raise self._source.error(f"the alias *{event.anchor} contains itself", mark.line)
        self._aliased += target.size
        if self._aliased > _MOST_ALIASED:
            raise self._source.error(f"aliases expand to more than {_MOST_ALIASED} values", mark.line)
        return Node(
            "alias",
            mark.index,
            event.end_mark.index,
            mark.line,
            data=target.data,
            flow=True,
            size=target.size,
            target=target,
        )

    def _name(self, node: Node, anchor: str | None) -> None:
        if anchor:
            node.anchor = anchor
            self._anchors[anchor] = node


def is_merge(key: Node) -> bool:
    """Tell whether a key is `<<`, which merges."""
    return key.kind == "scalar" and key.data == "<<" and not key.style


def _tagged(tag: str, value: str) -> Any:
    if tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
        resolved = resolve(value)
        return float(resolved) if tag.endswith("float") and type(resolved) is int else resolved
    return value
