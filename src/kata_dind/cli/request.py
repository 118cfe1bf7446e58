"""From a command's options to what the other rooms take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec


def sandbox_spec(name: str, fields: Mapping[str, Any]) -> SandboxSpec:
    """Parse what was asked; paths are made absolute, for a supervisor works elsewhere. Raises SpecError."""
    from kata_dind.spec import parse_spec

    spec = parse_spec(name=name, **fields)
    shares = tuple(share.model_copy(update={"host_path": share.host_path.absolute()}) for share in spec.shares)
    kernel = spec.kernel and spec.kernel.absolute()
    return spec.model_copy(update={"kernel": kernel, "shares": shares})


def package_source(packages: Mapping[str, Any]) -> PackageSource:
    """Say where packages come from, for the host's own release unless another was asked for. Raises HostError."""
    from kata_dind.image.source import PackageSource, default_source

    mirror, apt_options = packages["mirror"] or None, tuple(packages["apt_options"])
    if packages["suite"]:
        return PackageSource(packages["suite"], mirror, apt_options)
    return default_source(mirror=mirror, apt_options=apt_options)
