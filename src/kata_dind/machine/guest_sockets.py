"""Connections to a guest through QEMU's forwarding, which hides how the guest has ended one.

When the guest resets a connection, libslirp closes its own end as if all was well. But then it has closed it for both
directions, and for one that the guest has ended in order only for one; Linux tells the difference.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BY_FAMILY, _REQUEST, _ANY_COOKIE = 20, 1, b"\xff" * 8
_ASKED = struct.Struct("=IHHII BBBxI")
_ANSWER_INODE = 16 + 4 + 48 + 16
"""The place of the inode in an answer. Source: struct inet_diag_msg, sock_diag(7)."""

Place = tuple[str, int]


class Diagnosis:
    """Asks Linux about the TCP sockets of the network namespace that its own socket is from."""

    def __init__(self, netlink: socket.socket) -> None:
        self._netlink = netlink
        self.works = False
        """Whether this Linux answers. It has said so of a socket that is there, since its refusals say nothing."""

    def find_out(self, listening: Place) -> None:
        """Find out whether Linux answers, by a socket that listens."""
        self.works = self._inode(listening, ("0.0.0.0", 0)) > 0

    def is_open(self, connected: Place, peer: Place) -> bool:
        """Tell whether a connected socket belongs to a process."""
        return not self.works or self._inode(connected, peer) > 0

    def close(self) -> None:
        """Ask no more."""
        self.works = False
        self._netlink.close()

    def _inode(self, source: Place, target: Place) -> int:
        ports = struct.pack("!HH", source[1], target[1])
        addresses = b"".join(socket.inet_aton(place[0]).ljust(16, b"\0") for place in (source, target))
        asked = b"%s%s%s%s" % (ports, addresses, bytes(4), _ANY_COOKIE)
        length = _ASKED.size + len(asked)
        head = _ASKED.pack(
            length, _BY_FAMILY, _REQUEST, 0, 0, socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF
        )  # fmt: skip
        try:
            self._netlink.send(head + asked)
            answer = self._netlink.recv(4096)
        except OSError:
            return 0
        kind = int.from_bytes(answer[4:6], "little")
        return struct.unpack_from("=I", answer, _ANSWER_INODE)[0] if kind == _BY_FAMILY else 0


class GuestSocket(socket.socket):
    """A connected socket that raises ConnectionResetError where the guest has reset the connection."""

    __slots__ = ("_diagnosis", "_places", "_was_shut")

    def __init__(self, connected: socket.socket, diagnosis: Diagnosis) -> None:
        """Take over a socket."""
        self._places = (connected.getpeername(), connected.getsockname())
        self._diagnosis = diagnosis
        self._was_shut = False
        super().__init__(fileno=connected.detach())

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count:
            self._require_in_order()
        return count

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive bytes."""
        data = super().recv(bufsize, flags)
        if not data:
            self._require_in_order()
        return data

    def shutdown(self, how: int) -> None:
        """End a direction."""
        self._was_shut = True
        super().shutdown(how)

    def _require_in_order(self) -> None:
        # When both sides have ended their halves, QEMU's socket may be closed.
        if not self._was_shut and not self._diagnosis.is_open(*self._places):
            raise ConnectionResetError(errno.ECONNRESET, "the guest has reset the connection")
