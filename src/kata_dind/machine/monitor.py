"""The first and the last words on QEMU's QMP sockets, before and after its Python client speaks there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING

from kata_dind.errors import BootFailed

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

logger = logging.getLogger(__name__)

_HANG_UP_SECONDS = 2.0
"""For QEMU to close its end of a QMP socket."""


async def require_restore(qmp_socket: socket.socket) -> None:
    """Read QEMU's answers to `restore_commands`, and hang up. Raises BootFailed when it refuses one of them."""
    with contextlib.suppress(ConnectionResetError):  # QEMU has ended, which is reported elsewhere
        await _hear_answers(
            qmp_socket, 3, refusal=BootFailed("QEMU does not restore the seed's machine", id="vm.restore-refused")
        )
    qmp_socket.close()


async def negotiate(qmp_socket: socket.socket) -> None:
    """Make QEMU take commands. Raises OSError when it ends, BootFailed when it refuses.

    QMPClient can't do it: it takes an event before the answer for a refusal, and a restored guest causes some.
    """
    await asyncio.get_running_loop().sock_sendall(qmp_socket, b'{"execute": "qmp_capabilities"}\n')
    await _hear_answers(qmp_socket, 1, refusal=BootFailed("QEMU does not take commands", id="vm.control-failed"))


async def _hear_answers(qmp_socket: socket.socket, count: int, *, refusal: BootFailed) -> None:
    """Read QEMU's answers to `count` commands; what follows them is left in the socket.

    Raises ConnectionResetError when QEMU ends, `refusal` when it refuses a command.
    """
    while count:
        message = json.loads(await _receive_line(qmp_socket))
        if "error" in message:
            refusal.details = message["error"]["desc"]
            raise refusal
        count -= "return" in message


async def _receive_line(qmp_socket: socket.socket) -> bytes:
    loop, readable, line = asyncio.get_running_loop(), asyncio.Event(), b""
    loop.add_reader(qmp_socket, readable.set)
    try:
        while not line.endswith(b"\n"):
            await readable.wait()
            readable.clear()
            try:
                seen = qmp_socket.recv(1 << 16, socket.MSG_PEEK)
            except BlockingIOError:  # the bytes that the loop had noticed were read meanwhile
                continue
            if not seen:
                raise ConnectionResetError("QEMU has hung up")
            line += qmp_socket.recv(seen.find(b"\n") + 1 or len(seen))
    finally:
        loop.remove_reader(qmp_socket)
    return line


async def disconnect(qmp: QMPClient) -> None:
    """Hang up, whether QEMU still listens or not."""
    try:
        async with asyncio.timeout(_HANG_UP_SECONDS):
            await qmp.disconnect()
    except Exception as error:  # noqa: BLE001 - QEMU may have closed its end first, which qemu.qmp reports in many ways
        logger.debug("the QMP socket is closed: %r", error)
