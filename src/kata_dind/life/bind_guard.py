"""Deciding about the requests that wait at a sandbox's endpoint: what lies where, by the host and by the guest."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Sequence

from kata_dind.backend import Guest
from kata_dind.life.binds import Answer, Found, Refused, asked_sources, judge, refusal, shares_of
from kata_dind.store.sandboxes import Record
from kata_dind.wire.http_messages import Request, answer, path_of
from kata_dind.wire.requests import Exec, Output

MOST_HELD_BYTES = 16 << 20
"""dockerd itself knows no limit for a request that makes a container; real ones have a few KiB."""

_WHICH_EXIST = 'for path; do if [ -e "$path" ] || [ -L "$path" ]; then echo yes; else echo no; fi; done'


class BindGuard:
    """Decides for one sandbox."""

    def __init__(self, record: Record, guest: Guest) -> None:
        self._record = record
        self._guest = guest

    async def refused(self, request: Request, body: bytes) -> bytes | None:
        """Return the answer to a request that must not reach dockerd; None for one that may. Raises StreamLost."""
        sources = asked_sources(path_of(request.target), body)
        if not sources:
            return None
        judged = await asyncio.to_thread(self._judged, sources)
        questions = [path for _, path, verdict in judged if verdict is Answer.ASK_GUEST]
        in_guest = await self._in_guest(questions) if questions else set()
        lacking = [
            (source, path)
            for source, path, verdict in judged
            if verdict is not Answer.ALLOWED and (verdict is Answer.NOT_SHARED or path not in in_guest)
        ]
        if not lacking:
            return None
        refusals = [Refused(source, path, await asyncio.to_thread(find, path)) for source, path in lacking]
        absent = all(each.found is Found.NOTHING for each in refusals)
        return error(request, "400 Bad Request" if absent else "403 Forbidden", refusal(self._record.name, refusals))

    def _judged(self, sources: Sequence[str]) -> list[tuple[str, str, Answer]]:
        shares = shares_of(self._record.read("spec.json"))
        judged = [(source, *judge(source, shares, on_host=find, link=read_link)) for source in sources]
        return [(source, path, verdict) for source, verdict, path in judged]

    async def _in_guest(self, paths: Sequence[str]) -> set[str]:
        """Return the paths that exist beside dockerd."""
        stream = self._guest.open(Exec(("sh", "-c", _WHICH_EXIST, "sh", *paths)))
        said = b""
        try:
            stream.end()
            while (part := await stream.receive()) is not None:
                if isinstance(part, Output) and not part.is_error:
                    said += part.data
        finally:
            stream.close()
        return {path for path, word in zip(paths, said.split(), strict=False) if word == b"yes"}


def too_long(request: Request) -> bytes:
    """Return the answer to a request that is too long to be looked at."""
    what = f"a request of more than {MOST_HELD_BYTES >> 20} MiB that makes a container or a volume is not passed on"
    return answer("413 Request Entity Too Large", _message(what), close=True)


def error(request: Request, status: str, message: str) -> bytes:
    """Return an answer as dockerd's are."""
    return answer(status, _message(message), close=request.is_last)


def find(path: str) -> Found:
    """Look for a path of this host; what this user may not look at counts as there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - the path is a guest's, too
    except (FileNotFoundError, NotADirectoryError):
        return Found.NOTHING
    except (OSError, ValueError):
        return Found.SOMETHING
    return Found.SOCKET if stat.S_ISSOCK(mode) else Found.SOMETHING


def read_link(path: str) -> str | None:
    """Read a link of this host; None for what is not one."""
    try:
        return os.readlink(path)  # noqa: PTH115 - as above
    except (OSError, ValueError):
        return None


def _message(text: str) -> bytes:
    return json.dumps({"message": text}).encode() + b"\n"
