"""Building programs from Go modules, in the versions of a go.mod of ours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kata_dind.host.process import require_tool, run
from kata_dind.image.workspace import Workspace

_KEPT = ("GOPROXY", "GONOSUMDB", "GOSUMDB", "GOCACHE", "GOMODCACHE", "GOPATH")


def version_of(module: str, *, versions: Path) -> str:
    """Return the version of a module in the go.mod of a directory."""
    words = (line.removeprefix("require ").split() for line in (versions / "go.mod").read_text().splitlines())
    return next(line[1] for line in words if line[:1] == [module] and len(line) > 1 and line[1] != "=>")


def texts(versions: Path) -> list[str]:
    """Return all that pins what is built from a directory's go.mod."""
    return [(versions / name).read_text() for name in ("go.mod", "go.sum")]


def module_directory(module: str, *, versions: Path) -> Path:
    """Return where the files of a module lie, in the version of a directory's go.mod; fetched if they aren't there."""
    require_tool("go", package="golang-go")
    argv: list[str | os.PathLike[str]] = ["go", "mod", "download", "-C", versions, "-json", module]
    return Path(json.loads(run(argv, timeout_seconds=600, environment=_environment()).stdout)["Dir"])


def _environment() -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "GOFLAGS": "",
        # An older Go fetches the one that go.mod asks for, which is a module, too.
        "GOTOOLCHAIN": "auto",
    }


def go_build(
    packages: Sequence[str], *flags: str, versions: Path, workspace: Workspace, product: Path, cgo: bool = False
) -> None:
    """Build the programs of some packages into the directory `product`, in the versions of a directory's go.mod."""
    require_tool("go", package="golang-go")
    module = workspace.directory / "module"
    # Go may write to go.sum, and the checkout is not its place.
    shutil.copytree(versions, module, dirs_exist_ok=True)
    environment = {**_environment(), "CGO_ENABLED": str(int(cgo)), "TMPDIR": str(workspace.directory)}
    argv: list[str | os.PathLike[str]] = [
        "go",
        "build",
        "-C",
        module,
        "-trimpath",
        "-o",
        f"{product}/",
        *flags,
        *packages,
    ]
    run(argv, timeout_seconds=7200, log=workspace.log, environment=environment)
