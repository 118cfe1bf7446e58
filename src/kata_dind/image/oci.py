"""dind images from elsewhere: any OCI image with a dockerd, from a registry, an OCI layout or a docker archive."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kata_dind.errors import CommandFailed, ImageError
from kata_dind.host.directories import cache_directory
from kata_dind.host.process import require_tool
from kata_dind.host.rootlike import require_rootlike
from kata_dind.image import rootfs, store
from kata_dind.image.cache import build_lock, content_key
from kata_dind.image.reference import Reference, parse_reference
from kata_dind.image.store import DindImage
from kata_dind.image.workspace import Goal, Workspace, open_workspace
from kata_dind.progress import Event, Report

_POLICIES = (Path("/etc/containers/policy.json"), Path("~/.config/containers/policy.json"))
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LINKS_FOLLOWED = 40  # as many as the kernel follows


@dataclass(frozen=True)
class Config:
    """An image's statements about the process that it starts."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]

    def variable(self, name: str) -> str | None:
        """Return the value of one of its environment variables."""
        pairs = (entry.partition("=") for entry in self.environment)
        return next((value for key, _, value in pairs if key == name), None)


def pull_image(reference: str, *, report: Report, insecure: bool = False) -> DindImage:
    """Copy an image, and make it a dind image of the same name; an older one of that name stays without a name.

    `insecure` allows a registry without TLS or a known certificate; one on this machine is always allowed. Raises
    SpecError for an invalid reference, ImageError when the image cannot be copied or has no dockerd.
    """
    parsed = parse_reference(reference, relative_to=Path.cwd())
    cache = cache_directory()
    for tool in ("skopeo", "umoci"):
        require_tool(tool, package=tool)
    require_rootlike()
    since = time.time()
    with build_lock(f"pull-{content_key(parsed.text)}", cache=cache):
        existing = store.image_since(parsed.text, since=since)
        if existing is not None:
            return existing
        report(Event("build", f"pulling {parsed.text}"))
        with open_workspace(cache, Goal(f"pull {parsed.text}", needs_mib=64)) as workspace:
            image = _pull(parsed, insecure=insecure, workspace=workspace, cache=cache, report=report)
    report(Event("built", f"{image.reference} is ready, with Docker {image.docker_version}", time.time() - since))
    return image


def copy_argv(reference: Reference, layout: Path, *, insecure: bool, any_policy: bool) -> list[str]:
    """Return the skopeo call that copies an image into an OCI layout, under the tag `image`."""
    return [
        "skopeo",
        # Without a policy file skopeo refuses everything; Debian installs one, a bare skopeo doesn't.
        *(["--insecure-policy"] if any_policy else []),
        "copy",
        "--quiet",
        "--remove-signatures",
        *(["--src-tls-verify=false"] if insecure or reference.is_loopback else []),
        reference.source,
        f"oci:{layout}:image",
    ]


def parse_config(config: Mapping[str, Any]) -> Config:
    """Read an OCI image configuration. Source: the OCI image specification, config.md."""
    process = config.get("config") or {}
    entrypoint, command, environment = (tuple(process.get(key) or ()) for key in ("Entrypoint", "Cmd", "Env"))
    return Config(entrypoint, command, environment)


def find_program(tree: Path, name: str, *, search_path: str) -> PurePosixPath | None:
    """Find a program in an untrusted root file system as a process in there would find it: links stay inside."""
    for directory in search_path.split(":"):
        if not directory.startswith("/"):
            continue
        candidate = PurePosixPath(directory, name)
        found = _resolve(tree, candidate)
        if found is not None and found.is_file() and found.stat().st_mode & 0o111:
            return candidate
    return None


def _pull(parsed: Reference, *, insecure: bool, workspace: Workspace, cache: Path, report: Report) -> DindImage:
    layout, tree = (workspace.directory / name for name in ("layout", "tree"))
    _copy(parsed, layout, insecure=insecure, workspace=workspace)
    config = parse_config(_read_config(layout))
    report(Event("build", f"unpacking {parsed.text}"))
    workspace.run_rootlike("umoci", "raw", "unpack", "--image", f"{layout}:image", tree)
    if find_program(tree, "dockerd", search_path=config.variable("PATH") or _DEFAULT_PATH) is None:
        raise ImageError(
            f"{parsed.text} has no dockerd, so it is not a Docker-in-Docker image",
            id="image.without-dockerd",
            hint="pull one that has it, such as docker:dind",
        )
    finished = workspace.directory / "image"
    finished.mkdir(mode=0o700)
    rootfs.pack_foreign_disk(tree, finished / "disk.erofs", workspace=workspace)
    image = DindImage(
        reference=parsed.text,
        image_id="",
        disk=finished,
        entrypoint=config.entrypoint,
        command=config.command,
        environment=config.environment,
        docker_version=config.variable("DOCKER_VERSION") or "unknown",
        created=store.now_as_text(),
        size_bytes=0,
        origin=parsed.source,
    )
    return store.add_image(finished, image, cache=cache)


def _copy(parsed: Reference, layout: Path, *, insecure: bool, workspace: Workspace) -> None:
    any_policy = not any(path.expanduser().is_file() for path in _POLICIES)
    try:
        workspace.run(*copy_argv(parsed, layout, insecure=insecure, any_policy=any_policy))
    except CommandFailed as error:
        if "server gave HTTP response to HTTPS client" in error.details or "x509:" in error.details:
            raise ImageError(
                f"could not pull {parsed.text}: the registry {parsed.host} has no TLS that this host trusts",
                id="image.registry-untrusted",
                details=error.details,
                hint=f"kata-dind image pull --insecure {parsed.text}",
            ) from error
        raise


def _read_config(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    manifest = _read_blob(layout, index["manifests"][0])
    return _read_blob(layout, manifest["config"])


def _read_blob(layout: Path, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    blob: dict[str, Any] = json.loads((layout / "blobs" / algorithm / digest).read_text())
    return blob


def _resolve(tree: Path, path: PurePosixPath) -> Path | None:
    """Follow a path's links as if `tree` were the root; None when the path leads nowhere, or in circles."""
    pending = list(reversed(path.parts[1:]))
    resolved: list[str] = []
    for _ in range(_LINKS_FOLLOWED * 8):
        if not pending:
            return tree.joinpath(*resolved)
        part = pending.pop()
        if part == "..":
            resolved = resolved[:-1]
            continue
        here = tree.joinpath(*resolved, part)
        try:
            target = PurePosixPath(os.readlink(here))  # noqa: PTH115 - Path.readlink cannot tell a file from an error
        except FileNotFoundError:
            return None
        except OSError:  # not a link
            resolved.append(part)
            continue
        if target.is_absolute():
            resolved = []
        pending.extend(reversed([name for name in target.parts if name != "/"]))
    return None
