from __future__ import annotations

from typing import NamedTuple

import pytest

from kata_dind.backend.dockerd import dockerd_argv

HOST = "--host=unix:///var/run/docker.sock"


class Image(NamedTuple):
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


@pytest.mark.parametrize(
    ("entrypoint", "command", "argv"),
    [
        ((), ("dockerd",), ("dockerd", HOST)),
        (("dockerd-entrypoint.sh",), (), ("dockerd-entrypoint.sh", "dockerd", HOST)),
        (("dockerd-entrypoint.sh",), ("dockerd",), ("dockerd-entrypoint.sh", "dockerd", HOST)),
        (("docker-entrypoint.sh",), ("sh",), ("docker-entrypoint.sh", "dockerd", HOST)),
        ((), ("/usr/local/bin/dockerd", "--debug"), ("/usr/local/bin/dockerd", "--debug", HOST)),
        (("tini", "--"), ("dockerd",), ("tini", "--", "dockerd", HOST)),
        ((), (), ("dockerd", HOST)),
        (("dockerd",), (), ("dockerd", HOST)),
        (("/usr/bin/dockerd",), ("--debug",), ("/usr/bin/dockerd", "--debug", HOST)),
        (("tini", "--", "dockerd"), (), ("tini", "--", "dockerd", HOST)),
        (("dockerd-entrypoint.sh",), ("--mtu=1400",), ("dockerd-entrypoint.sh", "dockerd", "--mtu=1400", HOST)),
    ],
    ids=[
        "built",
        "official",
        "official, dockerd named",
        "official client",
        "path and flag",
        "init",
        "nothing",
        "dockerd is the entrypoint",
        "dockerd is the entrypoint, flags the command",
        "init and dockerd are the entrypoint",
        "flags are the command",
    ],
)
def test_dockerd_is_started_as_the_image_would_on_the_unix_socket_alone(
    entrypoint: tuple[str, ...], command: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    assert dockerd_argv(Image(entrypoint, command)) == argv
