"""Progress as events: library code calls a `Report` and never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened, for a person (`message`, a plain sentence) and for a program (`name`)."""

    name: str
    message: str
    seconds: float | None = None
    """How long it took; None until it is over."""


Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing; this is for callers that don't listen."""


def without(report: Report, *names: str) -> Report:
    """Pass on all events except those with one of these names."""

    def heard(event: Event) -> None:
        if event.name not in names:
            report(event)

    return heard
