"""Requests and streams as the agent knows them: frames of the guest's channel."""

from __future__ import annotations

import os
import time
from typing import Any

from kata_dind.backend.vm.plan import VmPlan, container_request
from kata_dind.guest.agent import protocol
from kata_dind.wire.channel import Channel, ChannelClosed, ChannelStream
from kata_dind.wire.requests import (
    Docker,
    End,
    Exec,
    Output,
    PublishedPorts,
    Request,
    Result,
    StreamLost,
    Terminal,
    exec_to_json,
    result_from_json,
)


def agent_request(request: Request, plan: VmPlan) -> dict[str, Any]:
    """Return a request as the agent expects it."""
    if isinstance(request, Docker):
        return {"kind": "docker"}
    if isinstance(request, Exec):
        return exec_to_json(request)
    if isinstance(request, PublishedPorts):
        return {"kind": "ports"}
    # With the time, since the HELLO of a cold start was sent before the whole boot.
    container = container_request(plan, check=request.check, entropy=os.urandom(64))
    return {**container, "time": time.time()}


def open_stream(channel: Channel, request: Request, plan: VmPlan) -> AgentStream:
    """Ask the agent for something. Raises StreamLost when the guest is gone."""
    try:
        return AgentStream(channel.open(agent_request(request, plan)))
    except ChannelClosed as error:
        raise StreamLost(str(error)) from error


class AgentStream:
    """A request that the agent serves."""

    def __init__(self, stream: ChannelStream) -> None:
        self._stream = stream

    @property
    def result(self) -> Result | None:
        """How it ended; None while it is open."""
        return None if self._stream.result is None else result_from_json(self._stream.result)

    async def receive(self) -> Output | End | None:
        """Return the next output or end; None when the stream has ended. Raises StreamLost."""
        try:
            while (frame := await self._stream.receive()) is not None:
                if frame.kind == protocol.DATA:
                    return Output(frame.payload, frame.substream == protocol.ERROR)
                if frame.kind == protocol.END:
                    return End()
        except ChannelClosed as error:
            raise StreamLost(str(error)) from error
        return None

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for credit. Raises StreamLost."""
        try:
            await self._stream.send(data)
        except ChannelClosed as error:
            raise StreamLost(str(error)) from error

    def end(self) -> None:
        """Say that no more bytes follow."""
        self._stream.end()

    def resize(self, terminal: Terminal) -> None:
        """Give a command's terminal another size."""
        self._stream.control({"rows": terminal.rows, "columns": terminal.columns})

    def signal(self, number: int) -> None:
        """Send a command a signal."""
        self._stream.control({"signal": number})

    def close(self) -> None:
        """End both directions."""
        self._stream.close()
