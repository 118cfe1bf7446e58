"""The built-in image `kata-dind/hello`: it is loaded on first use, and its container gets facts that it can't see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kata_dind.host.process import process_started
from kata_dind.seeding.contents import is_hello, load_hello

__all__ = ["facts", "is_hello", "load"]

if TYPE_CHECKING:
    from kata_dind.sandbox.api import Sandbox

_LOAD_SECONDS = 120.0


def load(sandbox: Sandbox) -> None:
    """Load the image into the sandbox's Docker unless it is there. Raises SandboxError with Docker's words."""
    load_hello(lambda argv: sandbox.run(argv, timeout_seconds=_LOAD_SECONDS), into=sandbox.name)


def facts(inspected: Mapping[str, Any]) -> dict[str, str]:
    """Return what the container prints but cannot see, as its environment, from a sandbox's `inspect`."""
    data_root, docker = inspected.get("data_root") or {}, inspected.get("docker") or {}
    timings = inspected.get("timings") or {}
    known = {
        "ACCELERATOR": inspected.get("accelerator"),
        "DATA_ROOT": _with_filesystem(data_root),
        "STORAGE": docker.get("storage"),
        "DOCKER": docker.get("version"),
        "BOOT_SECONDS": _rounded(timings.get("boot_seconds")),
        "DOCKER_SECONDS": _rounded(timings.get("docker_seconds")),
        "STARTED": f"{process_started():.2f}",
    }
    return {f"KATA_DIND_HELLO_{name}": str(value) for name, value in known.items() if value}


def _with_filesystem(data_root: Mapping[str, Any]) -> str:
    kind, filesystem = data_root.get("kind", ""), data_root.get("filesystem", "")
    return f"{kind} ({filesystem})" if filesystem else str(kind)


def _rounded(duration_seconds: float | None) -> str:
    return "" if duration_seconds is None else f"{duration_seconds:.1f}"
