"""The images that a sandbox's Docker is given: our own, those that it pulls, and those of archives that it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kata_dind.errors import DockerdFailed, SandboxError

if TYPE_CHECKING:
    from kata_dind.store.sandboxes import Record
    from kata_dind.wire.client import ExecResult

HELLO = "kata-dind/hello"

_LOAD_HELLO = f"""\
docker image inspect {HELLO} >/dev/null 2>&1 || exec docker load --quiet --input /usr/share/kata-dind/hello.tar
"""
_TRANSFER_SECONDS = 3600.0
_QUICK_SECONDS = 120.0

RunInGuest = Callable[[list[str]], "ExecResult"]


def is_hello(word: str) -> bool:
    """Tell whether a word of a docker command is our image."""
    return word in (HELLO, f"{HELLO}:latest")


def load_hello(run: RunInGuest, *, into: str) -> None:
    """Load our image unless it is there. Raises SandboxError with Docker's words."""
    result = run(["sh", "-c", _LOAD_HELLO])
    if result.exit_code:
        raise SandboxError(
            f"{HELLO} could not be loaded into {into}",
            id="dockerd.hello-not-loaded",
            details=_words(result),
            hint="leave out --image: only dind images that kata-dind has built have it inside",
        )


def give_image(record: Record, image: str) -> None:
    """Let a running sandbox pull an image; ours is loaded. Raises SandboxError with Docker's words."""
    if is_hello(image):
        load_hello(lambda argv: _run(record, argv, timeout_seconds=_QUICK_SECONDS), into="the sandbox")
        return
    result = _run(record, ["docker", "pull", "--quiet", image], timeout_seconds=_TRANSFER_SECONDS)
    if result.exit_code:
        raise SandboxError(f"the image '{image}' could not be pulled", id="dockerd.pull-failed", details=_words(result))


def give_archive(record: Record, archive: Path) -> None:
    """Let a running sandbox load a `docker save` archive. Raises SandboxError with Docker's words."""
    from kata_dind.proof.docker_api import DockerApi

    try:
        with archive.open("rb") as file:
            DockerApi(record.endpoint, timeout_seconds=_TRANSFER_SECONDS).load_image(file)
    except DockerdFailed as error:
        raise SandboxError(
            f"the archive '{archive}' could not be loaded", id="dockerd.load-failed", details=error.summary
        ) from error


def images_of(record: Record) -> list[str]:
    """Return the references of a running sandbox's images."""
    argv = ["docker", "image", "ls", "--filter", "dangling=false", "--format", "{{.Repository}}:{{.Tag}}"]
    result = _run(record, argv, timeout_seconds=_QUICK_SECONDS)
    if result.exit_code:
        raise SandboxError("the images could not be listed", id="dockerd.images-not-listed", details=_words(result))
    return sorted(set(result.stdout.decode(errors="replace").split()))


def _run(record: Record, argv: list[str], *, timeout_seconds: float) -> ExecResult:
    from kata_dind.wire.client import capture, exec_request

    return capture(record.control, exec_request(argv), stdin=b"", timeout_seconds=timeout_seconds)


def _words(result: ExecResult) -> str:
    return result.stderr.decode(errors="replace").strip()
