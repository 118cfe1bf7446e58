"""The status of one start of a sandbox, as in status.json: its state, its phases, and facts about its guest."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from typing import Any

from kata_dind.errors import KataDindError
from kata_dind.progress import Event, Report
from kata_dind.store.sandboxes import Record

logger = logging.getLogger(__name__)

_REWRITE_SECONDS = 1.0


class Status:
    """The status of one start, in memory and on file; `report` is told of phases and warnings."""

    def __init__(self, record: Record, *, report: Report, started: float | None = None, goes_on: bool = False) -> None:
        """`goes_on` says that the guest of the last start runs on, which is not younger for it."""
        self._record = record
        self._report = report
        self._started = time.monotonic() if started is None else started
        earlier = record.read("status.json")
        self.earlier_address = str(earlier.get("address") or "")
        """The loopback address of an earlier start; empty where there was none."""
        self.earlier_verdict: dict[str, Any] = earlier.get("verdict") or {}
        """The last verdict that passed in an earlier start; empty where none did."""
        self.warnings: list[str] = []
        self._phases: list[dict[str, Any]] = []
        self._facts: dict[str, Any] = {"state": "starting", "pid": os.getpid(), "started_at": time.time()}
        if goes_on and "started_at" in earlier:
            self._facts["started_at"] = earlier["started_at"]
        if self.earlier_verdict:  # kept, so that it is not forgotten when this start fails
            self._facts["verdict"] = self.earlier_verdict
        self._rewrite: asyncio.TimerHandle | None = None
        """Another attempt at a status that could not be written."""

    @property
    def state(self) -> str:
        """starting, running, stopping, stopped or crashed."""
        return str(self._facts["state"])

    @property
    def elapsed_seconds(self) -> float:
        """How long ago the start began."""
        return time.monotonic() - self._started

    def get(self, name: str) -> Any:
        """Return a fact; None where it is not known."""
        return self._facts.get(name)

    def know(self, **facts: Any) -> None:
        """Take note of facts, which are written with the next change of state or phase."""
        self._facts |= facts

    def enter(self, state: str) -> None:
        """Change the state."""
        self._facts["state"] = state
        self.write()

    def phase(self, name: str, message: str, *, ended_seconds_ago: float = 0.0) -> None:
        """Take note, once, that a phase has ended."""
        if any(phase["name"] == name for phase in self._phases):
            return
        elapsed = max(self.elapsed_seconds - ended_seconds_ago, 0.0)
        before = sum(phase["seconds"] for phase in self._phases)
        self._phases.append({"name": name, "seconds": round(elapsed - before, 3)})
        self._report(Event(name, message, seconds=elapsed))
        self.write()

    def warn(self, message: str) -> None:
        """Report a warning to the user."""
        if message not in self.warnings:  # it may be known since the guest was proven
            self.warnings.append(message)
        self._report(Event("warning", message))

    def withdraw(self, messages: Collection[str]) -> None:
        """Forget warnings whose cause is gone."""
        self.warnings[:] = [warning for warning in self.warnings if warning not in messages]

    def problem(self, message: str, *, solved: str, unsure: bool = False) -> None:
        """Report a problem that the sandbox runs on with, or, by an empty message, its end.

        `unsure` tells that nobody knows meanwhile whether its guest runs.
        """
        self._facts |= {"problem": message or None, "unsure": unsure}
        self._report(Event("warning", message) if message else Event("notice", solved))
        self.write()

    def ready(self) -> None:
        """Report that the sandbox is ready."""
        self.enter("running")
        seconds = self.elapsed_seconds
        self._report(Event("ready", f"ready after {seconds:.1f} s", seconds=seconds))

    def end(self, state: str, error: BaseException | None) -> None:
        """Write the last status of this start."""
        self._facts |= {"state": state, "ended_at": time.time()}
        if isinstance(error, KataDindError):
            self._facts["error"] = error.as_fields()
        elif error is not None:
            self._facts["error"] = {"summary": f"{type(error).__name__}: {error}"}
        self.write()
        self._forget_rewrite()  # later this process may not be the sandbox's owner any more

    def write(self) -> None:
        """Write what is known; where the disk is full, try again later."""
        again = self._forget_rewrite()
        try:
            self._record.write_status(
                {**self._facts, "warnings": self.warnings, "phases": self._phases, "timings": _timings(self._phases)}
            )
        except OSError as error:
            # `ls` asks the lock whether a sandbox runs, and not this file. The status may have to tell just that the
            # disk is full, and no other event may come that would write it, so it is tried again.
            if not again:
                logger.warning("cannot write the status: %s", error)
            self._rewrite = asyncio.get_running_loop().call_later(_REWRITE_SECONDS, self.write)

    def _forget_rewrite(self) -> bool:
        """Give up another attempt at the status; tell whether there was to be one."""
        rewrite, self._rewrite = self._rewrite, None
        if rewrite is not None:
            rewrite.cancel()
        return rewrite is not None


def _timings(phases: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds from the start to each milestone, and the proof's own."""
    until, ends = 0.0, {}
    for phase in phases:
        until += phase["seconds"]
        ends[phase["name"]] = round(until, 3)
    # A guest that boots is up when it has booted; one that ran before is up when its machine is.
    up = ends.get("boot", ends.get("machine"))
    proof = next((phase["seconds"] for phase in phases if phase["name"] == "proof"), None)
    named = {"boot_seconds": up, "docker_seconds": ends.get("dockerd"), "ready_seconds": ends.get("proof"),
             "proof_seconds": proof}  # fmt: skip
    return {name: seconds for name, seconds in named.items() if seconds is not None}
