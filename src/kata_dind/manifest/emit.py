"""Plain data as new YAML or JSON text, in the style of the file that it goes into.

Texts of several lines become literal blocks. Words that a YAML reader of any version takes for something else than a
text (`yes`, `1:30`, `2026-01-01`) are quoted.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata_dind.manifest.scalars import resolve


@dataclass(frozen=True, slots=True)
class Style:
    """How a file is written."""

    newline: str = "\n"
    step: int = 2
    """Columns by which a mapping in a mapping is indented."""
    sequence_offset: int = 0
    """Columns by which a list in a mapping is."""
    json_indent: str | None = None
    """Of a JSON file: what a level is indented by; None for one line, or for YAML."""
    is_json: bool = False
    ascii_only: bool = False


_PLAIN = re.compile(r"(?:[A-Za-z0-9_./(^;$\\]|-(?=[A-Za-z0-9_./-]))(?:[\x20-\x7e]*[\x21-\x7e])?")
_NOT_PLAIN = re.compile(r":(?:\s|$)|\s#")
_NUMBER_LIKE = re.compile(r"[-+.]?[0-9][0-9_.:,eETtZxXoO+\-]*|0[xX].*")
_OF_FLOW = re.compile(r"[,\[\]{}]|:$")
_NOT_LITERAL = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]')
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def dumped(value: Any, style: Style | None = None) -> str:
    """Return data as the text of a whole document."""
    style = style or Style()
    if style.is_json:
        return json_text(value, style, "") + style.newline
    inline = inline_text(value)
    return style.newline.join([inline] if inline is not None else block_lines(value, 0, style)) + style.newline


def inline_text(value: Any) -> str | None:
    """Return what fits behind a key on its line: a scalar, or an empty collection; None for what needs lines."""
    if isinstance(value, Mapping):
        return None if value else "{}"
    if isinstance(value, list | tuple):
        return None if value else "[]"
    if isinstance(value, str) and is_literal(value):
        return None
    return _scalar(value, in_flow=False)


@functools.lru_cache(maxsize=64)
def is_literal(text: str) -> bool:
    """Tell whether a text is better written as a literal block, and can be."""
    return "\n" in text.rstrip("\n") and not _NOT_LITERAL.search(text)


def block_lines(value: Any, column: int, style: Style) -> list[str]:
    """Return a collection that isn't empty as lines, which begin at a column."""
    pad = " " * column
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, entry in value.items():
            first, *more = value_lines(entry, column, style)
            lines += [f"{pad}{key_of(key)}:{first}", *more]
    else:
        for item in value:
            lines += item_lines(item, column, style)
    return lines


def value_lines(value: Any, column: int, style: Style) -> list[str]:
    """Return what follows the colon of a key at a column: the rest of its line, and more lines."""
    inline = inline_text(value)
    if inline is not None:
        return [f" {inline}"]
    if isinstance(value, str):
        return _literal(value, column, style.step, style)
    below = style.sequence_offset if isinstance(value, list | tuple) else style.step
    return ["", *block_lines(value, column + below, style)]


def item_lines(value: Any, column: int, style: Style) -> list[str]:
    """Return an item of a list whose dash is at a column."""
    pad = " " * column
    inline = inline_text(value)
    if inline is not None:
        return [f"{pad}- {inline}"]
    if isinstance(value, str):
        first, *more = _literal(value, column, 2, style)
        return [f"{pad}-{first}", *more]
    first, *more = block_lines(value, column + 2, style)
    return [f"{pad}- {first[column + 2 :]}", *more]


def _literal(text: str, column: int, step: int, style: Style) -> list[str]:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    # The indent can't be told from a first line that begins with a space, so it is said.
    said = str(step) if body[0] in " \t\n" else ""
    chomping = "-" if ends == 0 else "" if ends == 1 else "+"
    pad = " " * (column + step)
    lines = [pad + line if line else "" for line in body.split("\n")]
    return [f" |{said}{chomping}", *lines, *[""] * (ends - 1)]


def flow_text(value: Any, style: Style) -> str:
    """Return data on one line, within brackets."""
    if style.is_json:
        return json_text(value, style, None)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_of(key, in_flow=True)}: {flow_text(entry, style)}" for key, entry in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(flow_text(item, style) for item in value)}]"
    return _scalar(value, in_flow=True)


def json_text(value: Any, style: Style, indent: str | None) -> str:
    """Return data as JSON: on one line, or as lines of which all but the first begin with the indent."""
    if style.json_indent is None or indent is None:
        return json.dumps(value, ensure_ascii=style.ascii_only, separators=(", ", ": "))
    text = json.dumps(value, ensure_ascii=style.ascii_only, indent=style.json_indent)
    return text.replace("\n", style.newline + indent)


def key_of(key: Any, *, in_flow: bool = False) -> str:
    """Return a key."""
    return _scalar(str(key), in_flow=in_flow)


def _scalar(value: Any, *, in_flow: bool) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    text = str(value)
    return text if _is_plain(text, in_flow=in_flow) else quoted(text)


def _float(value: float) -> str:
    if value != value:  # noqa: PLR0124 NaN
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # `1e+16` is a text for YAML 1.1's readers in Python, and a number for kubectl: a point makes it one for all.
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _is_plain(text: str, *, in_flow: bool) -> bool:
    if not _PLAIN.fullmatch(text) or _NOT_PLAIN.search(text) or _NUMBER_LIKE.fullmatch(text):
        return False
    if text.startswith(("---", "...")) or len(text) > 1000:
        return False
    return not (in_flow and _OF_FLOW.search(text)) and isinstance(resolve(text), str)


def quoted(text: str) -> str:
    """Return a text in double quotes."""
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    return _SHORT_ESCAPES.get(sign) or (f"\\x{ord(sign):02x}" if ord(sign) < 0x100 else f"\\u{ord(sign):04x}")
