"""Documents in a file: split where kubectl splits, each with the text that it stands in.

The texts of all documents are the file's: what separates them belongs to the one behind it, what ends the file to the
last. Reading holds one document at a time.
"""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kata_dind.errors import SpecError
from kata_dind.manifest.yaml_text import Node, compose

Kind = Literal["yaml", "json", "toml"]

_BOM = "\ufeff"
_SEPARATOR = re.compile(r"(?:---|\.\.\.)(?=\s|$)")
_TOML = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?:\[\[runners\]\]|[a-z_]+ *= *\S)")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a file."""

    index: int
    """From 0; documents without content do not count."""
    line: int
    """Where its content begins, from 1."""
    kind: Kind
    data: Any
    """Plain: dicts with keys that are strings, lists, and scalars. Aliases are one object in several places."""
    source: str
    """All text from the end of the document before."""
    start: int
    """Where in `source` the document itself begins, behind comments, separators and a byte order mark."""
    end: int
    """Where it ends."""
    name: str
    """The file's."""
    tree: Node | None = field(default=None, repr=False, compare=False)
    """YAML's, with positions from `start`."""

    @property
    def mapping(self) -> Mapping[str, Any]:
        """The data, if it is an object; else an empty one."""
        return self.data if isinstance(self.data, dict) else {}


def read_documents(source: str | bytes | Iterable[str | bytes], name: str) -> Iterator[Document]:
    """Yield the documents of a text, or of lines, as an open file has them; empty ones are passed over.

    A text file must not translate line ends (`newline=""`). Raises SpecError with the file's name and the line.
    """
    lines = _decoded(_lines(source), name)
    head: list[str] = []
    for line in lines:
        head.append(line)
        if line.strip(" \t\r\n" + _BOM):
            break
    first = head[-1].lstrip(" \t" + _BOM) if head else ""
    if name.endswith(".toml") or (not name.endswith((".yaml", ".yml", ".json")) and _TOML.match(first)):
        yield from _toml("".join([*head, *lines]), name)
    elif first.startswith(("{", "[")) and not first.startswith("{{"):
        yield from _json("".join([*head, *lines]), name)
    else:
        yield from _last_has_the_rest(_yaml(head, lines, name))


def _lines(source: str | bytes | Iterable[str | bytes]) -> Iterable[str | bytes]:
    if isinstance(source, str):
        return io.StringIO(source, newline="\n")
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _decoded(lines: Iterable[str | bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if isinstance(line, str):
            yield line
            continue
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SpecError(f"{name} is UTF-16: save it as UTF-8", id="manifest.unreadable")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise SpecError(f"{name}:{number}: it is not UTF-8 text", id="manifest.unreadable") from error


@dataclass(slots=True)
class _Chunk:
    """Text between two separators, with what came before it and had no content."""

    before: str
    text: str
    line: int


def _chunks(head: Iterable[str], lines: Iterable[str]) -> Iterator[_Chunk]:
    current: list[str] = []
    began = 1
    number = 0
    for part in (head, lines):
        for line in part:
            number += 1
            if line[:3] in ("---", "...") and _SEPARATOR.match(line):
                ends = line.startswith("...")
                if ends:
                    current.append(line)
                if current:
                    yield _Chunk("", "".join(current), began)
                current, began = ([], number + 1) if ends else ([line], number)
                continue
            current.append(line)
    if current:
        yield _Chunk("", "".join(current), began)


def _has_content(chunk: str) -> bool:
    for number, line in enumerate(chunk.split("\n")):
        bare = line.strip(" \t\r" + _BOM)
        if number == 0 and bare.startswith("---"):
            bare = bare[3:].strip()
        if bare and not bare.startswith("#") and bare != "..." and not line.startswith("%"):
            return True
    return False


def _yaml(head: Iterable[str], lines: Iterable[str], name: str) -> Iterator[Document | str]:
    """Yield documents, and at the end the text behind the last."""
    before = ""
    before_line = 1
    index = 0
    for chunk in _chunks(head, lines):
        if not before:
            before_line = chunk.line
        if not _has_content(chunk.text):
            before += chunk.text
            continue
        source = before + chunk.text
        # A directive stands before the `---` that belongs to it.
        directed = bool(re.search(r"(?m)^%", before))
        start, line = (0, before_line) if directed else (len(before), chunk.line)
        if source.startswith(_BOM, start):
            start += 1
        for node in compose(source[start:], name=name, line=line):
            if node.is_nothing:
                continue
            yield Document(index, line + node.line, "yaml", node.data, source, start, len(source), name, node)
            index += 1
            break
        before = ""
    yield before


def _last_has_the_rest(parts: Iterator[Document | str]) -> Iterator[Document]:
    held: Document | None = None
    for part in parts:
        if isinstance(part, str):
            if held is not None and part:
                held = replace(held, source=held.source + part)
        else:
            if held is not None:
                yield held
            held = part
    if held is not None:
        yield held


def _json(text: str, name: str) -> Iterator[Document]:
    """Yield each value of a JSON text, as a stream of them; a text that is YAML within brackets is read as such."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
    found: list[Document] = []
    position = 1 if text.startswith(_BOM) else 0
    before = 0
    try:
        while (start := _end_of_space(text, position)) < len(text):
            data, position = decoder.raw_decode(text, start)
            line = text.count("\n", 0, start) + 1
            found.append(
                Document(len(found), line, "json", data, text[before:position], start - before, position - before, name)
            )
            before = position
    except RecursionError as error:
        raise SpecError(f"{name}: it is nested too deep", id="manifest.unreadable") from error
    except _DuplicateKey as error:
        raise SpecError(f"{name}: {error}", id="manifest.unreadable") from error
    except ValueError as error:
        try:
            yield from list(_last_has_the_rest(_yaml([], io.StringIO(text, newline="\n"), name)))
        except SpecError as as_yaml:
            if as_yaml.id == "manifest.template" or not isinstance(error, json.JSONDecodeError):
                raise
            summary = f"{name}:{error.lineno}: it is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
            raise SpecError(summary, id="manifest.unreadable") from error
        return
    if found:
        found[-1] = replace(found[-1], source=found[-1].source + text[before:])
    yield from found


def _end_of_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


class _DuplicateKey(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(names) if key in names[:number])
        raise _DuplicateKey(f"the key {twice} is there twice in one object")
    return data


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _toml(text: str, name: str) -> Iterator[Document]:
    try:
        data = tomllib.loads(text.removeprefix(_BOM))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"{name}: {error}"[:300], id="manifest.unreadable") from error
    if data:
        yield Document(0, 1, "toml", data, text, 0, len(text), name)
