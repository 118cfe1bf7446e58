"""The parts of a YAML or JSON text that are written anew when its data change: lines, items, entries within brackets.

The tree of the text and the changed data are walked together; what can't be changed in parts is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kata_dind.manifest import emit
from kata_dind.manifest.alignment import aligned
from kata_dind.manifest.emit import Style
from kata_dind.manifest.patch import same
from kata_dind.manifest.scalars import key_text
from kata_dind.manifest.yaml_text import Node, is_merge

_COMMENT = re.compile(r"(?:^|[ \t])[ \t]*#[^\n]*")
_COMMENT_WITHIN = re.compile(r"\s#")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")


def column_of(text: str, position: int) -> int:
    """Return how far from the beginning of its line a position is."""
    return position - (text.rfind("\n", 0, position) + 1)


class Unfit(Exception):
    """A node can't be changed in parts."""


@dataclass(slots=True)
class Editor:
    """One change of one document: edits are gathered on the way down, and applied at the end."""

    body: str
    style: Style
    tree: Node
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    settled: dict[int, Any] = field(default_factory=dict)
    """What an anchor will stand for, by the node's identity; those that are gone are absent."""
    aliased: set[int] = field(default_factory=set)
    """Nodes that an alias stands for."""

    def text(self, old: Any, new: Any) -> str:
        """Return the changed text. Raises Unfit if nothing but writing it anew is left."""
        for node in all_below(self.tree):
            if node.target is not None:
                self.aliased.add(id(node.target))
        # Every line has an end while lines are put in and taken out.
        if not self.body.endswith("\n"):
            self.body += self.style.newline
        self._change(self.tree, old, new)
        parts: list[str] = []
        position = 0
        for start, end, text in sorted(self.edits, key=lambda edit: edit[0]):
            if start < position:
                raise Unfit
            parts += [self.body[position:start], text]
            position = end
        return "".join([*parts, self.body[position:]])

    def _change(self, node: Node, old: Any, new: Any) -> None:
        """Change a node in parts. Raises Unfit, with no edit made, if that can't be done."""
        if node.kind == "alias":
            if not self._stands_for(node, new):
                raise Unfit
            return
        if new is old and not self.aliased:
            return
        if id(node) in self.aliased:
            self.settled[id(node)] = new
        if node.kind == "scalar":
            if not same(old, new):
                raise Unfit
            return
        made = len(self.edits)
        try:
            if node.kind == "mapping" and isinstance(new, Mapping):
                self._mapping(node, old, new)
            elif node.kind == "sequence" and isinstance(new, list | tuple):
                self._sequence(node, old, new)
            else:
                raise Unfit
        except Unfit:
            del self.edits[made:]
            raise

    def _stands_for(self, alias: Node, value: Any) -> bool:
        target = id(alias.target)
        return target in self.settled and same(self.settled[target], value)

    def _forget(self, node: Node) -> None:
        """Note that a node's text is gone, with the anchors in it."""
        for gone in all_below(node):
            self.settled.pop(id(gone), None)

    # Mappings

    def _mapping(self, node: Node, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        own = {_key(key): (key, value) for key, value in node.entries if not is_merge(key)}
        inherited = self._inherited(node)
        if not own.keys() <= old.keys():
            raise Unfit
        gone = [name for name in own if name not in new]
        added = [
            name for name in new if name not in own and not (name in inherited and same(inherited[name], new[name]))
        ]
        if any(name in inherited and name not in own and name not in new for name in inherited) or any(
            name in inherited for name in gone
        ):
            raise Unfit
        if node.flow:
            self._flow(node, old, new, structural=bool(gone or added))
            return
        if len(gone) == len(node.entries):
            raise Unfit
        for name, (key, value) in own.items():
            if name in gone:
                self._forget(value)
            else:
                self._entry(key, value, old[name], new[name])
        self._remove_entries(node, set(gone))
        if added:
            self._refuse_explicit(node)
            column = self._column(node.entries[0][0].start)
            lines: list[str] = []
            for name in added:
                lines += emit.block_lines({name: new[name]}, column, self.style)
            self._insert_lines(self._line_end(node.entries[-1][1], node.entries[-1][0]), lines)

    def _refuse_explicit(self, node: Node) -> None:
        """Refuse to add to a mapping with keys behind question marks, which YAML demands for very long ones."""
        for key, _ in node.entries:
            if "?" in self.body[self._line_start(key.start) : key.start]:
                raise Unfit

    def _inherited(self, node: Node) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for key, value in node.entries:
            if is_merge(key):
                sources = value.items if value.kind == "sequence" else (value,)
                for source in reversed(sources):
                    if source.target is None or id(source.target) not in self.settled:
                        raise Unfit
                    data = self.settled[id(source.target)]
                    if not isinstance(data, Mapping):
                        raise Unfit
                    merged.update(data)
        return merged

    def _entry(self, key: Node, value: Node, old: Any, new: Any) -> None:
        try:
            if self._wants_block(value, old, new):
                raise Unfit
            self._change(value, old, new)
        except Unfit:
            colon = _GAP.match(self.body, key.end)
            at = colon.end() if colon else key.end
            if self.body[at : at + 1] != ":":
                raise
            below = emit.value_lines(new, self._column(key.start), self.style)
            self._replace_value(value, at + 1, new, below)

    def _remove_entries(self, node: Node, gone: set[str]) -> None:
        entries = node.entries
        first = next(number for number, (key, _) in enumerate(entries) if is_merge(key) or _key(key) not in gone)
        shares_line = not self._is_first_on_line(entries[0][0].start)
        if gone:
            self._refuse_explicit(node)
        if first and shares_line:
            self.edits.append((entries[0][0].start, entries[first][0].start, ""))
        for number, (key, value) in enumerate(entries):
            if is_merge(key) or _key(key) not in gone or (number < first and shares_line):
                continue
            if not self._is_first_on_line(key.start):
                raise Unfit
            self.edits.append((self._line_start(key.start), self._line_end(value, key), ""))

    # Sequences

    def _sequence(self, node: Node, old: Sequence[Any], new: Sequence[Any]) -> None:
        steps = list(aligned(old, new))
        structural = any(before is None or after is None for before, after in steps)
        if node.flow:
            self._flow(node, old, new, structural=structural)
            return
        if not any(before is not None and after is not None for before, after in steps):
            raise Unfit
        dashes = self._dashes(node)
        column = self._column(dashes[0])
        last = -1
        for before, after in steps:
            if before is None:
                assert after is not None
                if last < 0 and not self._is_first_on_line(dashes[0]):
                    raise Unfit
                at = self._line_end(node.items[last]) if last >= 0 else self._line_start(dashes[0])
                self._insert_lines(at, emit.item_lines(new[after], column, self.style))
                continue
            last = before
            item = node.items[before]
            if after is not None:
                self._item(item, dashes[before], old[before], new[after])
                continue
            if not self._is_first_on_line(dashes[before]):
                raise Unfit
            self._forget(item)
            self.edits.append((self._line_start(dashes[before]), self._line_end(item), ""))

    def _item(self, item: Node, dash: int, old: Any, new: Any) -> None:
        try:
            if self._wants_block(item, old, new):
                raise Unfit
            self._change(item, old, new)
        except Unfit:
            first, *more = emit.item_lines(new, self._column(dash), self.style)
            first = first[self._column(dash) + 1 :]
            self._replace_value(item, dash + 1, new, [first, *more], keeps_comment=not more)

    def _dashes(self, node: Node) -> list[int]:
        """Return where the dashes of a block's items stand."""
        found: list[int] = []
        position = node.start
        properties = re.compile(r"(?:[&!][^\s]*[ \t\r\n]*(?:#[^\n]*[\r\n])*)*")
        skipped = properties.match(self.body, position)
        position = skipped.end() if skipped else position
        for item in node.items:
            gap = _GAP.match(self.body, position)
            position = gap.end() if gap else position
            if self.body[position : position + 1] != "-":
                raise Unfit
            found.append(position)
            position = max(position + 1, item.end)
        return found

    # Text

    def _replace_value(
        self, node: Node, after: int, new: Any, lines: Sequence[str], *, keeps_comment: bool = True
    ) -> None:
        """Write a value anew, behind the colon or the dash that ends at `after`."""
        self._forget(node)
        anchor = ""
        if node.anchor and id(node) in self.aliased:
            anchor = f" &{node.anchor}"
            self.settled[id(node)] = new
        end = max(node.end, after)
        line_end = self._end_of_line(end)
        header = self.body[after : self._end_of_line(after)]
        is_block = not node.flow and node.end > after
        comment = _COMMENT.search(header if is_block else self.body[end:line_end])
        if not is_block and not _is_rest_of_line(self.body[end:line_end]):
            raise Unfit
        said = comment[0].rstrip("\r") if comment and keeps_comment else ""
        if node.style in ("|", ">"):
            said = ""
        first, *more = lines
        if node.style == '"' and isinstance(new, str) and not more:
            first = f" {emit.quoted(new)}"
        text = self.style.newline.join([anchor + first + said, *more])
        if more and first.lstrip().startswith(("|", ">")):
            text = self.style.newline.join([anchor + first, *more])
        self.edits.append((after, line_end, text))

    def _insert_lines(self, at: int, lines: Sequence[str]) -> None:
        self.edits.append((at, at, self.style.newline.join([*lines, ""])))

    def _wants_block(self, node: Node, old: Any, new: Any) -> bool:
        """Tell whether brackets are to become lines: empty ones, or if a text of several lines comes into them.

        Brackets with comments within stay, since lines are written from the data, which has none.
        """
        if self.style.is_json or not node.flow or node.kind not in ("mapping", "sequence") or new is old:
            return False
        if _COMMENT_WITHIN.search(self.body, node.start, node.end):
            return False
        is_empty = not (node.entries or node.items)
        return (is_empty and bool(new)) or (_has_literal(new) and not _has_literal(old))

    def _column(self, position: int) -> int:
        return column_of(self.body, position)

    def _line_start(self, position: int) -> int:
        return self.body.rfind("\n", 0, position) + 1

    def _end_of_line(self, position: int) -> int:
        """Return the end of a line, without its line break."""
        if position and self.body[position - 1] == "\n" and self.body[position : position + 1] != "\n":
            # A block scalar that keeps its line breaks ends behind them.
            position -= 1
        found = self.body.find("\n", position)
        end = len(self.body) if found < 0 else found
        return end - 1 if end > position and self.body[end - 1] == "\r" else end

    def _line_end(self, node: Node, key: Node | None = None) -> int:
        """Return the beginning of the line behind a node."""
        end = max(node.end, key.end) if key is not None else node.end
        if end and self.body[end - 1] == "\n":
            return end
        found = self.body.find("\n", end)
        rest = self.body[end : found if found >= 0 else len(self.body)]
        if not _is_rest_of_line(rest.removeprefix(":")):
            raise Unfit
        return len(self.body) if found < 0 else found + 1

    def _is_first_on_line(self, position: int) -> bool:
        return not self.body[self._line_start(position) : position].strip(" \ufeff")

    # Brackets

    def _flow(self, node: Node, old: Any, new: Any, *, structural: bool) -> None:
        if structural:
            self.edits.append((node.start, node.end, self._flow_text(node, old, new)))
            return
        for child, before, after in _children(node, old, new):
            made = len(self.edits)
            try:
                self._change(child, before, after)
            except Unfit:
                del self.edits[made:]
                self.edits.append((child.start, child.end, self._flow_text(child, before, after)))

    def _flow_text(self, node: Node, old: Any, new: Any) -> str:
        """Return the text of a node within brackets; of what stays, its own text."""
        if node.kind == "alias":
            return self._slice(node) if self._stands_for(node, new) else self._written(node, new)
        is_mapping = node.kind == "mapping" and isinstance(new, Mapping)
        if not (is_mapping or (node.kind == "sequence" and isinstance(new, list | tuple))) or not node.flow:
            return self._slice(node) if same(old, new) else self._written(node, new)
        if node.kind == "mapping" and any(is_merge(key) for key, _ in node.entries):
            raise Unfit
        if not new or not (node.entries or node.items):
            return self._written(node, new)
        self._settle(node, new)
        pieces = list(self._mapping_pieces(node, old, new) if is_mapping else self._sequence_pieces(node, old, new))
        return self._joined(node, pieces)

    def _settle(self, node: Node, new: Any) -> None:
        if id(node) in self.aliased:
            self.settled[id(node)] = new

    def _mapping_pieces(
        self, node: Node, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> Iterator[tuple[int | None, str]]:
        for number, (key, value) in enumerate(node.entries):
            name = _key(key)
            if name not in new:
                self._forget(value)
            elif value.end > value.start:
                inner = self._flow_text(value, old[name], new[name])
                yield number, self.body[key.start : value.start] + inner
            elif same(old[name], new[name]):
                yield number, self.body[key.start : max(value.end, key.end)]
            else:
                yield None, f"{self._slice(key)}: {self._written(value, new[name])}"
        own = {_key(key) for key, _ in node.entries}
        for name in new:
            if name not in own:
                key_text = (
                    emit.json_text(name, self.style, None) if self.style.is_json else emit.key_of(name, in_flow=True)
                )
                yield None, f"{key_text}: {self._new_text(node, new[name])}"

    def _sequence_pieces(self, node: Node, old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[int | None, str]]:
        for before, after in aligned(old, new):
            if before is None:
                assert after is not None
                yield None, self._new_text(node, new[after])
            elif after is None:
                self._forget(node.items[before])
            else:
                yield before, self._flow_text(node.items[before], old[before], new[after])

    def _joined(self, node: Node, pieces: Sequence[tuple[int | None, str]]) -> str:
        """Join entries between a node's brackets, as its own are."""
        spans = (
            [(key.start, max(value.end, key.end)) for key, value in node.entries]
            if node.kind == "mapping"
            else [(item.start, item.end) for item in node.items]
        )
        head, tail = self.body[node.start : spans[0][0]], self.body[spans[-1][1] : node.end]
        usual = self._usual_separator(head, spans)
        text = head
        previous: int | None = None
        for number, (at, piece) in enumerate(pieces):
            if number:
                follows = previous is not None and at == previous + 1
                text += self.body[spans[at - 1][1] : spans[at][0]] if follows and at is not None else usual
            text += piece
            previous = at
        return text + tail

    def _usual_separator(self, head: str, spans: Sequence[tuple[int, int]]) -> str:
        """Return what stands between entries: a line break and an indent, if the first begins on a line of its own."""
        if "\n" in head:
            newline = head.rindex("\n")
            return "," + head[newline - head.endswith("\r", 0, newline) :]
        between = self.body[spans[0][1] : spans[1][0]] if len(spans) > 1 else ""
        return between if "," in between and "\n" not in between else ", "

    def _slice(self, node: Node) -> str:
        for part in all_below(node):
            self._settle(part, part.data)
            if part.kind == "alias" and not self._stands_for(part, part.data):
                raise Unfit
        return self.body[node.start : node.end]

    def _written(self, node: Node, value: Any) -> str:
        self._forget(node)
        anchor = ""
        if node.anchor and id(node) in self.aliased:
            anchor = f"&{node.anchor} "
            self.settled[id(node)] = value
        if self.style.is_json:
            return emit.json_text(value, self.style, self._indent(node.start))
        if node.style == '"' and isinstance(value, str):
            return anchor + emit.quoted(value)
        return anchor + emit.flow_text(value, self.style)

    def _new_text(self, node: Node, value: Any) -> str:
        if not self.style.is_json:
            return emit.flow_text(value, self.style)
        first = node.entries[0][0].start if node.entries else node.items[0].start
        on_lines = "\n" in self.body[node.start : first]
        return emit.json_text(value, self.style, self._indent(first) if on_lines else None)

    def _indent(self, position: int) -> str:
        line = self.body[self._line_start(position) : position]
        return line[: len(line) - len(line.lstrip(" \t"))]


def all_below(node: Node) -> Iterator[Node]:
    """Yield a node and all that are written within it, in the text's order."""
    stack = [node]
    while stack:
        one = stack.pop()
        yield one
        stack += reversed([*(part for entry in one.entries for part in entry), *one.items])


def _key(key: Node) -> str:
    return str(key_text(key.data))


def _children(node: Node, old: Any, new: Any) -> Iterator[tuple[Node, Any, Any]]:
    if node.kind == "mapping":
        for key, value in node.entries:
            if not is_merge(key):
                if value.end == value.start and not same(old[_key(key)], new[_key(key)]):
                    raise Unfit
                yield value, old[_key(key)], new[_key(key)]
    else:
        yield from zip(node.items, old, new, strict=True)


def _is_rest_of_line(text: str) -> bool:
    bare = text.strip()
    return not bare or (bare.startswith("#") and text[:1] in " \t")


def _has_literal(value: Any) -> bool:
    if isinstance(value, str):
        return emit.is_literal(value)
    if isinstance(value, Mapping):
        return any(map(_has_literal, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_literal, value))
