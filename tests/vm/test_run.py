"""`run`: one container in a sandbox of its own, of which nothing is left."""

from __future__ import annotations

import re
import shlex
import signal
import socket
from pathlib import Path

import pytest

from tests.vm.driver import STOP_SECONDS, kata_dind, start_kata_dind, states
from tests.web_clients import get, listens

pytestmark = pytest.mark.requires("qemu")

_TRAP, _WAIT = "trap 'echo caught; exit 9' TERM INT", "while :; do sleep 0.1; done"
_SMALL = ("--data-root", "memory", "--size", "512M")


def test_hello_tells_what_has_run_it() -> None:
    done = kata_dind("run", "kata-dind/hello")
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^  (\S+(?: \S+)*) {2,}(.+)$", done.stdout, flags=re.MULTILINE))
    seconds = {name: float(rows[name].removesuffix(" s")) for name in ("booted after", "docker ready", "total")}
    assert 0 < seconds["booted after"] < seconds["docker ready"] < seconds["total"]
    assert {name: value for name, value in rows.items() if name not in seconds} == {
        "guest kernel": rows["guest kernel"],
        "accelerator": rows["accelerator"],
        "data root": "block (ext4)",
        "storage": "overlay2 on extfs",
        "docker": rows["docker"],
    }
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", rows["guest kernel"])
    assert rows["accelerator"] in ("kvm", "tcg")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", rows["docker"])
    assert done.stderr.splitlines()[-1].startswith("kata-dind: ready after ")
    assert states().keys() <= {"shared"}


def test_the_streams_and_the_exit_code_are_the_containers() -> None:
    script = "cat; echo $COLOUR; echo err >&2; exit 7"
    done = kata_dind(
        "run", "--quiet", *_SMALL, "--env", "COLOUR=blue", "kata-dind/hello", "sh", "-c", script, input="a\nb\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "a\nb\nblue\n", "err\n")


def test_a_container_has_what_is_shared_and_its_ports_are_published(tmp_path: Path) -> None:
    (shared := tmp_path / "with space").mkdir()
    (shared / "index.html").write_text("from the host\n")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    script = f"{_TRAP}; /bin/busybox httpd -p 80 -h {shlex.quote(str(shared))}; {_WAIT}"
    options = ["--share", str(shared), "-p", f"{port}:80"]
    with start_kata_dind(tmp_path, "run", *_SMALL, *options, "kata-dind/hello", "sh", "-c", script) as command:
        command.wait_until(lambda: listens("127.0.0.1", port), what="publishes the port")
        assert get("127.0.0.1", port) == "from the host"
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(timeout_seconds=STOP_SECONDS) == 9


def test_signals_reach_the_container(tmp_path: Path) -> None:
    script = f"{_TRAP}; echo ready; {_WAIT}"
    with start_kata_dind(tmp_path, "run", *_SMALL, "kata-dind/hello", "sh", "-c", script) as command:
        command.wait_until(lambda: command.stdout == "ready\n", what="runs the container")
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(timeout_seconds=STOP_SECONDS) == 9
        assert command.stdout == "ready\ncaught\n"
    assert states().keys() <= {"shared"}
