"""The guest's way out: QEMU's user network, in a network namespace whose only exit is slirp4netns.

QEMU's user network maps the guest's gateway to the loopback of the host, so QEMU runs in a namespace whose loopback is
empty. slirp4netns carries what leaves the namespace, and routing rules in the namespace close what no guest should
reach. No privilege is needed beyond a user namespace. The namespace ends with QEMU, so nothing is left then.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kata_dind.errors import HostError, PermissionMissing, ProcessExited
from kata_dind.host.namespaces import private_network_argv
from kata_dind.host.process import Daemon, daemon

OUTER_NETWORK = "198.18.0.0/24"
OUTER_DNS = "198.18.0.3"
LINK_LOCAL = "169.254.0.0/16"
_TUN_DEVICE = Path("/dev/net/tun")

# The exits are closed before the program begins; its way out opens while it runs. The path leads through /proc since
# the redirections of dash know one-digit descriptors only. QEMU has a descriptor for each connection of the guest.
_CLOSE_AND_EXEC = """
ulimit -n "$(ulimit -H -n)"
printf x >"/proc/self/fd/$0"
[ -z "$1" ] || printf '%s\\n' "$1" | ip -batch - || exit 1
shift
exec "$@"
"""


def routing_rules(*, allow_link_local: bool) -> list[str]:
    """Compute `ip -batch` lines that close a namespace's exits.

    libslirp forwards the DNS alias to the host's resolver on every port, and that resolver may be a loopback address:
    so only port 53 of it stays open. Link-local addresses hold a cloud's metadata service.
    """
    rules = [
        f"rule add pref 100 to {OUTER_DNS} ipproto udp dport 53 lookup main",
        f"rule add pref 101 to {OUTER_DNS} ipproto tcp dport 53 lookup main",
        f"rule add pref 102 to {OUTER_DNS} type unreachable",
        "link set lo up",
    ]
    if not allow_link_local:
        rules.append(f"route add unreachable {LINK_LOCAL}")
    return rules


def slirp4netns_argv(pid: int, *, ready_fd: int, exit_fd: int) -> list[str]:
    """Compute the arguments of slirp4netns for the namespace of a process. Source: slirp4netns(1)."""
    return [
        "slirp4netns",
        "--configure",
        "--mtu=65520",
        f"--cidr={OUTER_NETWORK}",
        "--disable-host-loopback",
        "--enable-seccomp",
        f"--ready-fd={ready_fd}",
        f"--exit-fd={exit_fd}",
        str(pid),
        "tap0",
    ]


class Isolation(NamedTuple):
    """How a program is kept apart from the host's network."""

    unshare: Path
    as_root: bool
    outbound: bool
    allow_link_local: bool = False


class WayOut:
    """The way out of a guest's network namespace, which opens while the program in it starts."""

    def __init__(self, slirp: Daemon | None, ready_fd: int) -> None:
        self._slirp = slirp
        self._ready_fd = ready_fd

    def wait_until_open(self) -> None:
        """Wait until the guest can get out, if it may. Raises HostError when it can't."""
        if self._slirp is not None:
            _wait_for_byte(self._ready_fd, self._slirp, "give the guest a network", id="network.no-way-out")


@contextlib.contextmanager
def isolated_daemon(
    argv: Sequence[str], isolation: Isolation, *, name: str, log: Path, pass_fds: Sequence[int]
) -> Iterator[tuple[Daemon, WayOut]]:
    """Run a program in a network namespace of its own, with a guarded way out or none.

    Raises HostError when the namespace or its way out can't be made.
    """
    with contextlib.ExitStack() as stack:
        made_read, made_write = _pipe(stack)
        rules = routing_rules(allow_link_local=isolation.allow_link_local) if isolation.outbound else []
        closing = ["sh", "-c", _CLOSE_AND_EXEC, str(made_write), "\n".join(rules), *argv]
        wrapped = private_network_argv(closing, unshare=isolation.unshare, as_root=isolation.as_root)
        process = stack.enter_context(
            daemon(wrapped, name=name, log=log, pass_fds=[*pass_fds, made_write], command=argv)
        )
        _wait_for_byte(made_read, process, "make a network namespace", id="network.namespace-failed")
        way_out = WayOut(None, -1)
        if isolation.outbound:
            way_out = stack.enter_context(_open_exit(process, log.with_name("network.log")))
        yield process, way_out


def require_tun_device() -> None:
    """Raise PermissionMissing when this user can't open what slirp4netns needs."""
    if not os.access(_TUN_DEVICE, os.R_OK | os.W_OK):
        why = "may not open" if _TUN_DEVICE.exists() else "has no"
        raise PermissionMissing(
            f"this user {why} {_TUN_DEVICE}, through which a guest reaches the network",
            id="network.no-tun-device",
            hint="kata-dind setup, or --network none",
        )


@contextlib.contextmanager
def _open_exit(process: Daemon, log: Path) -> Iterator[WayOut]:
    with contextlib.ExitStack() as stack:
        ready_read, ready_write = _pipe(stack)
        exit_read, _exit_write = _pipe(stack)  # slirp4netns ends when our end closes, also when we are killed
        argv = slirp4netns_argv(process.pid, ready_fd=ready_write, exit_fd=exit_read)
        slirp = stack.enter_context(daemon(argv, name="slirp4netns", log=log, pass_fds=[ready_write, exit_read]))
        yield WayOut(slirp, ready_read)


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _wait_for_byte(fd: int, process: Daemon, what: str, *, id: str, timeout_seconds: float = 10.0) -> None:
    ready = select.select([fd, process.pidfd], [], [], timeout_seconds)[0]
    if fd in ready and os.read(fd, 1):
        return
    cause = ProcessExited(process.describe_end(), id="process.exited")
    raise HostError(
        f"cannot {what}",
        id=id,
        details=str(cause),
        hint="--network none, or see Troubleshooting, https://kata-dind.io/docs/troubleshooting",
    ) from cause
