"""What a repair changes besides the data root: drivers that contradict it, time, mirrors, certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kata_dind.drivers import FILESYSTEM_DRIVERS, FIRST_WITHOUT, UNFIT_DRIVERS
from kata_dind.pod.model import Engine, Finding, Launch, Pointer, Program, Severity, StorageSetting
from kata_dind.pod.patch import escape_expansion
from kata_dind.pod.policy import Policy
from kata_dind.pod.reading import is_mapping, items, mapping, number, text
from kata_dind.pod.storage import Bench
from kata_dind.pod.volumes import clean_path
from kata_dind.pod.wrapper import mentions_variable, wrapped_words

_UNFIT = frozenset(UNFIT_DRIVERS)
"""They are named because overlay did not work, and are never what one wants where it does."""

_CONTRADICTING = _UNFIT.union(FILESYSTEM_DRIVERS, FIRST_WITHOUT)
"""They don't work on the disks of a repair: each needs a file system of its own, or a Docker that is long gone."""

_DRIVER_FLAGS = ("--storage-driver", "-s", "--oci-worker-snapshotter", "--containerd-worker-snapshotter")

GRACE_SECONDS = 30
"""What dockerd takes to stop its containers and itself; Kubernetes' own default."""

START_SECONDS = 300
"""What a start may take: a disk is formatted, or checked after a power cut, and containerd is slow on a cold share."""

CERTIFICATES = "/etc/docker/certs.d"

_PATHS_OF_CONFIG = ("/etc", "/etc/docker", "/etc/docker/daemon.json")


def contradicting(engine: Engine, *, is_broken: bool) -> list[StorageSetting]:
    """Return what names a driver that can't be right once overlay works on the data root."""
    drivers = _CONTRADICTING if is_broken else _UNFIT
    return [setting for setting in engine.storage_settings if setting.driver in drivers]


def without_drivers(command: Sequence[str]) -> list[str]:
    """Return the words of a command without those that name a driver which can't be right."""
    kept: list[str] = []
    rest = list(command)
    while rest:
        word = rest.pop(0)
        flag, is_joined, value = word.partition("=")
        if flag in _DRIVER_FLAGS:
            if not is_joined and rest:
                value = rest[0]
            if value in _CONTRADICTING:
                del rest[: not is_joined]
                continue
        kept.append(word)
    return kept


def strip_drivers(bench: Bench, engine: Engine, settings: Sequence[StorageSetting], done: set[Pointer]) -> bool:
    """Take settings out of a container, except for the words that are gone already; tell whether any was."""
    stripped = [setting for setting in settings if not setting.in_script]
    for setting in stripped:
        name = text(mapping(bench.draft.get(setting.pointers[0])).get("name")) if setting.pointers else ""
        what = f"The variable {name} with" if setting.is_variable else "The storage driver"
        bench.say(
            f"{what} {setting.driver} of {engine.named} is taken out: overlay works on its data root, and is faster."
        )
        for pointer in setting.pointers:
            if pointer in done:
                continue
            done.add(pointer)
            if setting.is_variable and mentions_variable(bench.draft.get(engine.pointer), name):
                bench.draft.put((*pointer, "value"), "")  # without the variable, $(NAME) would be taken as it stands
            else:
                bench.removals.append(pointer)
    return bool(stripped)


def driver_in_script(engine: Engine, settings: Sequence[StorageSetting], *, is_wrapped: bool) -> Finding | None:
    """Return the finding about a driver that is named where no patch can take it out.

    The guest entrypoint overrules one in the environment or in daemon.json, but not one in a script.
    """
    hidden = next((setting for setting in settings if setting.in_script), None)
    if hidden is None or (is_wrapped and (hidden.is_variable or hidden.in_file)):
        return None
    where = f"The file {hidden.in_file}" if hidden.in_file else "A script or the environment"
    return Finding(
        "pod.driver-out-of-reach",
        Severity.WARNING,
        f"{where} of {engine.named} names the storage driver {hidden.driver}, which a patch can't take out.",
        engine.container,
        hidden.pointers[0] if hidden.pointers else engine.pointer,
        "Take it out by hand: overlay works on the data root.",
    )


