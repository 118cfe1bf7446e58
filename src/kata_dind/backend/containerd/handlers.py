"""containerd's handlers, and what a sandbox can have by each: facts and reasons, for the plan and for people. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from kata_dind.backend.containerd.kata import KataConfiguration, searches
from kata_dind.backend.containerd.toml_files import Table, TomlFile, place_of, table_of
from kata_dind.pod.guard import advisories, obeys_extra_args_by_default
from kata_dind.pod.handlers import ANNOTATIONS, Runtime, Shim, Vmm, find_handler, runtime_of
from kata_dind.pod.policy import Policy, RuntimeClass, Sharing

_KATA_TYPE = "io.containerd.kata"
_PLUGINS = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")
"""By the versions 3 and 2 of containerd's configuration."""

EXTRA_ARGS = "virtio_fs_extra_args"
_FIT_ARGS = ("--xattr", "--modcaps=+sys_admin")


class Ability(StrEnum):
    """What a sandbox may want of a handler."""

    START = "start"
    """Any sandbox at all."""
    MEMORY = "memory"
    LOOP = "loop"
    BLOCK = "block"
    VIRTIOFS = "virtiofs"
    KERNEL = "kernel"
    """A kernel of the user's."""


@dataclass(frozen=True)
class Verdict:
    """Whether a handler can do something; if not, why, and what would change that."""

    can: bool
    why: str = ""
    change: str = ""
    """A place in a file, and the line that belongs there; empty where no line helps."""


YES = Verdict(True)


@dataclass(frozen=True)
class Hole:
    """A known way out of a handler's virtual machine."""

    is_sure: bool
    """Whether the handler has it for all that is known; one that it may have is a warning."""
    fault: str
    """A clause, with the advisory's number."""
    change: str = ""
    """A place in a file, and the line that closes it; empty where only a later Kata does."""


@dataclass(frozen=True)
class ContainerdFiles:
    """containerd's configuration, with what it imports; empty where it could not be found."""

    files: tuple[TomlFile, ...] = ()

    def table(self, handler: str) -> Table:
        """Return the name of a handler's table."""
        found = [table for table in _tables(handler) if any(table_of(file.values, table) for file in self.files)]
        if found:
            return found[0]
        of_version_3 = any(file.values.get("version") == 3 for file in self.files)
        return _tables(handler)[0 if of_version_3 else 1]

    def change(self, handler: str, key: str, line: str) -> str:
        """Return where a line of a handler belongs, and the line."""
        table = self.table(handler)
        place = place_of(self.files, table, key) or "containerd's config.toml"
        header = ".".join(f'"{name}"' if "." in name else name for name in table)
        return f"{place}: {line}, below [{header}]"


def _tables(handler: str) -> list[Table]:
    return [("plugins", plugin, "containerd", "runtimes", handler) for plugin in _PLUGINS]


