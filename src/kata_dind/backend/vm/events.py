"""Translates what the agent reports into the events of all backends, with the distrust that a guest deserves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kata_dind.backend.events import GuestEvent, Kernel, Phase, Usable
from kata_dind.backend.plan import StartKind

_DAY_SECONDS = 86400.0

_PHASES = {
    "shared": Phase("shares", "the shares are mounted"),
    "memory": Phase("memory", "the further memory is in use"),
    "processors": Phase("processors", "the further processors have started"),
    "grown": Phase("growth", "the data root has grown"),
    "container": Phase("container", "the dind container has started"),
}
"""The agent's events that only say that a step is over."""

_RENEWED = Phase("renewal", "the guest has a clock, entropy and a name of its own")

_UP = {
    StartKind.RESTORE: Phase("machine", "the machine was restored from its seed"),
    StartKind.RESUME: Phase("machine", "the machine has resumed from its saved state"),
}


def guest_events(message: Mapping[str, Any], start: StartKind) -> list[GuestEvent]:
    """Translate one message of the agent's; empty for one that means nothing to an owner."""
    match message.get("event"):
        case "agent" if start in _UP:
            return [_UP[start]]
        case "agent":
            # The time before the guest's own uptime went into disks, namespaces and QEMU's start.
            uptime_seconds = _seconds_of(message, "uptime_seconds")
            return [
                Kernel(str(message.get("kernel"))),
                Phase("machine", "the machine has started", ended_seconds_ago=uptime_seconds),
                Phase("boot", "the guest has booted"),
            ]
        case "renewed":
            size_bytes = message.get("size_bytes")  # absent where the data root is as large as before
            changed = {"size_bytes": size_bytes} if type(size_bytes) is int else {}
            publishes = bool(message.get("ports"))
            return [Usable(changed, _seconds_of(message, "check_seconds"), publishes), _RENEWED]
        case event:
            return [_PHASES[event]] if event in _PHASES else []


def _seconds_of(message: Mapping[str, Any], field: str) -> float:
    """Return the time in a field of an event, 0 for a value that makes no sense."""
    try:
        seconds = float(message[field])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < _DAY_SECONDS else 0.0
