"""Kata's configuration of one handler, as far as it decides what a sandbox can have. Pure.

Source: kata-containers/kata-containers, src/runtime/config and src/runtime-rs/config at 4.1.0; `config.d` beside a
configuration has files that overrule it, in the order of their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.backend.containerd.toml_files import Table, TomlFile, find_setting, place_of, table_of
from kata_dind.pod.handlers import Shim, Vmm, makes_virtiofs_fit
from kata_dind.pod.policy import EmptyDirMode, Sharing

GO_DEFAULTS = (
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
)
RUST_DEFAULTS = (
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
)
"""Where the runtimes look, first to last, if containerd names no file."""

_VMMS = {
    "qemu": Vmm.QEMU,
    "clh": Vmm.CLOUD_HYPERVISOR,
    "cloud-hypervisor": Vmm.CLOUD_HYPERVISOR,
    "dragonball": Vmm.DRAGONBALL,
    "firecracker": Vmm.FIRECRACKER,
    "openvmm": Vmm.OPENVMM,
    "remote": Vmm.REMOTE,
    "stratovirt": Vmm.STRATOVIRT,
}
_RUST_NAME = "virt_container"
"""`runtime.name`, which only the Rust runtime has."""

_RUNTIME: Table = ("runtime",)


@dataclass(frozen=True)
class KataConfiguration:
    """A configuration and what overrules it."""

    files: tuple[TomlFile, ...]

    @property
    def shim(self) -> Shim:
        """Which of Kata's runtimes it is for."""
        name = find_setting(self.files, _RUNTIME, "name")
        return Shim.RS if name is not None and name.value == _RUST_NAME else Shim.GO

    @property
    def hypervisor(self) -> str:
        """The name of its hypervisor's table; empty where it has none."""
        named = find_setting(self.files, _RUNTIME, "hypervisor_name")
        tables = list(table_of(self.files[0].values, ("hypervisor",))) if self.files else []
        if named is not None and named.value in tables:
            return str(named.value)
        return str(tables[0]) if tables else ""

    @property
    def vmm(self) -> Vmm | None:
        """The program that runs its machines; None for one that we don't know."""
        return _VMMS.get(self.hypervisor)

    @property
    def sharing(self) -> Sharing | None:
        """How the guest sees the host's files; None where it isn't said."""
        value = self._of_hypervisor("shared_fs")
        return Sharing(value) if value in set(Sharing) else None

    @property
    def empty_dir(self) -> EmptyDirMode | None:
        """What a plain emptyDir becomes; None where it isn't said."""
        setting = find_setting(self.files, _RUNTIME, "emptydir_mode")
        return EmptyDirMode(setting.value) if setting is not None and setting.value in set(EmptyDirMode) else None

    @property
    def kernel(self) -> str:
        """The guest's kernel."""
        return str(self._of_hypervisor("kernel") or "")

    @property
    def virtiofs_fit(self) -> bool:
        """Whether virtiofsd gives what overlay needs."""
        if self.sharing is not Sharing.VIRTIO_FS:
            return False
        text = ",".join(self.extra_args) if self.shim is Shim.RS else json.dumps(self.extra_args)
        return makes_virtiofs_fit(text, self.shim)

    @property
    def extra_args(self) -> tuple[str, ...]:
        """virtiofsd's arguments, to which both runtimes add those of the annotation."""
        words = self._of_hypervisor("virtio_fs_extra_args")
        return tuple(map(str, words)) if isinstance(words, list) else ()

    @property
    def annotations(self) -> tuple[str, ...]:
        """Patterns of the annotations that it obeys, without what their names begin with."""
        value = self._of_hypervisor("enable_annotations")
        return tuple(map(str, value)) if isinstance(value, list) else ()

    @property
    def sandbox_cgroup_only(self) -> bool:
        """Whether the machine's own memory counts against the pod; the runtimes' defaults differ."""
        setting = find_setting(self.files, _RUNTIME, "sandbox_cgroup_only")
        return bool(setting.value) if setting is not None else self.shim is Shim.RS

    def obeys(self, annotation: str) -> bool:
        """Tell whether it obeys an annotation of the hypervisor, such as `kernel`."""
        return any(searches(pattern, annotation) for pattern in self.annotations)

    def place(self, key: str) -> str:
        """Return where a setting of the hypervisor stands, or would stand."""
        return place_of(self.files, ("hypervisor", self.hypervisor), key)

    def _of_hypervisor(self, key: str) -> Any:
        setting = find_setting(self.files, ("hypervisor", self.hypervisor), key)
        return setting.value if setting is not None else None


def searches(pattern: str, text: str) -> bool:
    """Tell whether a pattern of `enable_annotations` finds something in a name, as both runtimes do."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def default_configurations(runtime_type: str) -> Sequence[Path]:
    """Return where the runtime of a type looks if containerd names no file."""
    return [Path(path) for path in (RUST_DEFAULTS if "-rs" in runtime_type else (*GO_DEFAULTS, *RUST_DEFAULTS))]
