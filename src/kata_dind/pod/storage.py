"""The edits that give a data root its volume: volumes, mounts, devices, memory limits, and the variables for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kata_dind.pod.choose import Choice, Site, Way, source_of
from kata_dind.pod.model import Finding, Launch, Outcome, Pointer, Program, Root, VolumeMount
from kata_dind.pod.patch import Draft, escape_expansion
from kata_dind.pod.quantity import entrypoint_size, quantity, quantity_bytes
from kata_dind.pod.reading import containers_of, items, mapping, text, volumes_of
from kata_dind.pod.roots import DEFAULT_ROOTS
from kata_dind.pod.sizes import GIB, MIB
from kata_dind.pod.volumes import (
    clean_path,
    find_claim_template,
    find_mount,
    find_volume,
    mount_above,
    mounts_below,
)
from kata_dind.pod.wrapper import BESIDE, DEVICE, DIRECTORY, NAME, shows_data_root


@dataclass(slots=True)
class Bench:
    """A repair in the making: the patch so far, and what has to wait until the end of it."""

    draft: Draft
    claim_templates: Sequence[Mapping[str, Any]]
    reasons: list[str] = field(default_factory=list)
    removals: list[Pointer] = field(default_factory=list)
    """Items of lists, which go when no pointer into these lists is needed any more."""
    first_containers: list[dict[str, Any]] = field(default_factory=list)
    """Init containers that run before all others, in their order."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's specification as it is by now."""
        return mapping(self.draft.get(("spec",)))

    def fresh_name(self, base: str = NAME) -> str:
        """Return a name that no volume of the pod has."""
        taken = {text(volume.get("name")) for _, volume in volumes_of(self.spec)}
        taken |= {text(mapping(mapping(claim).get("metadata")).get("name")) for claim in self.claim_templates}
        return _first_free(base, taken)

    def fresh_container_name(self, base: str) -> str:
        """Return a name that no container of the pod has."""
        taken = {text(container.get("name")) for _, _, container in containers_of(self.spec)}
        return _first_free(base, taken | {container["name"] for container in self.first_containers})

    def container(self, site: Site) -> Mapping[str, Any]:
        """Return the site's container as it is by now."""
        return mapping(self.draft.get(site.engine.pointer))

    def add_volume(self, source: Mapping[str, Any], name: str = "") -> str:
        """Add a volume, and return its name."""
        name = name or self.fresh_name()
        self.draft.append(("spec", "volumes"), {"name": name, **source})
        return name

    def say(self, reason: str) -> None:
        """Note why something is changed."""
        self.reasons.append(reason)


def _first_free(base: str, taken: set[str]) -> str:
    names: Iterator[str] = itertools.chain((base,), (f"{base}-{number}" for number in itertools.count(1)))
    return next(name for name in names if name not in taken)


def provide(bench: Bench, site: Site, choice: Choice) -> Finding | None:
    """Give a data root what was chosen for it; or return why that can't be, with nothing changed."""
    match choice.way:
        case Way.MEMORY:
            return _provide_memory(bench, site, choice)
        case Way.BLOCK_PLAIN:
            _provide_block_plain(bench, site, choice)
        case Way.BLOCK:
            _provide_block(bench, site, choice)
        case Way.LOOP:
            _provide_loop(bench, site, choice)
    if choice.way.needs_wrapper:
        for path in mounts_below(site.container, site.root.path):
            bench.say(f"What {site.named} mounts on `{path}` is mounted there again, on the disk.")
    return None


def _provide_block_plain(bench: Bench, site: Site, choice: Choice) -> None:
    source = {"emptyDir": {"sizeLimit": quantity(choice.limit_bytes)} if choice.limit_bytes else {}}
    name = _own_volume_at(bench, site, source)
    bench.say(
        f"{site.named} gets the emptyDir `{name}` at `{site.root.path}`, since {choice.because}; nothing else is "
        "needed. It has one inode for each 160 KiB, and so may be full of small files before it is full of bytes."
    )


_GUEST_BYTES = 2048 * MIB
"""The memory that Kata gives any guest (default_memory), and that a container without a limit has so far."""


