"""Plain scalars, as kubectl understands them: by the rules of sigs.k8s.io/yaml (goyaml.v2/resolve.go), YAML 1.1.

`y`, `yes` and `on` are true there, 0777 and 0o777 are octal, a date stays a string, base 60 is unknown.
"""

from __future__ import annotations

import functools
import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    **{form: True for word in ("y", "yes", "true", "on") for form in (word, word.capitalize(), word.upper())},
    **{form: False for word in ("n", "no", "false", "off") for form in (word, word.capitalize(), word.upper())},
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_NUMBER_STARTS = frozenset("+-.0123456789")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_POINT_FLOAT = re.compile(r"\.[0-9]+([eE][-+]?[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)", re.ASCII)
_LONGEST_NUMBER = 400
"""Digits; Python refuses longer ones, and no field of Kubernetes is one."""


def resolve(word: str) -> Scalar:
    """Return the value of a plain scalar."""
    if word in _WORDS:
        return _WORDS[word]
    return _number(word) if word[0] in _NUMBER_STARTS and len(word) <= _LONGEST_NUMBER else word


@functools.lru_cache(maxsize=4096)
def _number(word: str) -> Scalar:
    if word[0] == ".":
        return float(word) if _POINT_FLOAT.fullmatch(word) else word
    plain = word.replace("_", "")
    if _WHOLE.fullmatch(plain):
        return _whole(plain)
    return float(plain) if _FLOAT.fullmatch(plain) else word


def _whole(plain: str) -> int:
    sign = -1 if plain[0] == "-" else 1
    digits = plain.lstrip("+-").lower()
    for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)


def key_text(value: Scalar) -> str | None:
    """Return a key as JSON has it, a string; None for a key that JSON can't have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return None if value is None else str(value)
