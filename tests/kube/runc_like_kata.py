"""An OCI runtime for the handler `kata-qemu`: runc, with what a container of Kata's meets and one of runc's doesn't.

The containers' root file systems are on FUSE without extended attributes, as Kata's are on virtio-fs. Kernel settings
that a guest has for itself are covered by empty directories: containers of these tests are privileged, and would set
those of this machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_COVERED = ("proc/sys/fs/inotify", "proc/sys/kernel/keys")
_OVERLAY = "sys/module/overlay/parameters"


def main(argv: list[str]) -> None:
    """Change what runc is to create; runc does all the work."""
    if "create" in argv:
        bundle = Path(argv[argv.index("--bundle") + 1])
        spec = json.loads((bundle / "config.json").read_text())
        if spec["annotations"].get("io.kubernetes.cri.container-type") == "container":
            share(bundle / "rootfs")
            # Kata's guests have no such rules.
            spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
            # A process that may not lower this number can't give its children another, and no container would start.
            spec["process"].pop("oomScoreAdj", None)
            # An ordinary user sets none, and couldn't mount a /proc of its own where something covers parts of it.
            if spec["process"]["user"]["uid"] == 0:
                add_hook(spec, cover(bundle / "rootfs"))
            (bundle / "config.json").write_text(json.dumps(spec))
    os.execvp("runc", ["runc", *argv])  # noqa: S606 - it becomes runc


def share(root: Path) -> None:
    """Put FUSE over a root file system; who unmounts the one beneath unmounts it, too, and its server ends then."""
    subprocess.run(["bindfs", "-o", "suid", "--xattr-none", root, root], check=True)


def add_hook(spec: dict[str, Any], script: str) -> None:
    """Let a script run in the container's namespaces before its root is changed."""
    hook = {"path": "/bin/sh", "args": ["sh", "-euc", script], "env": [f"PATH={os.environ['PATH']}"]}
    spec.setdefault("hooks", {}).setdefault("createContainer", []).append(hook)


def cover(root: Path) -> str:
    """Return the script: settings are empty files, and overlay's parameters are as Kata's kernels have them."""
    return "; ".join(
        [
            *(f"mount -t tmpfs cover {root}/{name}" for name in (*_COVERED, _OVERLAY)),
            f"for name in redirect_dir metacopy; do echo Y >{root}/{_OVERLAY}/$name; done",
        ]
    )


main(sys.argv[1:])
