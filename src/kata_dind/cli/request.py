"""From a command's options to a SandboxSpec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kata_dind.spec import SandboxSpec


def sandbox_spec(name: str, fields: Mapping[str, Any]) -> SandboxSpec:
    """Parse what was asked; paths are made absolute, for a supervisor works elsewhere. Raises SpecError."""
    from kata_dind.spec import parse_spec

    spec = parse_spec(name=name, **fields)
    shares = tuple(share.model_copy(update={"host_path": share.host_path.absolute()}) for share in spec.shares)
    kernel = spec.kernel and spec.kernel.absolute()
    return spec.model_copy(update={"kernel": kernel, "shares": shares})
