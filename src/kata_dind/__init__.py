"""A Docker daemon inside its own virtual machine, with a data root that is proven to work.

Everything in `__all__` is public; each name is imported on first use, so that `import kata_dind` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kata_dind.errors import (
        BackendError,
        DataRootError,
        HostError,
        ImageError,
        KataDindError,
        SandboxError,
        SpecError,
    )
    from kata_dind.sandbox import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
    from kata_dind.spec import SandboxSpec, Share, parse_spec
    from kata_dind.volume import Volume, list_volumes, require_volume

__all__ = [
    "BackendError",
    "DataRootError",
    "HostError",
    "ImageError",
    "KataDindError",
    "Sandbox",
    "SandboxError",
    "SandboxSpec",
    "Share",
    "SpecError",
    "Volume",
    "list_sandboxes",
    "list_volumes",
    "open_sandbox",
    "parse_spec",
    "require_sandbox",
    "require_volume",
    "start",
    "up",
]

_ROOMS = {
    "kata_dind.sandbox": ("Sandbox", "list_sandboxes", "open_sandbox", "require_sandbox", "start", "up"),
    "kata_dind.spec": ("SandboxSpec", "Share", "parse_spec"),
    "kata_dind.volume": ("Volume", "list_volumes", "require_volume"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "kata_dind.errors")
    return getattr(importlib.import_module(room), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