def _provide_memory(bench: Bench, site: Site, choice: Choice) -> Finding | None:
    raised: list[tuple[Pointer, str, str]] = []
    if choice.size_bytes:
        for pointer in (("spec",), site.engine.pointer):
            refusal = _raise_memory(bench, site, (*pointer, "resources"), choice.size_bytes, raised)
            if refusal is not None:
                return refusal
    wanted: dict[str, Any] = {"medium": "Memory"}
    if choice.size_bytes:
        wanted["sizeLimit"] = quantity(choice.limit_bytes)
    elif site.root.mount is not None:
        wanted = dict(source_of(bench.spec, site.root.mount, bench.claim_templates)[1])
    name = _own_volume_at(bench, site, {"emptyDir": wanted})
    bench.say(
        f"{site.named} gets the emptyDir `{name}` of medium Memory at `{site.root.path}`, since {choice.because}; "
        "Kata lets it grow to half of the guest's memory, whatever its sizeLimit is."
    )
    if choice.size_bytes and not raised:
        limits = (*site.engine.pointer, "resources", "limits", "memory")
        request = quantity_bytes(bench.draft.get((*limits[:-2], "requests", "memory"))) or 0
        limit = quantity(choice.size_bytes + max(request, _GUEST_BYTES))
        bench.draft.put(limits, limit)
        bench.say(
            f"{site.named} gets a memory limit of {limit}, since it has none: Kata adds the containers' limits to the "
            "memory of a guest, which would not hold the data root by itself."
        )
    for pointer, before, after in raised:
        bench.draft.put(pointer, after)
        whose = "the pod" if pointer[1] == "resources" else site.named
        what = str(pointer[-2]).removesuffix("s")
        bench.say(f"The memory {what} of {whose} is raised from {before} to {after} for what it stores.")
    return None


def _raise_memory(
    bench: Bench, site: Site, resources: Pointer, count: int, raised: list[tuple[Pointer, str, str]]
) -> Finding | None:
    limit = bench.draft.get((*resources, "limits", "memory"))
    if limit is None:
        return None
    known = quantity_bytes(limit)
    if known is None:
        return site.finding(
            "pod.memory-limit",
            f"A data root in memory needs a higher memory limit, but that of {site.named} is not a quantity.",
            "Mend the limit.",
        )
    after = quantity(known + count)
    raised.append(((*resources, "limits", "memory"), str(limit), after))
    request = bench.draft.get((*resources, "requests", "memory"))
    if request is not None and quantity_bytes(request) == known:  # guaranteed stays guaranteed
        raised.append(((*resources, "requests", "memory"), str(request), after))
    return None


def _own_volume_at(bench: Bench, site: Site, source: dict[str, Any]) -> str:
    """Mount a volume of the container's own exactly at the data root, and return its name."""
    mount = site.root.mount
    if mount is None or mount.is_device:
        name = bench.add_volume(source)
        bench.draft.append((*site.engine.pointer, "volumeMounts"), {"name": name, "mountPath": site.root.path})
        return name
    name = mount.volume
    source = {"emptyDir": dict(source["emptyDir"])}
    if mount.volume_pointer is not None and _is_sole_mount(bench, mount.volume):
        empty_dir = (*mount.volume_pointer, "emptyDir")
        for key, value in source["emptyDir"].items():
            bench.draft.put((*empty_dir, key), value)
    else:
        name = bench.add_volume(source)
        bench.draft.put((*mount.pointer, "name"), name)
        bench.say(
            f"{site.named} gets a volume of its own in the place of `{mount.volume}`, which others in the pod mount."
        )
    _without_sub_path(bench, site, mount)
    return name


def _without_sub_path(bench: Bench, site: Site, mount: VolumeMount) -> None:
    entry = mapping(bench.draft.get(mount.pointer))
    for key in ("subPath", "subPathExpr"):
        if key in entry:
            bench.draft.remove((*mount.pointer, key))
            bench.say(
                f"The {key} of the mount at `{mount.mount_path}` in {site.named} is taken out: with it, the mount is a "
                "directory of the node."
            )


def _is_sole_mount(bench: Bench, volume: str) -> bool:
    count = 0
    for _, _, container in containers_of(bench.spec):
        for key in ("volumeMounts", "volumeDevices"):
            count += sum(mapping(entry).get("name") == volume for entry in items(container.get(key)))
    return count == 1


def _provide_block(bench: Bench, site: Site, choice: Choice) -> None:
    device = site.environment.get("DEVICE")
    mount = site.root.mount
    if mount is not None and mount.is_device:
        device = device or _free_path(bench, site, DEVICE)
        bench.draft.put((*mount.pointer, "devicePath"), device)
        bench.say(
            f"The block device `{mount.volume}` of {site.named} is at `{device}`, from where it is formatted if it is "
            f"blank, and mounted on `{site.root.path}`."
        )
    elif not device or (site.is_wrapped and find_mount(bench.spec, bench.container(site), device) is None):
        device = device or _free_path(bench, site, DEVICE)
        name = bench.add_volume(_block_claim(site, choice.size_bytes))
        bench.draft.append((*site.engine.pointer, "volumeDevices"), {"name": name, "devicePath": device})
        bench.say(
            f"{site.named} gets the block device `{name}` of {quantity(choice.size_bytes)}, which is formatted and "
            f"mounted on `{site.root.path}`, since {choice.because}; it goes with the pod."
        )
    _add_environment(bench, site, {"DATA_ROOT": "block", "DEVICE": device})


