"""QEMU's argument list, computed from a shape: each device knows its own arguments. Pure."""

from __future__ import annotations

import os

from kata_dind.machine.shape import Disk, MachineShape, Wiring
from kata_dind.vocabulary import Accelerator

AGENT_PORT = "kata-dind.agent"
SHARE_TAG = "kataShared"
"""Kata's tag, so that the guest sees what a Kata guest sees."""

# x86-64-v2: glibc of current enterprise distributions refuses less. qemu64 without AVX runs Docker 1.6 times faster in
# TCG than `max`, whose wide string functions must be emulated; rdrand saves dockerd 1.4 s of waiting for entropy.
TCG_CPU = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"

GUEST_NETWORK = "198.18.1.0/24"
GUEST_ADDRESS = "198.18.1.15/24"
GUEST_GATEWAY = "198.18.1.2"
"""QEMU's user network. 198.18.0.0/15 is for benchmarks (RFC 2544), so no real network is hidden by it."""

NETWORK_ID = "network"
"""What QEMU calls its user network."""

_SERIAL_LIMIT = 20


def qemu_binary() -> str:
    """Return the name of the QEMU program for this host's architecture."""
    return f"qemu-system-{os.uname().machine}"


def machine_argv(shape: MachineShape, wiring: Wiring) -> list[str]:
    """Compute the whole argument list. Source: qemu(1); the shape is like the one Kata gives its guests."""
    argv = [
        qemu_binary(),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-name", f"guest={shape.name},debug-threads=on",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]  # fmt: skip
    argv += _accelerator(shape)
    argv += _memory(shape, wiring)
    if wiring.state_fd is None:
        argv += _kernel(shape)
    else:
        # There is no kernel to boot. QEMU must not read the state until it was told where the memory is.
        argv += ["-incoming", "defer"]
    argv += _wires(wiring)
    argv += _hotplug_ports(shape.hotplug_ports)
    for disk in shape.disks:
        argv += _disk(disk)
    if shape.network:
        argv += _network()
    if wiring.virtiofsd_socket is not None:
        argv += ["-chardev", f"socket,id=share,path={_escaped(wiring.virtiofsd_socket)}"]
        argv += ["-device", f"vhost-user-fs-pci,chardev=share,tag={SHARE_TAG}"]
    return argv


def _accelerator(shape: MachineShape) -> list[str]:
    if shape.accelerator is Accelerator.KVM:
        return ["-machine", "q35,accel=kvm,memory-backend=ram,vmport=off,hpet=off", "-cpu", "host"]
    return ["-machine", "q35,accel=tcg,memory-backend=ram,vmport=off,hpet=off", "-cpu", TCG_CPU]


def _memory(shape: MachineShape, wiring: Wiring) -> list[str]:
    # vhost-user-fs reads the guest's memory in another process; without it only QEMU uses the memory.
    kind, share = "memfd", shape.shared_directory
    if shape.memory_file:
        kind, share = f"file,mem-path={_escaped(shape.memory_file.path)}", shape.memory_file.written
    elif wiring.memory_fd is not None:
        kind = f"file,mem-path=/proc/self/fd/{wiring.memory_fd}"  # memory-backend-memfd takes no descriptor
    elif wiring.state_fd is not None and not share:
        kind = "ram"  # QEMU looks at each page before it reads zeros into it, which in a memfd makes a page of it
    return [
        "-smp", f"{shape.cpus},maxcpus={shape.most_cpus}" if shape.most_cpus else str(shape.cpus),
        "-m", f"{shape.memory_mib}M" + (f",slots=1,maxmem={shape.most_memory_mib}M" if shape.most_memory_mib else ""),
        "-object", f"memory-backend-{kind},id=ram,size={shape.memory_mib}M,share={'on' if share else 'off'}",
    ]  # fmt: skip


def _kernel(shape: MachineShape) -> list[str]:
    arguments = ["console=ttyS0", "quiet", "loglevel=5", "panic=-1", "random.trust_cpu=on", "cgroup_no_v1=all"]
    # The host pays for what a guest's kernel does unasked: to check twice a second whether memory is fragmented, and
    # to copy the heaps of dockerd and containerd into large pages, 20 MiB of which each clone then has for itself.
    arguments += ["sysctl.vm.compaction_proactiveness=0", "transparent_hugepage=madvise"]
    # Half of what dockerd writes is deleted within seconds: the archive that it loads, and what a build's steps leave.
    # With the kernel's own limits, 10 and 20 percent of memory, it reaches the disk first, and the writer waits.
    arguments += ["sysctl.vm.dirty_background_ratio=30", "sysctl.vm.dirty_ratio=50"]
    if shape.most_memory_mib:
        # Memory that is plugged in is used at once. Where memory could lie above 4 GiB, Linux sets 64 MiB aside to
        # copy through for devices that can't reach so far; all of our devices can.
        arguments += ["memhp_default_state=online", "swiotlb=noforce"]
    return [
        "-kernel", str(shape.kernel),
        "-initrd", str(shape.initramfs),
        "-append", " ".join([*arguments, *shape.kernel_arguments]),
    ]  # fmt: skip


def _monitor(name: str, fd: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={fd}", "-mon", f"chardev={name},mode=control"]


def _wires(wiring: Wiring) -> list[str]:
    first = [] if wiring.first_fd is None else _monitor("first", wiring.first_fd)
    return [
        *first,
        *_monitor("qmp", wiring.qmp_fd),
        "-chardev", f"file,id=console,append=on,path={_escaped(wiring.console)}",
        "-serial", "chardev:console",
        "-object", "rng-builtin,id=entropy",
        "-device", "virtio-rng-pci,rng=entropy",
        "-device", "virtio-serial-pci,max_ports=4",
        "-chardev", f"socket,id=agent,fd={wiring.agent_fd}",
        "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
    ]  # fmt: skip


def _hotplug_ports(count: int) -> list[str]:
    ports = [f"pcie-root-port,id=hotplug{number},chassis={number + 1}" for number in range(count)]
    return [word for port in ports for word in ("-device", port)]


def node_name(serial: str) -> str:
    """Return what QEMU calls the disk with a serial number."""
    return f"disk-{serial}"


def _disk(disk: Disk) -> list[str]:
    if len(disk.serial) > _SERIAL_LIMIT:
        raise ValueError(f"a serial number of more than {_SERIAL_LIMIT} characters: {disk.serial}")
    node = node_name(disk.serial)
    read_only = "on" if disk.read_only else "off"
    discard = "" if disk.read_only else ",discard=unmap"
    device = f"virtio-blk-pci,drive={node},serial={disk.serial}"
    if not disk.read_only:
        # QEMU pauses the guest when the host's disk is full, since its file systems would take the error for a broken
        # disk. This is the default, and named because `Machine` counts on it; the guest hears of all other errors.
        device += ",werror=enospc"
    driver = f"raw,node-name={node}"
    if disk.backing:
        # Named here, so that the name in the qcow2's header is never followed.
        driver = (
            f"qcow2,node-name={node},backing.driver=raw,backing.read-only=on,backing.file.driver=file,"
            f"backing.file.read-only=on,backing.file.filename={_escaped(disk.backing)}"
        )
    return [
        "-blockdev",
        f"driver={driver},read-only={read_only}{discard},"
        f"file.driver=file,file.read-only={read_only}{discard.replace(',', ',file.')},"
        f"file.filename={_escaped(disk.path)}",
        "-device", device,
    ]  # fmt: skip


def _network() -> list[str]:
    # A restored guest need not announce itself by packets: it is alone on its network.
    return [
        "-netdev", f"user,id={NETWORK_ID},net={GUEST_NETWORK},host={GUEST_GATEWAY},ipv6=off",
        "-device", f"virtio-net-pci,netdev={NETWORK_ID},romfile=,guest_announce=off",
    ]  # fmt: skip


def _escaped(path: object) -> str:
    """Double the commas, which end a value in QEMU's option syntax."""
    return str(path).replace(",", ",,")
