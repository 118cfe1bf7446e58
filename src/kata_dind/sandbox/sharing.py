"""The shares of a sandbox that exists: added and taken away while it runs or is stopped, and kept for later starts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kata_dind.errors import SandboxError, SpecError, error_from_fields
from kata_dind.progress import Event, Report, silent
from kata_dind.sandbox import api
from kata_dind.store.sandboxes import keep_shares, keep_watch, require_record

if TYPE_CHECKING:
    from kata_dind.sandbox.handle import Sandbox
    from kata_dind.spec import Share
    from kata_dind.store.sandboxes import Record

_CHANGE_SECONDS = 120.0


def list_shares(name: str) -> list[dict[str, Any]]:
    """Return the shares of a sandbox: `host_path`, `guest_path`, `read_only`, and whether the path `exists` now."""
    shares = require_record(name).read("spec.json").get("shares") or []
    return [{**share, "exists": os.path.exists(share["host_path"])} for share in shares]  # noqa: PTH110 - a text


def add_share(name: str, share: Share, *, report: Report = silent) -> None:
    """Give a sandbox a share, which its later starts have, too. Without effect for what it sees there already.

    A sandbox that was started without shares is saved and resumed for its first one: its containers run on, and the
    connections of clients are closed. Raises SpecError, SandboxError, HostError.
    """
    from kata_dind.host.shareable import require_shareable
    from kata_dind.spec import spec_from_json

    record = require_record(name)
    require_shareable(share.host_path)
    fields = share.model_dump(mode="json")
    others = spec_from_json(record.read("spec.json")).shares
    if share in others:
        return
    if outer := next((other for other in others if _shows(other, share)), None):
        report(Event("notice", f"{name} sees {share.guest_path} already, since {outer.guest_path} is shared"))
        return
    _require_room(name, share, others)
    if not record.is_owned():
        _change(record, lambda shares: [*shares, fields])
        return
    try:
        _ask(record, {"kind": "share", "share": fields})
    except SandboxError as error:
        if error.id != "share.needs-resume":
            raise
        _resume_with(api.require_sandbox(name), record, fields, report=report)


def remove_share(name: str, guest_path: str) -> None:
    """Take the share away that a sandbox has at a path. Raises SpecError without one; SandboxError, HostError."""
    record = require_record(name)
    paths = [share["guest_path"] for share in record.read("spec.json").get("shares") or []]
    if guest_path not in paths:
        raise SpecError(
            f"the sandbox '{name}' has no share at {guest_path}; its shares are {', '.join(paths) or 'none'}",
            id="share.unknown",
            hint=f"kata-dind share ls {name}",
        )
    if record.is_owned():
        _ask(record, {"kind": "unshare", "guest_path": guest_path})
    else:
        _change(record, lambda shares: [share for share in shares if share["guest_path"] != guest_path])


def watch_shares(name: str, *, on: bool) -> None:
    """Tell programs in a sandbox's containers of changes in its shares, from now on and in later starts, or no longer.

    Raises SpecError for a backend that can't; SandboxError for a sandbox that is being saved or stopped.
    """
    from kata_dind.spec import parse_spec

    record = require_record(name)
    if on:
        parse_spec(name=name, backend=record.read("spec.json").get("backend"), watch=True)
    if record.is_owned():
        _ask(record, {"kind": "watch", "on": on})
    else:
        with record.owned():
            keep_watch(record, on=on)


def _resume_with(sandbox: Sandbox, record: Record, fields: dict[str, Any], *, report: Report) -> None:
    report(Event("notice", f"{sandbox.name} has no shares yet: it is saved and resumed for the first one; "
                           "its containers run on, and connections to it are closed"))  # fmt: skip
    try:
        sandbox.stop(save=True, report=report)
    except SpecError as error:
        raise SandboxError(
            f"'{sandbox.name}' gets its first share at its next start: {error.summary.rpartition(': ')[2]}",
            id="share.needs-start",
            hint=f"kata-dind stop {sandbox.name}, the same command again, and kata-dind start {sandbox.name}",
        ) from error
    _change(record, lambda shares: [*shares, fields])
    api.start(sandbox.name, report=report)


def _shows(outer: Share, share: Share) -> bool:
    """Tell whether a share has another one in it, under the same path and with the same access."""
    if outer.read_only != share.read_only or not share.guest_path.is_relative_to(outer.guest_path):
        return False
    return share.host_path == outer.host_path / share.guest_path.relative_to(outer.guest_path)


def _require_room(name: str, share: Share, others: Sequence[Share]) -> None:
    """Raise SpecError for a share that the sandbox's others leave no room for."""
    from kata_dind.spec import parse_spec

    try:
        parse_spec(name=name, shares=(*others, share))
    except SpecError as error:
        covered = [str(other.guest_path) for other in others if other.guest_path.is_relative_to(share.guest_path)]
        if covered:
            error.hint = f"kata-dind share rm {shlex.join([name, *covered])}"
        raise


def _change(record: Record, change: Callable[[list[Any]], list[Any]]) -> None:
    with record.owned():
        keep_shares(record, change)


def _ask(record: Record, request: dict[str, Any]) -> None:
    from kata_dind.wire.client import ask

    late = f"the sandbox '{record.name}' did not answer within {_CHANGE_SECONDS:g} s"
    answer = ask(record.control, request, timeout_seconds=_CHANGE_SECONDS, late=late)
    if "summary" in answer:
        raise error_from_fields(answer)
    if "error" in answer:  # of a supervisor of an earlier version
        raise SandboxError(str(answer["error"]), id="share.not-supported")