@dataclass(frozen=True)
class Handler:
    """One of containerd's runtime handlers."""

    name: str
    runtime_type: str
    privileged_without_host_devices: bool
    pod_annotations: tuple[str, ...]
    """Patterns of the annotations that containerd hands to the runtime."""
    snapshotter: str
    config_path: str
    """The configuration that containerd names; empty where the runtime looks for one itself."""
    runtime_path: str
    """The shim that containerd names; empty where it looks for one itself."""
    kata: KataConfiguration | None = None
    """None if it isn't Kata's, or its configuration can't be read."""
    version: str = ""
    """Kata's; empty where it isn't known."""
    containerd: ContainerdFiles = ContainerdFiles()

    @property
    def is_kata(self) -> bool:
        """Whether it is Kata's, by its type. A name proves nothing."""
        return self.runtime_type.startswith(_KATA_TYPE)

    @property
    def runtime(self) -> Runtime:
        """What is known of a class of pods with this handler: Kata's table, corrected by its configuration."""
        shim_name = self.runtime_type.removeprefix("io.containerd.").removesuffix(".v2")
        handler = self.name if find_handler(self.name) else shim_name
        rule = RuntimeClass(match=self.name, handler=handler, version=_plain_version(self.version),
                            sharing=self.kata.sharing if self.kata else None)  # fmt: skip
        runtime = runtime_of(self.name, {}, Policy(runtime_classes=(rule,)))
        assert runtime is not None
        if self.kata is None:
            return runtime
        return dataclasses.replace(
            runtime,
            vmm=self.kata.vmm or runtime.vmm,
            shim=self.kata.shim,
            empty_dir=self.kata.empty_dir or runtime.empty_dir,
            virtiofs_fit=self.kata.virtiofs_fit,
        )

    @property
    def holes(self) -> list[Hole]:
        """The known ways out of its machine: for a privileged container, and for whoever may make pods."""
        if not self.is_kata:
            return []
        return [*(Hole(each.is_sure, each.fault) for each in advisories(self.runtime)), *self._open_to_pods()]

    def _open_to_pods(self) -> Iterator[Hole]:
        """Yield GHSA-rr59-xxvx-96qr where a pod can have virtiofsd share another directory of the host.

        It is closed in the configuration, as Kata's own is from 3.31 on. One that opens it there is a decision of this
        host's administrator, and one that we can't read may be open.
        """
        if self.runtime.sharing is not Sharing.VIRTIO_FS or not self._hands_on(EXTRA_ARGS):
            return
        can = "by which whoever may make pods can share any directory of this host with a guest (GHSA-rr59-xxvx-96qr)"
        if self.kata is None:
            if obeys_extra_args_by_default(self.runtime) is not False:
                yield Hole(False, f"before 3.31, Kata obeys the annotation {EXTRA_ARGS}, {can}")
        elif self.kata.obeys(EXTRA_ARGS):
            rest = json.dumps([each for each in self.kata.annotations if not searches(each, EXTRA_ARGS)])
            yield Hole(
                self.runtime.is_before(3, 31, 0),
                f"its configuration obeys the annotation {EXTRA_ARGS}, {can}",
                f"{self.kata.place('enable_annotations')}: enable_annotations = {rest}",
            )

    def can(self, ability: Ability) -> Verdict:
        """Tell whether a sandbox can have something by this handler."""
        if ability is Ability.START:
            return self._can_start()
        if not self.is_kata:
            return YES if ability in (Ability.MEMORY, Ability.LOOP, Ability.BLOCK) else _no_machine(ability)
        match ability:
            case Ability.LOOP:
                return self._can_loop()
            case Ability.BLOCK:
                return self._can_block()
            case Ability.VIRTIOFS:
                return self._can_virtiofs()
            case Ability.KERNEL:
                return self._can_annotate("kernel")
        return YES

    def _can_start(self) -> Verdict:
        runtime = self.runtime if self.is_kata else None
        if runtime is not None and runtime.confidential:
            return Verdict(False, "it is for confidential guests, which get their images and files in other ways")
        if runtime is not None and runtime.vmm in (Vmm.FIRECRACKER, Vmm.REMOTE):
            return Verdict(False, f"{runtime.vmm} shares no files with the guest")
        if not self.privileged_without_host_devices:
            return Verdict(
                False,
                "it gives a privileged container all devices of the host, of which a machine can't have some",
                self.containerd.change(self.name, "privileged_without_host_devices",
                                       "privileged_without_host_devices = true"),
            )  # fmt: skip
        return YES

    def _can_loop(self) -> Verdict:
        if not self.runtime.loop_works:
            return Verdict(False, "the guest kernel of Kata 3.13 can't mount a disk in a file (kata-containers#10808)")
        return self._can_share("a disk in a file")

    def _can_share(self, what: str) -> Verdict:
        if self.runtime.sharing is Sharing.NONE:
            place = f'{self.kata.place("shared_fs")}: shared_fs = "virtio-fs"' if self.kata else ""
            return Verdict(False, f"it shares no files of the host with the guest, and so not {what}", place)
        return YES

    def _can_block(self) -> Verdict:
        if not self.runtime.block_hotplug:
            return Verdict(False, f"{self.runtime.vmm} takes no block device while it runs")
        return YES

    def _can_virtiofs(self) -> Verdict:
        if self.runtime.sharing is not Sharing.VIRTIO_FS:
            return Verdict(False, f"overlay needs virtiofsd, and this handler shares files by {self.runtime.sharing}")
        if self.kata is not None and self.kata.virtiofs_fit:
            return YES
        change = f"{self.kata.place(EXTRA_ARGS)}: {EXTRA_ARGS} = {_fit_args(self.kata)}" if self.kata else ""
        verdict = self._can_annotate(EXTRA_ARGS)
        return verdict if verdict.can else Verdict(
            False, "virtiofsd runs without extended attributes, which overlay needs", change or verdict.change
        )  # fmt: skip

    def _can_annotate(self, key: str) -> Verdict:
        """Tell whether a pod's annotation for the hypervisor arrives, and is obeyed."""
        if self.kata is None:
            return Verdict(False, "its configuration is not known")
        if not self._hands_on(key):
            line = 'pod_annotations = ["io.katacontainers.*"]'
            return Verdict(False, "containerd does not hand Kata's annotations to it",
                           self.containerd.change(self.name, "pod_annotations", line))  # fmt: skip
        if not self.kata.obeys(key):
            allowed = ", ".join(f'"{each}"' for each in (*self.kata.annotations, key))
            return Verdict(False, f"it does not obey the annotation {key}",
                           f"{self.kata.place('enable_annotations')}: enable_annotations = [{allowed}]")  # fmt: skip
        return YES

    def _hands_on(self, key: str) -> bool:
        """Tell whether containerd gives the handler a pod's annotation for the hypervisor."""
        return any(fnmatchcase(ANNOTATIONS + key, pattern) for pattern in self.pod_annotations)

    def annotations_for(self, *, virtiofs: bool, kernel: str) -> dict[str, str]:
        """Return the annotations of a pod, which `can` has allowed."""
        found = {}
        if virtiofs and self.kata is not None and not self.kata.virtiofs_fit:
            words = ",".join(_FIT_ARGS)
            as_json = "[" + ", ".join(f'"{word}"' for word in _FIT_ARGS) + "]"
            found[ANNOTATIONS + EXTRA_ARGS] = words if self.kata.shim is Shim.RS else as_json
        if kernel:
            found[ANNOTATIONS + "kernel"] = kernel
        return found


