"""QEMU's arguments as literals: one whole machine per accelerator, then one of each device."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.machine.argv import TCG_CPU, machine_argv, qemu_binary
from kata_dind.machine.shape import DATA, GUEST_OS, Disk, MachineShape, MemoryFile, Wiring
from kata_dind.vocabulary import Accelerator

SHAPE = MachineShape(
    accelerator=Accelerator.TCG,
    cpus=2,
    memory_mib=2048,
    kernel=Path("/cache/vmlinuz"),
    initramfs=Path("/cache/initramfs"),
    disks=(
        Disk(GUEST_OS, Path("/cache/guest.erofs"), read_only=True),
        Disk(DATA, Path("/state/demo/data.img")),
    ),
    name="demo",
)
WIRING = Wiring(qmp_fd=7, agent_fd=9, console=Path("/state/demo/guest.log"))


def arguments_of(shape: MachineShape, wiring: Wiring = WIRING) -> list[tuple[str, str]]:
    """What follows the switches without a value, in pairs."""
    argv = machine_argv(shape, wiring)
    words = [word for word in argv[1:] if word not in ("-nodefaults", "-no-user-config", "-no-reboot")]
    return [*zip(words[::2], words[1::2], strict=True)]


def values_of(option: str, shape: MachineShape, wiring: Wiring = WIRING) -> list[str]:
    return [value for name, value in arguments_of(shape, wiring) if name == option]


def test_a_whole_machine_on_tcg() -> None:
    assert machine_argv(SHAPE, WIRING) == [
        qemu_binary(),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-name", "guest=demo,debug-threads=on",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", "q35,accel=tcg,memory-backend=ram,vmport=off,hpet=off",
        "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand",
        "-smp", "2",
        "-m", "2048M",
        "-object", "memory-backend-memfd,id=ram,size=2048M,share=off",
        "-kernel", "/cache/vmlinuz",
        "-initrd", "/cache/initramfs",
        "-append", "console=ttyS0 quiet loglevel=5 panic=-1 random.trust_cpu=on cgroup_no_v1=all "
        "sysctl.vm.compaction_proactiveness=0 transparent_hugepage=madvise "
        "sysctl.vm.dirty_background_ratio=30 sysctl.vm.dirty_ratio=50",
        "-chardev", "socket,id=qmp,fd=7",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", "file,id=console,append=on,path=/state/demo/guest.log",
        "-serial", "chardev:console",
        "-object", "rng-builtin,id=entropy",
        "-device", "virtio-rng-pci,rng=entropy",
        "-device", "virtio-serial-pci,max_ports=4",
        "-chardev", "socket,id=agent,fd=9",
        "-device", "virtserialport,chardev=agent,name=kata-dind.agent",
        "-device", "pcie-root-port,id=hotplug0,chassis=1",
        "-device", "pcie-root-port,id=hotplug1,chassis=2",
        "-device", "pcie-root-port,id=hotplug2,chassis=3",
        "-device", "pcie-root-port,id=hotplug3,chassis=4",
        "-blockdev", "driver=raw,node-name=disk-guest-os,read-only=on,"
        "file.driver=file,file.read-only=on,file.filename=/cache/guest.erofs",
        "-device", "virtio-blk-pci,drive=disk-guest-os,serial=guest-os",
        "-blockdev", "driver=raw,node-name=disk-data,read-only=off,discard=unmap,"
        "file.driver=file,file.read-only=off,file.discard=unmap,file.filename=/state/demo/data.img",
        "-device", "virtio-blk-pci,drive=disk-data,serial=data,werror=enospc",
        "-netdev", "user,id=network,net=198.18.1.0/24,host=198.18.1.2,ipv6=off",
        "-device", "virtio-net-pci,netdev=network,romfile=,guest_announce=off",
    ]  # fmt: skip


def test_a_whole_machine_on_kvm() -> None:
    shape = SHAPE._replace(
        accelerator=Accelerator.KVM, cpus=1, memory_mib=512, disks=(), network=False, hotplug_ports=0
    )
    assert machine_argv(shape, WIRING) == [
        qemu_binary(),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-name", "guest=demo,debug-threads=on",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", "q35,accel=kvm,memory-backend=ram,vmport=off,hpet=off",
        "-cpu", "host",
        "-smp", "1",
        "-m", "512M",
        "-object", "memory-backend-memfd,id=ram,size=512M,share=off",
        "-kernel", "/cache/vmlinuz",
        "-initrd", "/cache/initramfs",
        "-append", "console=ttyS0 quiet loglevel=5 panic=-1 random.trust_cpu=on cgroup_no_v1=all "
        "sysctl.vm.compaction_proactiveness=0 transparent_hugepage=madvise "
        "sysctl.vm.dirty_background_ratio=30 sysctl.vm.dirty_ratio=50",
        "-chardev", "socket,id=qmp,fd=7",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", "file,id=console,append=on,path=/state/demo/guest.log",
        "-serial", "chardev:console",
        "-object", "rng-builtin,id=entropy",
        "-device", "virtio-rng-pci,rng=entropy",
        "-device", "virtio-serial-pci,max_ports=4",
        "-chardev", "socket,id=agent,fd=9",
        "-device", "virtserialport,chardev=agent,name=kata-dind.agent",
    ]  # fmt: skip


def test_a_share_is_katas_device_on_memory_that_another_process_may_read() -> None:
    shape = SHAPE._replace(shared_directory=True)
    wiring = WIRING._replace(virtiofsd_socket=Path("/state/demo/virtiofsd.sock"))
    assert arguments_of(shape, wiring)[-2:] == [
        ("-chardev", "socket,id=share,path=/state/demo/virtiofsd.sock"),
        ("-device", "vhost-user-fs-pci,chardev=share,tag=kataShared"),
    ]
    assert "memory-backend-memfd,id=ram,size=2048M,share=on" in values_of("-object", shape, wiring)


def test_a_restored_machine_with_shares_has_its_memory_from_a_descriptor_and_no_share_yet() -> None:
    shape = SHAPE._replace(shared_directory=True)
    wiring = WIRING._replace(state_fd=10, memory_fd=11)
    assert "memory-backend-file,mem-path=/proc/self/fd/11,id=ram,size=2048M,share=on" in values_of(
        "-object", shape, wiring
    )
    assert not [device for device in values_of("-device", shape, wiring) if "vhost-user" in device]
    assert "hotplug0" in " ".join(values_of("-device", shape, wiring))


def test_further_processors_and_memory_can_be_plugged_into_a_machine_that_becomes_a_seed() -> None:
    shape = SHAPE._replace(most_cpus=8, most_memory_mib=65536)
    assert (values_of("-smp", shape), values_of("-m", shape)) == (["2,maxcpus=8"], ["2048M,slots=1,maxmem=65536M"])
    assert values_of("-append", shape)[0].endswith(" memhp_default_state=online swiotlb=noforce")


def test_nothing_in_the_default_shape_blocks_migration() -> None:
    devices = " ".join(values_of("-device", SHAPE) + values_of("-object", SHAPE))
    assert "vhost" not in devices
    assert "share=on" not in devices


def test_a_machine_without_network_has_no_network_device() -> None:
    shape = SHAPE._replace(network=False)
    assert values_of("-netdev", shape) == []
    assert not any("virtio-net" in device for device in values_of("-device", shape))


def test_commas_in_paths_are_doubled_where_they_would_end_a_value() -> None:
    shape = SHAPE._replace(kernel=Path("/a,b/vmlinuz"), disks=(Disk("data", Path("/a,b/c,d.img")),))
    wiring = WIRING._replace(console=Path("/a,b/guest.log"), virtiofsd_socket=Path("/a,b/virtiofsd.sock"))
    assert values_of("-kernel", shape, wiring) == ["/a,b/vmlinuz"]
    assert values_of("-blockdev", shape, wiring)[0].endswith(",file.filename=/a,,b/c,,d.img")
    assert "file,id=console,append=on,path=/a,,b/guest.log" in values_of("-chardev", shape, wiring)
    assert "socket,id=share,path=/a,,b/virtiofsd.sock" in values_of("-chardev", shape, wiring)


def test_a_disk_over_another_names_that_one_and_only_reads_it() -> None:
    child = Disk("data", Path("/d.qcow2"), backing=Path("/seed,1/data.img"))
    (blockdev,) = values_of("-blockdev", SHAPE._replace(disks=(child,)))
    assert blockdev == (
        "driver=qcow2,node-name=disk-data,backing.driver=raw,backing.read-only=on,backing.file.driver=file,"
        "backing.file.read-only=on,backing.file.filename=/seed,,1/data.img,read-only=off,discard=unmap,"
        "file.driver=file,file.read-only=off,file.discard=unmap,file.filename=/d.qcow2"
    )


def test_a_machine_that_is_restored_waits_for_its_state_and_loads_no_kernel() -> None:
    memory = MemoryFile(Path("/seed/memory"), written=False)
    shape, wiring = SHAPE._replace(memory_file=memory), WIRING._replace(state_fd=11, first_fd=12)
    assert values_of("-incoming", shape, wiring) == ["defer"]
    # A monitor of its own for what QEMU finds to do when it starts to listen.
    assert values_of("-mon", shape, wiring) == ["chardev=first,mode=control", "chardev=qmp,mode=control"]
    assert "socket,id=first,fd=12" in values_of("-chardev", shape, wiring)
    assert values_of("-kernel", shape, wiring) == values_of("-append", shape, wiring) == []
    assert values_of("-object", shape, wiring)[0] == (
        "memory-backend-file,mem-path=/seed/memory,id=ram,size=2048M,share=off"
    )


def test_a_machine_whose_memory_is_in_its_state_has_none_that_zeros_would_fill() -> None:
    wiring = WIRING._replace(state_fd=9)
    assert values_of("-object", SHAPE, wiring)[0] == "memory-backend-ram,id=ram,size=2048M,share=off"
    shared = values_of("-object", SHAPE._replace(shared_directory=True), wiring)[0]
    assert shared == "memory-backend-memfd,id=ram,size=2048M,share=on"
    assert values_of("-incoming", SHAPE, wiring) == ["defer"]


def test_a_machine_that_is_to_be_saved_writes_to_its_memory_file() -> None:
    memory = MemoryFile(Path("/state/demo/memory"), written=True)
    assert values_of("-object", SHAPE._replace(memory_file=memory))[0].endswith(",share=on")


def test_a_serial_number_that_virtio_would_cut_is_our_own_mistake() -> None:
    machine_argv(SHAPE._replace(disks=(Disk("x" * 20, Path("/d")),)), WIRING)
    with pytest.raises(ValueError, match="more than 20 characters"):
        machine_argv(SHAPE._replace(disks=(Disk("x" * 21, Path("/d")),)), WIRING)


def test_further_kernel_arguments_come_last() -> None:
    (append,) = values_of("-append", SHAPE._replace(kernel_arguments=("kata_dind.probe", "debug")))
    assert append.endswith(" sysctl.vm.dirty_background_ratio=30 sysctl.vm.dirty_ratio=50 kata_dind.probe debug")


def test_the_processor_of_tcg_has_no_wide_vectors_to_emulate() -> None:
    assert "avx" not in TCG_CPU
    assert "+rdrand" in TCG_CPU
