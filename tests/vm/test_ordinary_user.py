"""All of it without privileges: a user of its own builds what it needs, starts a sandbox, shares a directory, runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from kata_dind.errors import PermissionMissing
from tests import users
from tests.vm.driver import START_SECONDS, wait_until
from tests.vm.host_service import http_server

pytestmark = [pytest.mark.requires("qemu", "virtiofsd", "mmdebstrap", "ordinary-user"), pytest.mark.thorough]


def state_of(user: users.OrdinaryUser) -> Path:
    return user.cache.parent / "state"


def kata_dind(user: users.OrdinaryUser, *words: str) -> subprocess.CompletedProcess[str]:
    argv = user.with_tun(user.python, "-m", "kata_dind", *words)
    environment = {**user.environment, "KATA_DIND_STATE_DIR": str(state_of(user))}
    return subprocess.run(
        argv, env=environment, cwd="/", capture_output=True, text=True, timeout=START_SECONDS * 2, check=False
    )


def test_a_data_root_on_virtiofs_is_refused_before_anything_is_made(ordinary_user: users.OrdinaryUser) -> None:
    done = kata_dind(ordinary_user, "up", "mine", "--data-root", "virtiofs")
    assert done.returncode == PermissionMissing.exit_code
    assert done.stderr == (
        "kata-dind: --data-root: 'virtiofs' needs root: overlay's marks are trusted.* attributes, which only root may "
        "write\nhint: use --data-root block or loop, or run kata-dind as root\n"
    )
    assert not [*(state_of(ordinary_user) / "sandboxes").iterdir()]


def test_a_sandbox_of_an_ordinary_user(ordinary_user: users.OrdinaryUser) -> None:
    shared = ordinary_user.cache.parent / "shared"
    shared.mkdir()
    (shared / "question").write_text("who?\n")
    shared.chmod(0o777)

    def succeed(*words: str) -> str:
        done = kata_dind(ordinary_user, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    stack = contextlib.ExitStack()
    port = stack.enter_context(http_server(b"from the host"))
    options = ("--share", f"{shared}:/srv/shared", "--data-root", "loop", "--size", "2G", "--host-port", str(port))
    succeed("up", "mine", *options)
    try:
        fetch = ("busybox", "wget", "-q", "-O", "-", f"http://host.docker.internal:{port}/")
        assert succeed("docker", "mine", "--", "run", "--rm", "kata-dind/hello", *fetch) == "from the host"
        exchange = "cat /srv/shared/question; echo me >/srv/shared/answer"
        assert succeed("exec", "mine", "--", "sh", "-c", exchange) == "who?\n"
        assert (shared / "answer").read_text() == "me\n"
        assert (shared / "answer").stat().st_uid == ordinary_user.uid
        assert "Hello from a container" in succeed("docker", "mine", "--", "run", "--rm", "kata-dind/hello")
        assert succeed("docker", "mine", "--", "info", "--format", "{{.Driver}}") == "overlay2\n"
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
            done = kata_dind(ordinary_user, "docker", "mine", "--", "run", "--publish", "80:80", "kata-dind/hello")
            assert "sudo sysctl net.ipv4.ip_unprivileged_port_start=80" in done.stderr
        # What is in a user namespace must go with the supervisor, too; the check of every test looks for it.
        status = state_of(ordinary_user) / "sandboxes" / "mine" / "status.json"
        os.kill(int(json.loads(status.read_text())["pid"]), signal.SIGKILL)
        wait_until(lambda: "crashed" in succeed("ls"), what="ls says so")
    finally:
        succeed("rm", "--force", "mine")
        stack.close()
    assert succeed("ls", "--quiet") == ""
