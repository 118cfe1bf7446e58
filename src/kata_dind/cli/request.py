"""From a command's options to the values that the other rooms take."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from kata_dind.image.source import PackageSource
    from kata_dind.spec import SandboxSpec, Share


def sandbox_spec(name: str, fields: Mapping[str, Any]) -> SandboxSpec:
    """Parse the fields that were given; make paths absolute, as a supervisor works elsewhere. Raises SpecError."""
    from kata_dind.spec import parse_spec

    if "shares" in fields:
        fields = {**fields, "shares": [_absolute_if_same(share) for share in fields["shares"]]}
    spec = parse_spec(name=name, **fields)
    shares = tuple(_with_absolute_host_path(share) for share in spec.shares)
    return spec.settled(kernel=spec.kernel and spec.kernel.absolute(), shares=shares)


def parsed_share(text: str) -> Share:
    """Parse a share as `--share` does. Raises SpecError."""
    from kata_dind.spec import parse_spec

    return _with_absolute_host_path(parse_spec(name="any", shares=(_absolute_if_same(text),)).shares[0])


def _absolute_if_same(share: str) -> str:
    """Make a share absolute that names one path for both sides, such as `.` or `~/src:ro`."""
    path, read_only = (share[: -len(":ro")], ":ro") if share.endswith(":ro") else (share, "")
    if not path or ":" in path:
        return share
    return os.path.normpath(_working_directory() / _expanded(Path(path))) + read_only


def _with_absolute_host_path(share: Share) -> Share:
    return share.model_copy(update={"host_path": _expanded(share.host_path).absolute()})


def _expanded(path: Path) -> Path:
    """Expand `~`, as a shell does; none has seen what stands in the configuration file."""
    try:
        return path.expanduser()
    except RuntimeError:  # of an unknown user
        return path


def _working_directory() -> Path:
    """Return the working directory by the name that shells and Docker's clients use for it: links are not resolved."""
    named = os.environ.get("PWD", "")
    try:
        if named.startswith("/") and Path(named).samefile("."):
            return Path(named)
    except OSError:
        pass
    return Path.cwd()


def package_source(packages: Mapping[str, Any]) -> PackageSource:
    """Say where packages come from, the host's own release unless another is named. Raises SpecError, HostError."""
    from kata_dind.image.source import PackageSource, default_source

    suite, mirror, apt_options = packages.get("suite"), packages.get("mirror"), tuple(packages.get("apt_options", ()))
    if suite and not re.fullmatch(r"[a-z][a-z0-9.-]*", suite, re.ASCII):
        raise SpecError(f"--suite: {suite!r} is not a release; use its code name, like trixie", id="spec.wrong-value")
    if mirror and not re.fullmatch(r"[a-z][a-z+]*:/\S+", mirror):
        raise SpecError(
            f"--mirror: {mirror!r} is not a URL; use one like https://mirror.example/debian", id="spec.wrong-value"
        )
    for line in apt_options:
        if not line.isprintable() or not ("::" in line or "{" in line):
            raise SpecError(
                f'--apt-option: {line!r} is not a line of apt.conf; use one like Acquire::Retries "5";',
                id="spec.wrong-value",
            )
    if suite:
        return PackageSource(suite, mirror or None, apt_options)
    return default_source(mirror=mirror or None, apt_options=apt_options)
