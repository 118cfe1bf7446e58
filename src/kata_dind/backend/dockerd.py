"""How a container starts dockerd, whatever its image is and whichever backend runs it, with its questions about ports.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

DOCKER_SOCKET = "/var/run/docker.sock"
"""Where dockerd listens, in the container."""

PUBLISHED_PORT = "/run/kata-dind/published_port.sh"
"""Where the container has the script that dockerd starts for each port."""
ASKS_FOR_PORTS = f"--userland-proxy-path={PUBLISHED_PORT}"
"""The flag that makes dockerd ask the guest, and so the host, about each port that a container publishes."""


class Startable(Protocol):
    """An image, as far as it says how its container starts."""

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """Its ENTRYPOINT."""

    @property
    def command(self) -> tuple[str, ...]:
        """Its CMD."""


def dockerd_argv(image: Startable) -> tuple[str, ...]:
    """Compute the container's command: the image's own way to dockerd, on the Unix socket alone.

    With dockerd and its socket named, the official image's entrypoint opens no TCP port, and dockerd does not wait the
    seconds that it waits when it is to open one without authentication.
    """
    words = (*image.entrypoint, *image.command)
    if not any(word.rpartition("/")[2] == "dockerd" for word in words):
        # The official entrypoint passes flags on to dockerd; an image runs any other command instead of dockerd.
        flags = image.command if image.command and image.command[0].startswith("-") else ()
        words = (*image.entrypoint, "dockerd", *flags)
    return (*words, f"--host=unix://{DOCKER_SOCKET}")


def why_not_told(argv: Sequence[str]) -> str:
    """Return why a dockerd that is asked to tell of its ports does not, by its flags; empty where it does."""
    path = [word for word in argv if word.startswith("--userland-proxy-path=")][-1]
    switches = [word for word in argv if word.partition("=")[0] == "--userland-proxy"]
    other = "" if path == ASKS_FOR_PORTS else path
    if switches and switches[-1] not in ("--userland-proxy", "--userland-proxy=true"):
        other = switches[-1]
    return f"--dockerd-arg: with '{other}' published ports can't be reached from this host" if other else ""
