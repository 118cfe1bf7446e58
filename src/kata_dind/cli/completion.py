"""Completion in the shell: names that exist, and the words of closed sets. It never fails, and prints nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import typer


def sandbox_names(incomplete: str) -> list[str]:
    """Complete a sandbox's name."""
    with contextlib.suppress(Exception):
        from kata_dind.sandbox.api import list_sandboxes

        return _beginning(incomplete, (sandbox.name for sandbox in list_sandboxes()))
    return []


def share_paths(incomplete: str) -> list[str]:
    """Complete a path at which a sandbox has a share."""
    with contextlib.suppress(Exception):
        from kata_dind.sandbox.api import list_sandboxes
        from kata_dind.sandbox.sharing import list_shares

        shares = (share for sandbox in list_sandboxes() for share in list_shares(sandbox.name))
        return _beginning(incomplete, dict.fromkeys(str(share["guest_path"]) for share in shares))
    return []


def volume_names(incomplete: str) -> list[str]:
    """Complete a volume's name."""
    with contextlib.suppress(Exception):
        from kata_dind.sandbox.volumes import list_volumes

        return _beginning(incomplete, (volume.name for volume in list_volumes()))
    return []


def seed_names(incomplete: str) -> list[str]:
    """Complete a seed's name."""
    with contextlib.suppress(Exception):
        from kata_dind.store.seeds import list_seeds

        return _beginning(incomplete, (seed.name for seed in list_seeds()))
    return []


def image_references(incomplete: str) -> list[str]:
    """Complete the reference of a dind image."""
    with contextlib.suppress(Exception):
        from kata_dind.image.store import list_images

        return _beginning(incomplete, (image.reference for image in list_images()))
    return []


def published_ports(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a port that a sandbox's containers publish."""
    with contextlib.suppress(Exception):
        from kata_dind.sandbox.api import require_sandbox

        ports = require_sandbox(ctx.params["name"]).ports
        return _beginning(incomplete, (f"{port['port']}/{port['protocol']}" for port in ports))
    return []


def log_sources(incomplete: str) -> list[str]:
    """Complete a log's source: all that the installed backends have."""
    with contextlib.suppress(Exception):
        from kata_dind.backend import installed_backends, load_backend

        logs = (source for name in installed_backends() for source in load_backend(name).logs)
        return _beginning(incomplete, dict.fromkeys(logs))
    return []


def kube_contexts(incomplete: str) -> list[str]:
    """Complete a context of kubectl's."""
    with contextlib.suppress(Exception):
        from kata_dind.fixing.cluster import contexts

        return _beginning(incomplete, contexts())
    return []


def kata_handlers(incomplete: str) -> list[str]:
    """Complete a handler of Kata's on which dind pods work."""
    with contextlib.suppress(Exception):
        from kata_dind.cluster.plan import fitting_handlers

        return _beginning(incomplete, fitting_handlers())
    return []


def words(allowed: Iterable[str]) -> Callable[[str], list[str]]:
    """Complete the words of a closed set."""
    known = [str(word) for word in allowed]

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, known)

    return complete


def _beginning(incomplete: str, candidates: Iterable[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate and candidate.startswith(incomplete)]
