"""The parts of a machine, from which `argv` computes QEMU's arguments, and the deadlines of its shutdown: plain values.

Named tuples, as in other modules that are imported before QEMU starts: a dataclass takes Python three times as long
to make, 0.5 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kata_dind.vocabulary import Accelerator

GUEST_OS, MODULES, IMAGE, LAYER, DATA = "guest-os", "modules", "image", "layer", "data"
"""Serial numbers of the disks, by which the guest finds them."""


class Disk(NamedTuple):
    """A virtio-blk disk; `serial` has at most 20 characters."""

    serial: str
    path: Path
    read_only: bool = False
    backing: Path | None = None
    """The raw disk that this one, a qcow2, lies over; None for a raw disk."""


class MemoryFile(NamedTuple):
    """A file that is the guest's memory, of its size.

    A machine that is to become a seed writes to it. A clone keeps what its guest writes in its own copies of the pages,
    and leaves the file as it is.
    """

    path: Path
    written: bool


class MachineShape(NamedTuple):
    """Everything about a machine that does not change from one start to the next."""

    accelerator: Accelerator
    cpus: int
    memory_mib: int
    kernel: Path
    initramfs: Path
    disks: tuple[Disk, ...]
    kernel_arguments: tuple[str, ...] = ()
    network: bool = True
    shared_directory: bool = False
    memory_file: MemoryFile | None = None
    """None for memory without a file, which can't be cloned."""
    hotplug_ports: int = 4
    most_cpus: int = 0
    """How many processors it may get while it runs; 0 for no more than it has."""
    most_memory_mib: int = 0
    """How much memory it may get while it runs; 0 for no more than it has."""
    name: str = "kata-dind"


class Wiring(NamedTuple):
    """The connections of one start of a machine to us: descriptors that QEMU inherits, and paths."""

    qmp_fd: int
    agent_fd: int
    console: Path
    virtiofsd_socket: Path | None = None
    state_fd: int | None = None
    """The state to restore or resume instead of booting; the memory is the shape's memory file, `memory_fd`, or in this
    file, too."""
    memory_fd: int | None = None
    """A file that is the guest's memory and that the guest writes to, so that another process can see it."""
    first_fd: int | None = None
    """A second QMP socket, with commands that QEMU reads before we listen for its answers."""


class StopDeadlines(NamedTuple):
    """How long each step of a shutdown may take, in seconds."""

    dockerd_seconds: float = 20.0
    """The time for dockerd and its containers, from the agent's TERM on."""
    guest_seconds: float = 8.0
    """The time from dockerd's end to the machine's own power-off."""
    quit_seconds: float = 3.0
    """The time for QEMU's `quit`; then follow TERM and KILL, as for every daemon."""


IN_ORDER = StopDeadlines()

# What the guest writes to shares goes through at once, and the agent syncs; dockerd's own files are removed with the
# sandbox.
EPHEMERAL = StopDeadlines(dockerd_seconds=0)

CUT_OFF = StopDeadlines(dockerd_seconds=0, guest_seconds=0)