def driver_on_claim(engine: Engine, settings: Sequence[StorageSetting]) -> Finding:
    """Return the finding about a driver on a claim, which may hold images of it."""
    return Finding(
        "pod.driver-on-claim",
        Severity.WARNING,
        f"{engine.named} is told to use the storage driver {settings[0].driver}, although overlay works on its "
        "data root. It is left as it is, because the claim there may hold images of that driver, which would be out of "
        "sight.",
        engine.container,
        settings[0].pointers[0] if settings[0].pointers else engine.pointer,
        "If these images are not needed, take the driver out.",
    )


def give_time(bench: Bench, engine: Engine, *, with_disk: bool) -> None:
    """Give a daemon the time that it needs to end, and with a disk to start; never less than it has."""
    grace = ("spec", "terminationGracePeriodSeconds")
    seconds = number(bench.draft.get(grace))
    if seconds is not None and seconds < GRACE_SECONDS:
        bench.draft.put(grace, GRACE_SECONDS)
        bench.say(
            f"The grace period is raised from {seconds} to {GRACE_SECONDS} s, since a daemon that is killed leaves its "
            "data as after a power cut."
        )
    probe = (*engine.pointer, "startupProbe")
    found = bench.draft.get(probe)
    if not with_disk or not is_mapping(found):
        return
    period = number(found.get("periodSeconds", 10)) or 10
    failures = number(found.get("failureThreshold", 3)) or 3
    enough = -(-START_SECONDS // max(period, 1))
    if 0 < failures < enough:
        bench.draft.put((*probe, "failureThreshold"), enough)
        bench.say(
            f"The startup probe of {engine.named} may fail {enough} times, so that a first start has "
            f"{START_SECONDS} s for its disk."
        )


def add_mirrors(bench: Bench, engine: Engine, policy: Policy) -> None:
    """Give dockerd the policy's registry mirrors, if its arguments reach it for certain."""
    container = mapping(bench.draft.get(engine.pointer))
    if not policy.registry_mirrors or not _takes_arguments(engine, container):
        return
    for mirror in policy.registry_mirrors:
        bench.draft.append((*engine.pointer, "args"), f"--registry-mirror={escape_expansion(mirror)}")
    bench.say(f"{engine.named} gets the policy's registry mirrors.")


def _takes_arguments(engine: Engine, container: Mapping[str, Any]) -> bool:
    """Tell whether arguments are dockerd's own, and say nothing that a mirror could contradict.

    dockerd refuses to start with a mirror both in its arguments and in daemon.json.
    """
    if engine.program is not Program.DOCKERD or engine.launch not in (Launch.IMAGE, Launch.COMMAND):
        return False
    name = text(container.get("image")).partition("@")[0].rpartition("/")[2].partition(":")[0]
    command = wrapped_words(container.get("command"))
    if command is None:
        command = [text(word) for word in items(container.get("command"))] or list(engine.entrypoint)
    args = [text(word) for word in items(container.get("args"))]
    words = [*command, *args]
    starts = words[0].rpartition("/")[2] if words else ""
    after = next(iter(words[1:]), "-")
    return (
        name == "docker"
        and starts in ("dockerd", "dockerd-entrypoint.sh")
        and (after.startswith("-") or after.rpartition("/")[2] == "dockerd")
        and not any(word.startswith(("--config-file", "--registry-mirror")) for word in words)
        and not any(path in _PATHS_OF_CONFIG for path in _mount_paths(container))
    )


def add_certificates(bench: Bench, engine: Engine, policy: Policy) -> None:
    """Mount the policy's certificates where dockerd looks for those of a registry."""
    if engine.program is not Program.DOCKERD or engine.rootless:
        return
    for certificate in policy.certificates:
        path = f"{CERTIFICATES}/{certificate.host}"
        taken = _mount_paths(mapping(bench.draft.get(engine.pointer)))
        if any(path == other or path.startswith(other + "/") for other in taken):
            continue
        # Optional: in a namespace that does not have it, the pod has to start all the same.
        source: dict[str, Any] = {"secret": {"secretName": certificate.secret, "optional": True}}
        if certificate.config_map:
            source = {"configMap": {"name": certificate.config_map, "optional": True}}
        mount = {"name": bench.add_volume(source), "mountPath": path, "readOnly": True}
        bench.draft.append((*engine.pointer, "volumeMounts"), mount)
        bench.say(f"{engine.named} gets the policy's certificates for {certificate.host}.")


def _mount_paths(container: Mapping[str, Any]) -> list[str]:
    return [clean_path(text(mapping(mount).get("mountPath"))) for mount in items(container.get("volumeMounts"))]
