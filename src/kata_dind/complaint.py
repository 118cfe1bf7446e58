"""pydantic's complaints in our words, as one SpecError: the field, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""The way to a value, as pydantic tells it."""

NO_ADVICE: Mapping[str, str] = MappingProxyType({})

_LONGEST_SHOWN = 80


class Refused(ValueError):
    """A validator's refusal that is about another field than its own, or has an id of its own."""

    def __init__(self, message: str, *, field: str = "", id: str = "spec.wrong-value") -> None:
        super().__init__(message)
        self.field = field
        """The one to change."""
        self.id = id


def dotted(location: Location) -> str:
    """Return a place in a file as people write it, like `runtimeClasses[1].version`."""
    written = ""
    for part in location:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            name = part if part.isidentifier() else shown(part)
            written += f".{name}" if written else name
    return written


def spec_error(
    error: ValidationError,
    *,
    fields: Callable[[Location], Iterable[str]],
    named: Callable[[Location], str] = dotted,
    beginning: str = "",
    advice: Mapping[str, str] = NO_ADVICE,
) -> SpecError:
    """Return the first complaint in one line; raised `from` the error, it keeps the others for the log.

    `fields` gives the names that may stand beside a place, `named` what users call it, and `advice` how a value is
    written right, by pydantic's types of errors.
    """
    first = error.errors()[0]
    location = first["loc"]
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(fields(location))
        message = f"{dotted(location)}: there is no such field; the fields are {allowed}"
        return SpecError(beginning + message, id="spec.unknown-field")
    refusal = first.get("ctx", {}).get("error")
    name, id = named(location), "spec.wrong-value"
    if isinstance(refusal, Refused):
        id = refusal.id
        name = ".".join(filter(None, (name, refusal.field)))
    return SpecError(f"{beginning}{name}: {_in_our_words(first, advice)}", id=id)


def _in_our_words(details: ErrorDetails, advice: Mapping[str, str]) -> str:
    context, value, type = details.get("ctx", {}), details["input"], details["type"]
    how = f"; {advice[type]}" if type in advice else ""
    match type:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "it is required"
        case "enum":
            return f"{shown(value)} is unknown; use {context['expected'].replace(chr(39), '')}"
        case "string_type":
            return f"{shown(value)} is not a text" + ("" if _is_nested(value) else how)
        case "tuple_type":
            return f"{shown(value)} is not a list{how}"
        case "bool_type" | "bool_parsing":
            return f"{shown(value)} is unknown; use true or false"
        case "model_type" | "model_attributes_type":
            return f"{shown(value)} is not a mapping of fields"
        case _:
            return f"{shown(value)} is not allowed; {details['msg'][:1].lower()}{details['msg'][1:]}"


def _is_nested(value: object) -> bool:
    return value is None or isinstance(value, Mapping | list | tuple)


def shown(value: object) -> str:
    """Return a value on one line, and not all of a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; what nests as deeply
        return "it"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
