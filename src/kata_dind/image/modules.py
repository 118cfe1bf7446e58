"""Kernel modules: which ones a Docker guest needs, and in which order the first few are loaded."""

from __future__ import annotations

import gzip
import lzma
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from kata_dind.host.process import require_tool
from kata_dind.image.workspace import Workspace

BOOT_MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "erofs", "ext4")
"""The modules that the initramfs loads before it can reach the disks. libcrc32c asks for crc32c by an alias, which
nothing resolves there, so crc32c comes first."""

KEPT_MODULES = (
    "arch/x86/crypto",
    "crypto",
    "lib",
    "drivers/block/loop",
    "drivers/block/virtio_blk",
    "drivers/block/zram",
    "drivers/char/hw_random/virtio-rng",
    "drivers/char/virtio_console",
    "drivers/firmware/qemu_fw_cfg",
    "drivers/md/dm-",
    "drivers/net/dummy",
    "drivers/net/ifb",
    "drivers/net/ipvlan",
    "drivers/net/macvlan",
    "drivers/net/macvtap",
    "drivers/net/net_failover",
    "drivers/net/tap",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/net/vrf",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/nvdimm",
    "drivers/scsi/virtio_scsi",
    "drivers/scsi/sd_mod",
    "drivers/virtio",
    "drivers/vhost/vhost_vsock",
    "fs/autofs",
    "fs/binfmt_misc",
    "fs/btrfs",
    "fs/configfs",
    "fs/erofs",
    "fs/ext4",
    "fs/fuse",
    "fs/isofs",
    "fs/nls",
    "fs/overlayfs",
    "fs/squashfs",
    "fs/xfs",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/key",
    "net/llc",
    "net/netfilter",
    "net/netlink",
    "net/packet",
    "net/sched",
    "net/sctp",
    "net/802",
    "net/8021q",
    "net/vmw_vsock",
    "net/xfrm",
)
"""Beginnings of paths below `kernel/`; the modules on which these depend are kept as well."""


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """Parse modules.dep: each module's path, and the paths that it needs, nearest first. Source: modules.dep(5)."""
    rows = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {path.strip(): tuple(needs.split()) for path, _, needs in rows}


def kept_modules(dependencies: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return the modules that a Docker guest may need, with all that those need."""
    kept = {path for path in dependencies if path.removeprefix("kernel/").startswith(KEPT_MODULES)}
    return kept.union(*(dependencies[path] for path in kept)) if kept else kept


def load_order(names: Iterable[str], dependencies: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the paths to insert, in order, for the named modules; a name without a module (built in) is left out."""
    paths = {module_name(path): path for path in dependencies}
    wanted = [paths[name.replace("-", "_")] for name in names if name.replace("-", "_") in paths]
    # modules.dep names the innermost dependency last.
    ordered = [path for module in wanted for path in (*reversed(dependencies[module]), module)]
    return list(dict.fromkeys(ordered))


def module_name(path: str) -> str:
    """Return a module's name as the kernel spells it: `kernel/lib/crc-itu-t.ko.xz` is crc_itu_t."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def make_module_root(root: Path) -> Path:
    """Make an empty root for modules, and return the directory in it that VERSION/ belongs to."""
    modules = root / "usr/lib/modules"
    modules.mkdir(parents=True)
    # depmod looks into /lib/modules or /usr/lib/modules, as its distribution has set it.
    (root / "lib").symlink_to("usr/lib")
    return modules


def prune_modules(whole: Path, pruned: Path, *, version: str, workspace: Workspace) -> list[str]:
    """Copy the modules that a Docker guest needs, decompressed and indexed; return the boot modules' paths.

    `whole` and `pruned` are roots of `make_module_root`; `whole` gets an index as well. The paths are relative to
    VERSION/, in the order of loading.
    """
    depmod = require_tool("depmod", package="kmod")
    source, target = (root / "lib/modules" / version for root in (whole, pruned))
    if compressed := sorted(source.rglob("*.ko.zst")):
        # Debian 12's depmod cannot read these.
        names = workspace.directory / "zst-modules"
        names.write_text("".join(f"{path}\n" for path in compressed))
        zstd = require_tool("zstd", package="zstd")
        workspace.run(zstd, "--quiet", "--decompress", "--rm", f"--filelist={names}")
    workspace.run(depmod, "-b", whole, version)
    dependencies = _read_dependencies(source)
    target.mkdir()
    for path in sorted(kept_modules(dependencies) | set(load_order(BOOT_MODULES, dependencies))):
        _copy_decompressed(source / path, target / (path.partition(".ko")[0] + ".ko"))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    workspace.run(depmod, "-b", pruned, version)
    return load_order(BOOT_MODULES, _read_dependencies(target))


def _read_dependencies(directory: Path) -> dict[str, tuple[str, ...]]:
    return parse_dependencies((directory / "modules.dep").read_text())


def _copy_decompressed(source: Path, target: Path) -> None:
    # A slow guest loads plain modules several times faster than compressed ones.
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".xz":
        target.write_bytes(lzma.decompress(source.read_bytes()))
    elif source.suffix == ".gz":
        target.write_bytes(gzip.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, target)
