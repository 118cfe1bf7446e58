"""A sandbox's two sockets: the endpoint, which speaks the Docker API, and the control socket of our own commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from kata_dind.backend import Guest
from kata_dind.errors import KataDindError
from kata_dind.life.relays import relay_command, relay_connection
from kata_dind.store.sandboxes import Record
from kata_dind.wire.channel import READ_BYTES, Channel, ChannelStream
from kata_dind.wire.requests import Docker, StreamLost, exec_from_json

_LAST_WORDS_SECONDS = 1.0


class Commanded(Protocol):
    """Carries out what clients ask over the control socket."""

    def discard(self, guest: Guest) -> None:
        """Don't wait, at the end, for the sandbox's own disks, whose contents are not needed any more."""

    def request_stop(self) -> None:
        """End the sandbox."""

    async def suspend(self) -> None:
        """Suspend the sandbox. Raises KataDindError."""

    async def share(self, share: Mapping[str, Any]) -> None:
        """Give the sandbox a share. Raises KataDindError."""

    async def unshare(self, guest_path: str) -> None:
        """Take a share away. Raises KataDindError."""

    async def watch(self, *, on: bool) -> None:
        """Tell containers of changes in shares, or no longer. Raises KataDindError."""


class Sockets:
    """The sockets, and the clients that are connected to them."""

    def __init__(self, record: Record, commanded: Commanded) -> None:
        self._record = record
        self._commanded = commanded
        self._connections: set[asyncio.Task[None]] = set()
        self._relays: set[asyncio.Task[None]] = set()
        """The tasks that carry clients' connections to the guest."""
        self.turns_away = False
        """Whether clients are turned away, since the guest is being suspended."""

    @contextlib.asynccontextmanager
    async def endpoint(self, guest: Guest) -> AsyncIterator[None]:
        """Serve the Docker API for the length of the block."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._keep(asyncio.current_task())
            try:
                if not self.turns_away:
                    from kata_dind.life.guarded import guarded_upload  # the first client comes when all is ready

                    stream = guest.open(Docker())
                    upload = guarded_upload(reader, writer, stream, record=self._record, guest=guest)
                    await self._relay(relay_connection(reader, writer, stream, upload))
            except StreamLost:
                pass  # the guest has ended a moment ago
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, self._record.endpoint, limit=READ_BYTES, start_serving=False)
        async with _published(server, self._record.endpoint):
            yield

    @contextlib.asynccontextmanager
    async def control(self, guest: Guest) -> AsyncIterator[None]:
        """Serve our own commands for the length of the block."""

        async def serve(stream: ChannelStream, request: dict[str, Any]) -> None:
            if request.get("kind") == "stop" and request.get("save"):
                stream.close(await _answered(self._commanded.suspend()))
            elif request.get("kind") == "share":
                stream.close(await _answered(self._commanded.share(request["share"])))
            elif request.get("kind") == "unshare":
                stream.close(await _answered(self._commanded.unshare(str(request["guest_path"]))))
            elif request.get("kind") == "watch":
                stream.close(await _answered(self._commanded.watch(on=bool(request["on"]))))
            elif request.get("kind") == "stop":
                stream.close({})
                if request.get("discard"):
                    self._commanded.discard(guest)
                self._commanded.request_stop()
            elif request.get("kind") == "exec" and self.turns_away:
                stream.close({"error": "the sandbox is being saved"})
            elif request.get("kind") == "exec":
                await self._command(guest, stream, request)
            else:
                stream.close({"error": f"unknown request {request.get('kind')!r}"})

        def connect() -> Channel:
            channel = Channel(is_host=False, on_open=serve)
            self._keep(asyncio.ensure_future(_until_lost(channel)))
            return channel

        server = await asyncio.get_running_loop().create_unix_server(
            connect, str(self._record.control), start_serving=False
        )
        async with _published(server, self._record.control):
            yield

    async def hang_up(self) -> None:
        """End all that is carried between clients and the guest."""
        relays = [*self._relays]
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def end_connections(self) -> None:
        """Let clients receive what the guest has sent, then close their connections."""
        connections = [*self._connections]
        if connections:
            await asyncio.wait(connections, timeout=_LAST_WORDS_SECONDS)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _command(self, guest: Guest, stream: ChannelStream, request: dict[str, Any]) -> None:
        try:
            command = exec_from_json(request)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            stream.close({"error": f"not a command: {error}"})
            return
        with contextlib.suppress(StreamLost):  # the guest has ended a moment ago
            await self._relay(relay_command(stream, guest.open(command)))

    async def _relay(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry a client's connection to the guest, until either of them ends it or we hang up."""
        task = asyncio.ensure_future(work)
        self._relays.add(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._relays.discard(task)
        if not task.cancelled():
            task.result()

    def _keep(self, connection: asyncio.Task[None] | None) -> None:
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)


async def _answered(work: Coroutine[Any, Any, None]) -> dict[str, Any]:
    try:
        await work
    except KataDindError as error:
        return error.as_fields()
    return {}


async def _until_lost(channel: Channel) -> None:
    try:
        await channel.lost.wait()
    finally:
        channel.close()
        await channel.lost.wait()


@contextlib.asynccontextmanager
async def _published(server: asyncio.Server, path: Path) -> AsyncIterator[None]:
    os.chmod(path, 0o600)  # noqa: PTH101 - at once; ASYNC240 would have it in a thread
    try:
        await server.start_serving()  # here, since a cancelled call that makes a server and starts it would leak it
        yield
    finally:
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above
