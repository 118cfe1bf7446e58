"""The log on stderr: a line for each event, as JSON or as text for people.

An event has a name and fields. Nothing of a pod gets into it but the names that Kubernetes shows in a list of pods: no
command, argument, variable or annotation, since these may be secrets.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

logger = logging.getLogger("kata_dind.webhook")
_LONGEST_VALUE = 512


def event(level: int, what: str, /, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log an event; fields without a value are left out. An error brings its traceback."""
    logger.log(level, what, extra={"fields": fields}, exc_info=error)


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | _fields(record))


class TextLines(logging.Formatter):
    """The same for people; what has several lines stands below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        fields = _fields(record)
        below = fields.pop("traceback", "")
        words = [_time(record), f"{record.levelname:7}", record.getMessage()]
        words += [f"{name}={value if _is_word(value) else json.dumps(value)}" for name, value in fields.items()]
        return "\n".join(filter(None, [" ".join(words), below]))


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given: Mapping[str, Any] = getattr(record, "fields", {})
    fields = {name: _short(value) for name, value in given.items() if value not in ("", None)}
    if record.exc_info and record.exc_info[1] is not None:
        fields["traceback"] = "".join(_traceback(record.exc_info[1])).rstrip()
    return fields


def _traceback(error: BaseException) -> list[str]:
    """Return where an error comes from, without its message: that may quote a pod."""
    return [*traceback.format_tb(error.__traceback__), type(error).__name__]


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        return f"{value[: _LONGEST_VALUE - 1]}…"
    return value


def _is_word(value: Any) -> bool:
    return not isinstance(value, str) or (value.isprintable() and " " not in value and '"' not in value)


def log_to(stream: TextIO | None = None, *, as_json: bool = True) -> None:
    """Send the events of this process to a stream, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logger.handlers[:] = [handler]
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