def _block_claim(site: Site, count: int) -> dict[str, Any]:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Block",
        "storageClassName": site.runtime.block_storage_class,
        "resources": {"requests": {"storage": quantity(count)}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


def _provide_loop(bench: Bench, site: Site, choice: Choice) -> None:
    environment = {"DATA_ROOT": "loop", "SIZE": entrypoint_size(choice.size_bytes)}
    if site.engine.program is not Program.DOCKERD and _worked(site):
        environment |= _fallback(site)
        if not site.engine.lacks_mkfs:
            bench.say(f"If the image of {site.named} has no mkfs.ext4, it goes on as it did so far, with a warning.")
    shown = f"a disk of {_rounded(choice.size_bytes)} in a file"
    mount = site.root.mount
    if choice.on_claim:
        environment |= _fallback(site)
        bench.say(
            f"{site.named} keeps its data on {shown} on the volume `{site.cover.volume if site.cover else ''}`: "
            f"{choice.because}. If files are there already, they are neither moved nor hidden: {_then(site)}"
        )
    elif mount is not None and not site.environment.get("DIR"):
        name = _directory_at_root(bench, site, mount, choice)
        bench.say(
            f"{site.named} keeps its data on {shown} in the emptyDir `{name}`, mounted over it at `{site.root.path}`, "
            f"since {choice.because}."
        )
    else:
        directory, name = _directory_beside(bench, site, choice)
        environment["DIR"] = directory
        where = f"in the emptyDir `{name}`" if name else f"in `{directory}`, as KATA_DIND_DIR says"
        bench.say(
            f"{site.named} keeps its data on {shown} {where}, mounted on `{site.root.path}`, since {choice.because}."
        )
    _add_environment(bench, site, environment)


def _rounded(count: int) -> str:
    """Return a size as people say it: with one digit behind the point, rounded down."""
    tenths = count * 10 // GIB
    return f"{tenths // 10}.{tenths % 10}G".replace(".0G", "G") if tenths >= 10 else entrypoint_size(count)


def _fallback(site: Site) -> dict[str, str]:
    return {"FALLBACK": "vfs"} if _worked(site) else {}


def _worked(site: Site) -> bool:
    """Tell whether the program ran on a claim so far, if slowly, and so must not be refused there."""
    return site.root.outcome is Outcome.SLOW


def _then(site: Site) -> str:
    if _worked(site):
        return "the program then goes on there as it did so far, slowly, with a warning."
    return "the start is then refused, and the message names one of them."


def _directory_at_root(bench: Bench, site: Site, mount: VolumeMount, choice: Choice) -> str:
    """Make the emptyDir at the root one that the disk may lie in, and return its name."""
    limit = quantity(choice.limit_bytes) if choice.limit_bytes else ""
    if mount.volume_pointer is not None and _is_sole_mount(bench, mount.volume):
        if limit:
            pointer = (*mount.volume_pointer, "emptyDir", "sizeLimit")
            before = bench.draft.get(pointer)
            bench.draft.put(pointer, limit)
            what = f"is raised from {before}" if before is not None else "is new"
            bench.say(f"The sizeLimit of `{mount.volume}` {what}: {limit}, so that the kubelet counts the disk.")
        _without_sub_path(bench, site, mount)
        return mount.volume
    source = source_of(bench.spec, mount, bench.claim_templates)[1]
    limit = limit or text(source.get("sizeLimit"))
    return _own_volume_at(bench, site, {"emptyDir": {"sizeLimit": limit} if limit else {}})


def _directory_beside(bench: Bench, site: Site, choice: Choice) -> tuple[str, str]:
    """Mount an emptyDir for the disk beside the root, unless there is one; return its path and the volume's name."""
    container = bench.container(site)
    directory = site.environment.get("DIR")
    limit = choice.limit_bytes or 0
    source = {"emptyDir": {"sizeLimit": quantity(limit)} if limit else {}}
    if directory:
        mount = find_mount(bench.spec, container, directory, bench.claim_templates)
        if mount is not None:
            is_there = find_volume(bench.spec, mount.volume) or find_claim_template(bench.claim_templates, mount.volume)
            return directory, "" if is_there else bench.add_volume(source, mount.volume)
        if not site.is_wrapped or mount_above(bench.spec, container, directory) is not None:
            return directory, ""
    directory = directory or _free_path(bench, site, BESIDE)
    name = bench.add_volume(source)
    bench.draft.append((*site.engine.pointer, "volumeMounts"), {"name": name, "mountPath": directory})
    return directory, name


def _free_path(bench: Bench, site: Site, base: str) -> str:
    container = bench.container(site)
    taken = {
        clean_path(text(mapping(entry).get(path_key)))
        for key, path_key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath"))
        for entry in items(container.get(key))
    }
    return _first_free(base, taken)


def _add_environment(bench: Bench, site: Site, wanted: dict[str, str]) -> None:
    """Add variables behind all others, except for those that the container has already."""
    container = bench.container(site)
    engine = site.engine
    words = [text(word) for key in ("command", "args") for word in items(container.get(key))]
    root = next((root for root in engine.roots if not root.is_standalone_containerds), site.root)
    # A file that configures the program is read by the guest entrypoint, too, unless a script names it.
    in_file = " of /" in root.said_by and engine.launch is not Launch.SCRIPT
    seen = shows_data_root(words) or in_file
    if not seen and clean_path(root.path) != DEFAULT_ROOTS[engine.program]:
        wanted["PATH"] = root.path
    if engine.program is not Program.DOCKERD:
        wanted["PROGRAM"] = engine.program.value
    system = _system_containerd(site)
    if system is not None:
        wanted["CONTAINERD"] = system.path
    missing = {name: value for name, value in wanted.items() if f"KATA_DIND_{name}" not in site.environment.values}
    if missing:
        entries = [{"name": f"KATA_DIND_{name}", "value": escape_expansion(value)} for name, value in missing.items()]
        bench.draft.append((*engine.pointer, "env"), *entries)


def _system_containerd(site: Site) -> Root | None:
    return next((root for root in site.engine.roots if root.is_standalone_containerds), None)


def make_disk_first(bench: Bench, site: Site, image: str, command: Sequence[str]) -> None:
    """Let an init container of an image that has mkfs.ext4 make the disk, since the program's own image has none."""
    container = bench.container(site)
    places = {site.environment.get("DIR") or BESIDE, DIRECTORY, site.root.path}
    if site.cover is not None:
        places.add(site.cover.mount_path)
    environment = [e for e in items(container.get("env")) if text(mapping(e).get("name")).startswith("KATA_DIND_")]
    if clean_path(site.root.path) != DEFAULT_ROOTS[site.engine.program]:
        names = {text(mapping(entry).get("name")) for entry in environment}
        if "KATA_DIND_PATH" not in names:  # the program's own command tells it, or its file
            environment.append({"name": "KATA_DIND_PATH", "value": escape_expansion(site.root.path)})
    first: dict[str, Any] = {
        "name": bench.fresh_container_name(f"{NAME}-disk"),
        "image": image,
        "command": [*command],
        "env": environment,
        "securityContext": {"privileged": True, "runAsUser": 0, "runAsNonRoot": False},
    }
    for key, path_key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        entries = items(container.get(key))
        if key == "volumeMounts":
            entries = [entry for entry in entries if clean_path(text(mapping(entry).get(path_key))) in places]
        if entries:
            first[key] = [dict(mapping(entry)) for entry in entries]
    bench.first_containers.append(first)
    bench.say(
        f"The init container `{first['name']}` of the image {image} makes the disk, since the image of {site.named} "
        "has no mkfs.ext4."
    )


def prove_only(bench: Bench, site: Site) -> None:
    """Let the guest entrypoint take the data root that is there, and put a containerd's root onto it."""
    _add_environment(bench, site, {"DATA_ROOT": "auto"})
    bench.say(f"The containerd of {site.named} keeps its data in a directory of the data root, which is good.")


def give_to_user(bench: Bench, site: Site) -> None:
    """Let an init container give the volume at a data root to the user who runs the program."""
    user = site.engine.user
    mount = find_mount(bench.spec, bench.container(site), site.root.path, bench.claim_templates)
    if user is None or mount is None:
        return
    name = bench.fresh_container_name(f"{NAME}-owner")
    # The path is a word of its own, which no shell reads.
    command = ["/bin/chown", f"{user}:{user}", "/data-root"]
    bench.first_containers.append(
        {
            "name": name,
            "image": site.container.get("image"),
            "command": command,
            "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
            "volumeMounts": [{"name": mount.volume, "mountPath": "/data-root"}],
        }
    )
    bench.say(
        f"The init container `{name}` gives the volume to user {user}: rootless, the program has to own its data root."
    )
