"""Reading what this host's containerd and Kata are configured to do: its status, its files, Kata's files, versions."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from kata_dind.backend.containerd.client import Containerd, pid_behind
from kata_dind.backend.containerd.failures import no_cni
from kata_dind.backend.containerd.handlers import ContainerdFiles, Handler, parse_handlers
from kata_dind.backend.containerd.kata import KataConfiguration, default_configurations
from kata_dind.backend.containerd.toml_files import TomlFile
from kata_dind.errors import ContainerdError, KataDindError
from kata_dind.host.process import find_tool, run
from kata_dind.host.small_files import read_small_text

_DEFAULT_CONFIG = Path("/etc/containerd/config.toml")
_MOST_BYTES = 1 << 20
_MOST_FILES = 100
_VERSION_SECONDS = 5.0
_VERSION = re.compile(r"version:?\s+v?([0-9]+\.[0-9]+(?:\.[0-9]+)?(?:[-+][0-9A-Za-z.-]+)?)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found."""

    version: str
    """containerd's."""
    handlers: tuple[Handler, ...]


def survey(containerd: Containerd) -> Survey:
    """Ask containerd what it has, and read the files that say why. Raises ContainerdError."""
    version = containerd.call("RuntimeService/Version", failing="containerd was asked for its version")
    status = containerd.call("RuntimeService/Status", failing="containerd was asked for its state", verbose=True)
    for condition in status.status.conditions:
        if condition.type == "NetworkReady" and not condition.status:
            raise no_cni(condition.message or condition.reason)
        if condition.type == "RuntimeReady" and not condition.status:
            raise _not_ready(condition.message or condition.reason)
    files = ContainerdFiles(tuple(_containerd_files(containerd.address)))
    handlers = parse_handlers(json.loads(status.info.get("config") or "{}"), files)
    places = find_shim_places(pid_behind(containerd.address))
    return Survey(
        version.runtime_version,
        tuple(with_kata(each, shim_places=places) if each.is_kata else each for each in handlers),
    )


def _not_ready(details: str) -> ContainerdError:
    return ContainerdError("containerd is not ready to run pods", id="containerd.not-ready", details=details,
                           hint="systemctl status containerd")  # fmt: skip


def with_kata(handler: Handler, *, shim_places: str = "") -> Handler:
    """Return a handler with what Kata's files, and its shim, tell of it; the places are directories, as in PATH."""
    named = [Path(handler.config_path)] if handler.config_path else default_configurations(handler.runtime_type)
    found = next((path for path in named if path.is_file()), None)
    kata = KataConfiguration(tuple(read_kata_files(found))) if found else None
    return dataclasses.replace(handler, kata=kata, version=_kata_version(handler, found, shim_places))


def read_kata_files(path: Path) -> Iterator[TomlFile]:
    """Yield a configuration of Kata's, and what overrules it."""
    drop_ins = sorted((path.resolve().parent / "config.d").glob("*.toml"))
    for file in [path, *drop_ins[:_MOST_FILES]]:
        yield from _read(file)


def find_shim_places(pid: int) -> str:
    """Return where a containerd looks for shims, as in PATH: its own PATH, and the directory that it lies in.

    That PATH need not be ours: a service may have it in its unit, and k3s sets it. Empty for a process of a user other
    than root and us, who could have us run a program. Source: containerd, `shimBinary` in core/runtime/v2.
    """
    process = Path(f"/proc/{pid}")
    try:
        if process.stat().st_uid not in (0, os.geteuid()):
            return ""
        variables = (process / "environ").read_bytes().split(b"\0")
        own = (process / "exe").readlink()
    except OSError:
        return ""
    path = next((os.fsdecode(each[5:]) for each in variables if each.startswith(b"PATH=")), "")
    return os.pathsep.join(filter(None, [path, str(own.parent)]))


def _kata_version(handler: Handler, configuration: Path | None, shim_places: str) -> str:
    """Return Kata's version: from the file of an installation by kata-deploy, else from the shim's own words."""
    for place in [configuration, *configuration.resolve().parents] if configuration else []:
        if (file := place / "VERSION").is_file():
            return file.read_text(errors="replace").strip()
    name = "containerd-shim-" + handler.runtime_type.removeprefix("io.containerd.").replace(".", "-")
    shim = Path(handler.runtime_path) if handler.runtime_path else _find_shim(name, shim_places)
    if shim is None or not shim.is_file():
        return ""
    try:
        said = run([shim, "--version"], timeout_seconds=_VERSION_SECONDS).stdout
    except (KataDindError, OSError):
        return ""
    match = _VERSION.search(said)
    return match[1] if match else ""


def _find_shim(name: str, places: str) -> Path | None:
    found = shutil.which(name, path=places) if places else None
    return Path(found) if found else find_tool(name)


# --- containerd's own files


def _containerd_files(address: Path) -> Iterator[TomlFile]:
    first = _config_of_process(pid_behind(address)) or _DEFAULT_CONFIG
    waiting, seen = [first], set[Path]()
    while waiting and len(seen) < _MOST_FILES:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        for file in _read(path):
            yield file
            for pattern in file.values.get("imports") or ():
                # Relative to the file that has it, since containerd 2.0.
                waiting += sorted(map(Path, glob.glob(str(path.parent / str(pattern)))))  # noqa: PTH207 - absolute ones


def _config_of_process(pid: int) -> Path | None:
    """Return the configuration that a containerd was started with, by its words: of k3s the containerd below it is."""
    try:
        words = [word.decode(errors="replace") for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        inside = Path(f"/proc/{pid}/cwd").resolve()
    except OSError:
        return None
    for index, word in enumerate(words):
        if word in ("-c", "--config", "-config") and index + 1 < len(words):
            return inside / words[index + 1]
        if word.startswith(("--config=", "-config=", "-c=")):
            return inside / word.partition("=")[2]
    return None


def _read(path: Path) -> Iterator[TomlFile]:
    try:
        yield TomlFile(path, read_small_text(str(path), most_bytes=_MOST_BYTES, what="a configuration"))
    except KataDindError:
        return
