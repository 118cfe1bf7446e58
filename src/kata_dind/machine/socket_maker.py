"""Makes sockets in the network namespace that it runs in, and hands them to the process that has started it.

A program of its own, started by `machine.namespace_sockets`. It loads as little as it can, to be there at once. Each
byte that it receives is a kind of socket; each answer is that kind and an error number, with the socket if that is 0.
It ends when the other side has closed the channel, in whatever way.
"""

import _socket
import sys

TCP, UDP, DIAGNOSIS = 1, 2, 3
"""The last one asks Linux about sockets. Source: sock_diag(7)."""

_KINDS = {
    TCP: (_socket.AF_INET, _socket.SOCK_STREAM, 0),
    UDP: (_socket.AF_INET, _socket.SOCK_DGRAM, 0),
    DIAGNOSIS: (_socket.AF_NETLINK, _socket.SOCK_RAW, 4),
}


def serve(channel: _socket.socket) -> None:
    """Answer until there is nobody to answer."""
    while kinds := channel.recv(256):
        for kind in kinds:
            try:
                family, type_, protocol = _KINDS[kind]
                made = _socket.socket(family, type_ | _socket.SOCK_NONBLOCK, protocol)
            except OSError as error:
                channel.send(bytes((kind, error.errno or 1)))
                continue
            channel.sendmsg(
                [bytes((kind, 0))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, made.fileno().to_bytes(4, sys.byteorder))]
            )
            made.close()


if __name__ == "__main__":
    try:  # noqa: SIM105 - contextlib takes longer to load than all the rest
        serve(_socket.socket(fileno=int(sys.argv[1])))
    except (BrokenPipeError, ConnectionResetError):
        pass
