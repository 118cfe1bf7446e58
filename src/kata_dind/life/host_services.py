"""Services of the host's loopback that the guest may reach, by the ports that the user has named."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from kata_dind.backend import Guest
from kata_dind.life.connections import Connections, reset

logger = logging.getLogger(__name__)

_TOO_MANY_SECONDS = 0.5
"""How long to wait when this process can't have more sockets."""


@contextlib.asynccontextmanager
async def serving_host_ports(guest: Guest) -> AsyncIterator[None]:
    """Let a guest reach what it may reach for the length of the block. Raises SandboxError."""
    if guest.ports is None or not guest.ports.host_ports:
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        services = _Services()
        stack.push_async_callback(services.close)
        for port in guest.ports.host_ports:
            listening = stack.enter_context(await guest.ports.listen(port))
            services.begin(services.accept(listening, port))
        yield


class _Services:
    """The connections of a guest to services of the host."""

    def __init__(self) -> None:
        self._connections = Connections()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def accept(self, listening: socket.socket, port: int) -> None:
        """Accept connections, without end."""
        while True:
            try:
                guest, _ = await asyncio.get_running_loop().sock_accept(listening)
            except OSError as error:
                logger.warning("a connection of the guest to the host's port %d can't be accepted: %s", port, error)
                await asyncio.sleep(_TOO_MANY_SECONDS)
            else:
                self.begin(self._carry(guest, port))

    async def _carry(self, guest: socket.socket, port: int) -> None:
        try:
            service = await _connected(port)
        except OSError as error:
            logger.info("the guest asked for the host's port %d: %s", port, error)
            service = None
        except BaseException:
            guest.close()
            raise
        if service is not None:
            await self._connections.carry(guest, service)
            return
        reset(guest)


async def _connected(port: int) -> socket.socket:
    """Connect to a port of the host's loopback, of either IP version. Raises OSError."""
    try:
        return await _connected_to(socket.AF_INET, "127.0.0.1", port)
    except OSError as error:
        try:
            return await _connected_to(socket.AF_INET6, "::1", port)
        except OSError:  # which says less where the host has no IPv6
            raise error from None


async def _connected_to(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made
