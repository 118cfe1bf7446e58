"""docs/containerd.md: its commands, from the first to the last, on a host without a registry and with runc for Kata.

What a reader has and we don't: root by `sudo`, a handler of Kata's, and the images `docker:dind` and `alpine`.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

from tests.containerd.sandboxes import HANDLER, Sandboxes
from tests.vm.driver import KATA_DIND

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")

_REPOSITORY = Path(__file__).parents[2]
_PAGE = (_REPOSITORY / "docs" / "containerd.md").read_text(encoding="utf-8")


def shown() -> list[str]:
    """Return the commands of the page's sessions."""
    blocks = re.findall(r"```console\n(.*?)```", _PAGE, flags=re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def indented() -> list[str]:
    """Return the commands that stand by themselves."""
    return [line.strip() for line in _PAGE.splitlines() if line.startswith("    sudo ")]


def alpine_archive() -> bytes:
    """Return a root file system in which there is a command `echo`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/bin/busybox", "bin/echo")
    return buffer.getvalue()


def test_the_pages_commands_do_what_it_says(sandboxes: Sandboxes) -> None:
    environment = {
        **os.environ,
        "KATA_DIND_CONTAINERD_ADDRESS": str(sandboxes.host.address),
        "KATA_DIND_HANDLER": HANDLER,
        "KATA_DIND_ALLOW_SHARED_KERNEL": "1",
        "KATA_DIND_DATA_ROOT": "loop",
        "KATA_DIND_SIZE": "1G",
    }
    functions = f'sudo() {{ "$@"; }}; kata-dind() {{ {shlex.join(KATA_DIND)} "$@"; }}'

    def succeed(line: str, *, text: bytes = b"") -> str:
        done = subprocess.run(["bash", "-c", f"{functions}; {line}"], input=text, env=environment, capture_output=True,
                              check=False, timeout=300)  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout!r}{done.stderr!r}"
        return done.stdout.decode()

    build, own = indented()
    assert (build, own.rpartition(" ")[2]) == ("sudo kata-dind image build", sandboxes.image)
    succeed(own)
    imported = next(name for name in sandboxes.listed("images").split() if name.startswith("kata-dind.io/dind:"))
    succeed("sudo kata-dind rm --force default")
    sandboxes.host.succeed(*sandboxes.host.ctr("images", "tag", imported, "docker.io/library/docker:dind"))

    install, backends, up, run, rm = shown()
    extras = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert shlex.split(install) == ["pipx", "install", "kata-dind[containerd]"]
    assert "containerd" in extras
    assert HANDLER in succeed(backends)
    succeed(up)
    succeed("kata-dind docker default -- import - alpine", text=alpine_archive())
    assert succeed(run) == "hello\n"
    succeed(rm)
    assert succeed("kata-dind ls --quiet") == ""
