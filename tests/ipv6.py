"""Whether this host has IPv6, which may be switched off while its sockets can still be made."""

from __future__ import annotations

import functools
import socket


@functools.cache
def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
