"""The built-in image kata-dind/hello: a static busybox, and a script that says through what it was run."""

from __future__ import annotations

from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.busybox import APPLETS

REFERENCE = "kata-dind/hello:latest"


def hello_archive(*, busybox: bytes, script: bytes) -> bytes:
    """Return the image as an archive for `docker load`; the same input gives the same bytes."""
    layer = Layer(
        files={},
        executables={"bin/busybox": busybox, "hello.sh": script},
        links={f"bin/{applet}": "busybox" for applet in APPLETS},
    )
    return docker_archive(REFERENCE, [layer], {"Cmd": ["/hello.sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"})
