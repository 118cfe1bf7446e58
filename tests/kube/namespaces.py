"""The namespaces and the control groups of a node: what runs in them has the machine's kernel, and no more of it.

Mounts, network, processes and control groups are the node's own, and all of it ends with the block. Its share without
extended attributes is served from outside: a FUSE server that ends together with what is mounted from it waits for
itself, in the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kata_dind.host.process import daemon
from tests.guest.daemons import wait_until_no_loop_lies_in
from tests.guest.shares import wait_until
from tests.kube.groups import hierarchies, make_groups, text_of
from tests.vm.namespace import entered_network

_SECONDS = 30

# What programs keep at fixed places is the node's own, and the kernel's settings that a kubelet sets look as if it had.
_INSIDE = """
set -eu
groups=$1 address=$2 ready=$3
mount -t sysfs sysfs /sys
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 cover /sys/fs/cgroup
while read -r name options; do
	mkdir "/sys/fs/cgroup/$name"
	mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$name"
done <"$groups"
[ -s "$groups" ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
for place in /run /var/lib /var/log; do mount -t tmpfs -o mode=0755 cover "$place"; done
mkdir -p /run/settings /run/lock
while read -r name value; do
	echo "$value" >"/run/settings/${name##*/}"
	mount --bind "/run/settings/${name##*/}" "/proc/sys/$name"
done <<-END
	vm/overcommit_memory 1
	vm/panic_on_oom 0
	kernel/panic 10
	kernel/panic_on_oops 1
	kernel/keys/root_maxkeys 1000000
	kernel/keys/root_maxbytes 25000000
END
# Forwarding is a setting of this network namespace alone.
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add node type bridge
ip address add "$address/32" dev node
ip link set node up
mount --make-rshared /
touch "$ready"
# The kernel then reaps what is orphaned.
exec env --ignore-signal=CHLD sleep infinity
"""


@dataclass(frozen=True)
class Namespaces:
    """Where a node lives."""

    pid: int
    """Its process 1, as we see it."""
    groups: tuple[Path, ...]
    address: str

    def argv(self, *command: str | os.PathLike[str]) -> list[str]:
        """Return the call that runs a command in the node."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "--"]
        return [*_joining(self.groups), *enter, *(str(word) for word in command)]

    def entered_network(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread make its sockets in the node; they stay there."""
        return entered_network(Path(f"/proc/{self.pid}/ns/net"))

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes in the control groups of the node, by their numbers here."""
        found = {}
        for procs in self.groups[0].rglob("cgroup.procs"):
            for pid in map(int, procs.read_text().split()):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def mounts(self) -> list[str]:
        """Return where something is mounted in the node."""
        lines = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines]


def _joining(groups: tuple[Path, ...]) -> list[str]:
    join = "; ".join(f'echo $$ >"{group}/cgroup.procs"' for group in groups)
    return ["sh", "-euc", f'{join}; exec "$@"', "sh"]


@contextlib.contextmanager
def make_namespaces(directory: Path, *, address: str) -> Iterator[Namespaces]:
    """Make them for the length of the block; `directory` holds what is shared without extended attributes."""
    share, shared = directory / "share", directory / "shared"
    share.mkdir()
    shared.mkdir()
    (directory / "groups").write_text(text_of(hierarchies()))
    with contextlib.ExitStack() as stack:
        # Last, when nothing of the node runs any more.
        groups = stack.enter_context(make_groups(f"kata-dind-{directory.name}-{os.getpid()}"))
        bindfs = ["bindfs", "-f", "--xattr-none", str(share), str(shared)]
        server = stack.enter_context(
            daemon(
                ["unshare", "--mount", "--propagation", "private", *bindfs],
                name="bindfs",
                log=directory / "bindfs.log",
            )
        )
        wait_until(functools.partial(_is_mounted, server.pid, shared), what="bindfs serves the share")
        stack.callback(wait_until_no_loop_lies_in, directory)
        # unshare ignores TERM while it waits, so a session that is killed would leave the node.
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]
        unshare += ["--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc"]
        inside = ["sh", "-c", _INSIDE, "sh", str(directory / "groups"), address, str(directory / "ready")]
        node = stack.enter_context(
            daemon(
                [*_joining(groups), "nsenter", f"--mount=/proc/{server.pid}/ns/mnt", *unshare, "--", *inside],
                name="the namespaces of a node",
                log=directory / "namespaces.log",
                rung_seconds=1.0,
            )
        )
        wait_until((directory / "ready").exists, what="the namespaces are there")
        assert not node.ended(), node.describe_end()
        (first,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        yield Namespaces(int(first), groups, address)


def _is_mounted(pid: int, path: Path) -> bool:
    return f" {path} " in Path(f"/proc/{pid}/mountinfo").read_text()
