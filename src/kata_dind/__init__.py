"""A Docker daemon inside its own virtual machine, with a data root that is proven to work.

Everything in `__all__` is public; each name is imported on first use, so that `import kata_dind` costs nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from kata_dind.errors import (
        BackendError,
        DataRootError,
        HostError,
        ImageError,
        KataDindError,
        SandboxError,
        SpecError,
    )
    from kata_dind.sandbox.api import Sandbox, list_sandboxes, open_sandbox, require_sandbox, start, up
    from kata_dind.sandbox.volumes import list_volumes, require_volume
    from kata_dind.seeding.carrying import export_seed, import_seed
    from kata_dind.seeding.keeping import inspect_seed, remove_seeds, verify_seed
    from kata_dind.seeding.making import make_seed
    from kata_dind.spec import SandboxSpec, Share, parse_spec
    from kata_dind.store.seeds import Seed, list_seeds, require_seed
    from kata_dind.store.volumes import Volume
    from kata_dind.version import __version__

__all__ = [
    "BackendError",
    "DataRootError",
    "HostError",
    "ImageError",
    "KataDindError",
    "Sandbox",
    "SandboxError",
    "SandboxSpec",
    "Seed",
    "Share",
    "SpecError",
    "Volume",
    "__version__",
    "export_seed",
    "import_seed",
    "inspect_seed",
    "list_sandboxes",
    "list_seeds",
    "list_volumes",
    "make_seed",
    "open_sandbox",
    "parse_spec",
    "remove_seeds",
    "require_sandbox",
    "require_seed",
    "require_volume",
    "start",
    "up",
    "verify_seed",
]

_ROOMS = {
    "kata_dind.sandbox.api": ("Sandbox", "list_sandboxes", "open_sandbox", "require_sandbox", "start", "up"),
    "kata_dind.store.seeds": ("Seed", "list_seeds", "require_seed"),
    "kata_dind.seeding.making": ("make_seed",),
    "kata_dind.seeding.carrying": ("export_seed", "import_seed"),
    "kata_dind.seeding.keeping": ("inspect_seed", "remove_seeds", "verify_seed"),
    "kata_dind.spec": ("SandboxSpec", "Share", "parse_spec"),
    "kata_dind.sandbox.volumes": ("list_volumes", "require_volume"),
    "kata_dind.store.volumes": ("Volume",),
    "kata_dind.version": ("__version__",),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "kata_dind.errors")
    return getattr(importlib.import_module(room), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
