"""Telling the guest what was changed in its shares; what it does then is in `kata_dind.guest.agent.touching`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kata_dind.backend.vm.streams import AgentStream
from kata_dind.errors import SandboxError
from kata_dind.wire.channel import Channel, ChannelClosed
from kata_dind.wire.requests import Output, StreamLost


def open_toucher(channel: Channel) -> AgentStream:
    """Ask the agent for a process that touches files. Raises StreamLost."""
    try:
        return AgentStream(channel.open({"kind": "touch"}))
    except ChannelClosed as error:
        raise StreamLost(str(error)) from error


async def touch(toucher: AgentStream, guest_paths: Sequence[str]) -> None:
    """Let it touch paths, and wait until it has. Raises SandboxError, StreamLost."""
    await toucher.send(b"".join(os.fsencode(path) + b"\0" for path in guest_paths) + b"\0")
    said = b""
    while (part := await toucher.receive()) is not None:
        if isinstance(part, Output) and not part.is_error:
            return
        said += part.data if isinstance(part, Output) else b""
    result = toucher.result
    why = (result.error if result else "") or said.decode(errors="replace").strip() or "its process has ended"
    raise SandboxError(f"the guest can't report changes: {why}", id="share.not-touched")
