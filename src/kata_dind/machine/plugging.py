"""What a running machine can be given: a share, processors, memory, and space on a disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.errors import HostError, NoSpace
from kata_dind.machine.argv import SHARE_TAG, node_name

if TYPE_CHECKING:
    from kata_dind.machine.machine import Machine


_UNPLUG_SECONDS, _UNPLUG_PAUSE_SECONDS = 30.0, 0.05


async def plug_share(machine: Machine, virtiofsd_socket: Path) -> None:
    """Give a running machine, whose memory is a shared file, its shared directory. Raises HostError."""
    from qemu.qmp import ExecuteError

    backend = {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": str(virtiofsd_socket)}},
                                          "server": False}}  # fmt: skip
    try:
        await machine.ask("chardev-add", {"id": "share", "backend": backend})
        await machine.ask("device_add", {"driver": "vhost-user-fs-pci", "id": "share", "chardev": "share",
                                               "tag": SHARE_TAG, "bus": "hotplug0"})  # fmt: skip
    except ExecuteError as error:
        raise HostError(
            f"the machine takes no share: {error}", id="share.not-plugged", details=machine.evidence()
        ) from error


async def unplug_share(machine: Machine) -> None:
    """Take its shared directory away from a running machine, whose guest must have let go of it. Raises HostError."""
    from qemu.qmp import ExecuteError

    why = ""
    try:
        await machine.ask("device_del", {"id": "share"})
        async with asyncio.timeout(_UNPLUG_SECONDS):
            # The guest's kernel decides when the device goes; until then its connection is in use.
            while why := await _why_not_removed(machine):  # noqa: ASYNC110 - it is only told by being asked
                await asyncio.sleep(_UNPLUG_PAUSE_SECONDS)
    except TimeoutError as error:
        raise HostError(
            f"the guest did not give its shares back within {_UNPLUG_SECONDS:g} s",
            id="share.not-unplugged",
            details=why,
        ) from error
    except ExecuteError as error:
        raise HostError(f"the machine keeps its share: {error}", id="share.not-unplugged") from error


async def _why_not_removed(machine: Machine) -> str:
    from qemu.qmp import ExecuteError

    try:
        await machine.ask("chardev-remove", {"id": "share"})
    except ExecuteError as error:
        return str(error)
    return ""


async def plug_cpus(machine: Machine, count: int) -> None:
    """Give a running machine further processors, up to the number that its shape allows. Raises HostError."""
    from qemu.qmp import ExecuteError

    try:
        places = await machine.ask("query-hotpluggable-cpus")
        free = sorted((place for place in places if "qom-path" not in place), key=_place_of_cpu)
        for place in free[:count]:
            await machine.ask("device_add", {"driver": place["type"], **place["props"]})
    except ExecuteError as error:
        raise HostError(
            f"the machine takes no further processor: {error}", id="vm.cpu-not-plugged", details=machine.evidence()
        ) from error


async def plug_memory(machine: Machine, size_mib: int, *, shared: bool) -> None:
    """Give a running machine further memory, `shared` where another process must see it. Raises HostError."""
    from qemu.qmp import ExecuteError

    memory = {"qom-type": "memory-backend-memfd", "id": "further", "size": size_mib << 20, "share": shared}
    try:
        await machine.ask("object-add", memory)
        await machine.ask("device_add", {"driver": "pc-dimm", "memdev": "further"})
    except ExecuteError as error:
        raise HostError(
            f"the machine takes no further memory: {error}", id="vm.memory-not-plugged", details=machine.evidence()
        ) from error


async def grow_disk(machine: Machine, serial: str, *, size_bytes: int) -> None:
    """Make a disk larger while the guest uses it; the guest hears of it. Raises NoSpace."""
    from qemu.qmp import ExecuteError

    try:
        await machine.ask("block_resize", {"node-name": node_name(serial), "size": size_bytes})
    except ExecuteError as error:
        raise NoSpace(f"the data root's disk can't grow to {size_bytes >> 20} MiB: {error}",
                      id="host.file-too-large", hint="use a smaller --size") from error  # fmt: skip


def _place_of_cpu(place: dict[str, Any]) -> tuple[int, ...]:
    return tuple(place["props"].get(key, 0) for key in ("socket-id", "die-id", "core-id", "thread-id"))