def _fit_args(kata: KataConfiguration) -> str:
    """Return virtiofsd's arguments as a file has them: those that Kata's has, and what overlay needs."""
    return json.dumps([*kata.extra_args, *(word for word in _FIT_ARGS if word not in kata.extra_args)])


def _no_machine(ability: Ability) -> Verdict:
    what = "there is no virtiofsd" if ability is Ability.VIRTIOFS else "there is no kernel of its own"
    return Verdict(False, f"the handler does not run a virtual machine, so {what}")


def _plain_version(version: str) -> str:
    return version.partition("-")[0].partition("+")[0]


def parse_handlers(config: Mapping[str, Any], files: ContainerdFiles) -> list[Handler]:
    """Return the handlers of the configuration that containerd's `Status` tells, Kata's first."""
    containerd = config.get("containerd") or {}
    found = [
        Handler(
            name=name,
            runtime_type=str(runtime.get("runtimeType") or ""),
            privileged_without_host_devices=bool(runtime.get("privileged_without_host_devices")),
            pod_annotations=tuple(runtime.get("PodAnnotations") or ()),
            snapshotter=str(runtime.get("snapshotter") or containerd.get("snapshotter") or ""),
            config_path=str((runtime.get("options") or {}).get("ConfigPath") or ""),
            runtime_path=str(runtime.get("runtimePath") or ""),
            containerd=files,
        )
        for name, runtime in (containerd.get("runtimes") or {}).items()
    ]
    return sorted(found, key=lambda handler: (not handler.is_kata, handler.name))


def choose_handler(handlers: Sequence[Handler]) -> Handler | None:
    """Return the best handler for a sandbox that names none: Kata's, without a hole, with block devices, by name."""
    fit = [each for each in handlers if each.is_kata and each.can(Ability.START).can and not each.holes]
    return min(fit, key=lambda each: (not each.can(Ability.BLOCK).can, each.runtime.vmm is not Vmm.QEMU, each.name),
               default=None)  # fmt: skip
