"""All of it without privileges: a user of its own builds what it needs, starts a sandbox, shares a directory, runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import users
from tests.vm.driver import START_SECONDS

pytestmark = pytest.mark.requires("qemu", "virtiofsd", "mmdebstrap", "ordinary-user")

# Where there is no udev, only root may open the device; this user gets a node with the mode that udev gives it.
_WITH_TUN = """
[ -w /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" = 666 ] || {
	mknod -m 0666 "$0" c 10 200
	mount --bind "$0" /dev/net/tun
}
exec "$@"
"""


@pytest.fixture(scope="module")
def user(private_directories: Path) -> Iterator[users.OrdinaryUser]:
    (private_directories / "vm").mkdir()
    (private_directories / "vm").chmod(0o755)
    with users.ordinary_user(private_directories / "vm") as ordinary:
        yield ordinary


def kata_dind(user: users.OrdinaryUser, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*user.prefix, user.python, "-m", "kata_dind", *words]
    if user.prefix:
        argv = ["unshare", "--mount", "sh", "-c", _WITH_TUN, str(user.cache.parent.parent / "tun"), *argv]
    environment = {**user.environment, "KATA_DIND_STATE_DIR": str(user.cache.parent / "state")}
    return subprocess.run(
        argv, env=environment, cwd="/", capture_output=True, text=True, timeout=START_SECONDS * 2, check=False
    )


def test_a_sandbox_of_an_ordinary_user(user: users.OrdinaryUser) -> None:
    shared = user.cache.parent / "shared"
    shared.mkdir()
    (shared / "question").write_text("who?\n")
    shared.chmod(0o777)

    def succeed(*words: str) -> str:
        done = kata_dind(user, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    succeed("up", "mine", "--share", f"{shared}:/srv/shared", "--data-root", "loop", "--size", "2G")
    try:
        assert (
            succeed("exec", "mine", "--", "sh", "-c", "cat /srv/shared/question; echo me >/srv/shared/answer")
            == "who?\n"
        )
        assert (shared / "answer").read_text() == "me\n"
        assert (shared / "answer").stat().st_uid == user.uid
        assert "Hello from a container" in succeed("docker", "mine", "--", "run", "--rm", "kata-dind/hello")
        storage = succeed("docker", "mine", "--", "info", "--format", "{{.Driver}}")
        assert storage.strip() == "overlay2"
    finally:
        succeed("rm", "--force", "mine")
    assert succeed("ls", "--quiet") == ""
