"""The guest as a machine: modules, network, clock, host name, power."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from . import libc, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
"""Source: linux/random.h; random(4) tells what they do, and which processes may use them."""

_CPUS, _MEMORY = "/sys/devices/system/cpu", "/sys/devices/system/memory"

PORT_NAME = "kata-dind.agent"

# The channel and the network; then modules that dockerd looks for but does not load, and modules that a restored guest
# should have loaded already. The later ones are not waited for.
_FIRST_MODULES = ("virtio_console", "virtio_net")
_LATER_MODULES = ("overlay", "br_netfilter", "ip_tables", "virtio_rng", "virtiofs")


def load_modules() -> None:
    """Load the modules that a Docker guest needs and no alias loads; a kernel without modules has them built in."""
    if os.path.isdir("/lib/modules/" + os.uname().release):
        spawn.run(["modprobe", "-qa", *_FIRST_MODULES])
        os.posix_spawnp("modprobe", ["modprobe", "-qa", *_LATER_MODULES], os.environ)


def require_port() -> int:
    """Open the channel's virtio-serial port, which appears a moment after its driver; raises OSError without one."""
    for _ in range(200):
        port = _find_port()
        if port:
            return os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        time.sleep(0.02)
    raise FileNotFoundError(f"no virtio-serial port is named {PORT_NAME}")


def find_disk(serial: str) -> str | None:
    """Find the block device with a serial number, `/dev/vdb` or so."""
    for name in sorted(os.listdir("/sys/block")):
        if _read(f"/sys/block/{name}/serial") == serial:
            return f"/dev/{name}"
    return None


def require_disk_size(serial: str, least_bytes: int) -> None:
    """Raise OSError as long as the kernel does not know that a disk has grown to a size."""
    name = (find_disk(serial) or "").rpartition("/")[2]
    if int(_read(f"/sys/block/{name}/size") or 0) * 512 < least_bytes:
        raise OSError(errno.EAGAIN, f"the disk {serial} has not become larger")


def require_cpus(count: int) -> None:
    """Raise OSError as long as the kernel knows of fewer processors."""
    last = _read(f"{_CPUS}/present").replace(",", "-").rpartition("-")[2]  # of `0-3`, or of `0`
    if int(last or 0) < count - 1:
        raise OSError(errno.EAGAIN, f"the guest's kernel has not found {count} processors")


def require_memory(least_mib: int) -> None:
    """Raise OSError as long as the kernel uses less memory; it uses plugged memory by itself once it has found it."""
    blocks = [name for name in os.listdir(_MEMORY) if name.removeprefix("memory").isdigit()]
    online = sum(_read(f"{_MEMORY}/{name}/state") == "online" for name in blocks)
    if online * int(_read(f"{_MEMORY}/block_size_bytes"), 16) < least_mib << 20:
        raise OSError(errno.EAGAIN, f"the guest's kernel has not found {least_mib} MiB of memory")


def start_cpus(count: int) -> spawn.Child:
    """Start a process that starts the processors that are not running yet; 0.5 s each in an emulated guest."""

    def become() -> None:
        for number in range(count):
            if _read(f"{_CPUS}/cpu{number}/online") == "0":
                _write(f"{_CPUS}/cpu{number}/online", "1")
        os._exit(0)

    return spawn.spawn(become, size=None)


def set_clock(seconds: float) -> None:
    """Set the clock to the host's, in seconds since the epoch."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def reseed(entropy: bytes) -> None:
    """Reseed the kernel's random number generator with bytes from the host, so that its old state does not matter."""
    random = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(random, _RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy)
        fcntl.ioctl(random, _RNDRESEEDCRNG)
    finally:
        os.close(random)


def write_names(request: dict[str, Any]) -> None:
    """Give the guest its name, a machine id, and a nameserver."""
    hostname = str(request["hostname"])
    _write("/proc/sys/kernel/hostname", hostname)
    network = request.get("network")
    _write("/run/hosts", f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n")
    _write("/run/hostname", f"{hostname}\n")
    _write("/run/machine-id", f"{os.urandom(16).hex()}\n")
    _write("/run/resolv.conf", f"nameserver {network['nameserver']}\n" if network else "")


def configure(request: dict[str, Any]) -> None:
    """Give the guest its names and its network: address, gateway and nameserver, or None."""
    write_names(request)
    network = request.get("network")
    lines = ["link set lo up"]
    if network:
        lines += [
            f"addr add {network['address']} dev eth0",
            "link set eth0 up",
            f"route add default via {network['gateway']}",
        ]
    spawn.run(["ip", "-batch", "-"], stdin=("\n".join(lines) + "\n").encode())


def power_off() -> None:
    """Write everything out and switch the machine off; does not return."""
    os.sync()
    libc.power_off()


def uptime_seconds() -> float:
    """Return the seconds since the kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _find_port() -> str | None:
    base = "/sys/class/virtio-ports"
    try:
        ports = os.listdir(base)
    except OSError:
        return None
    for port in ports:
        if _read(f"{base}/{port}/name") == PORT_NAME:
            return f"/dev/{port}"
    return None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    # Past Python's buffers and codecs: a restored guest does this with code that its emulator has yet to translate.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
