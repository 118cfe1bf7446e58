"""A Compose project in its own directory: a web server, a database with a secret, files that are bind-mounted."""

from __future__ import annotations

import functools
import socket
import time
from pathlib import Path

import pytest

from tests.vm.clients.places import HERE, Place, own
from tests.vm.driver import COMMAND_SECONDS, wait_until
from tests.vm.test_published_ports import free_ports
from tests.web_clients import get, listens

pytestmark = [pytest.mark.requires("qemu", "virtiofsd", "mmdebstrap", "docker-cli", "compose", "ordinary-user")]

PASSWORD = "correct horse"


def redis(address: str, port: int, *commands: str) -> list[str]:
    """Ask a Redis until it listens; return its answers to some commands, a line each."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while True:
        try:
            return _ask_redis(address, port, commands)
        except (ConnectionResetError, ConnectionRefusedError) as error:
            assert time.monotonic() < deadline, f"{address}:{port} does not answer: {error}"
        time.sleep(0.1)


def _ask_redis(address: str, port: int, commands: tuple[str, ...]) -> list[str]:
    with socket.create_connection((address, port), 30) as connected, connected.makefile("rb") as answers:
        lines = []
        for command in commands:
            connected.sendall(command.encode() + b"\r\n")
            line = answers.readline().decode().strip()
            if not line:
                raise ConnectionResetError("it hung up")
            if line.startswith("$"):
                line = answers.readline().decode().strip()
            lines.append(line)
        return lines


def status_of(address: str, port: int, path: str) -> str:
    """Return the first line of a web server's answer."""
    with socket.create_connection((address, port), 30) as connected:
        connected.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return connected.makefile("rb").readline().decode().strip()


@pytest.fixture
def project(place: Place) -> Path:
    project = place.copy(HERE / "project", "shop")
    (project / "db" / "password.txt").write_text(PASSWORD)
    (project / "db" / "password.txt").chmod(0o600)
    own(project, place.uid)
    return project


def test_a_project_of_a_web_server_and_a_database(place: Place, project: Path) -> None:
    (port,) = free_ports()
    (project / ".env").write_text(f"WEB_PORT={port}\n")
    with place.clone("shop", "--share", ".", cwd=project) as shop:
        compose = functools.partial(place.succeed, "docker", "compose", cwd=project, sandbox=shop)
        compose("up", "--detach", "--build")
        address = place.address_of(shop)

        # The web server has what is on the host now, and reads its bind-mounted configuration.
        assert get("127.0.0.1", port) == get(address, port) == "from the host"
        (project / "site" / "index.html").write_text("changed on the host\n")
        assert get("127.0.0.1", port) == "changed on the host"
        assert "401" in status_of("127.0.0.1", port, "/private/")
        assert compose("exec", "-T", "web", "cat", "/built/motd") == "from the build's context\n"
        compose("exec", "-T", "web", "sh", "-c", "echo made >/site/made")
        assert ((project / "site" / "made").read_text(), (project / "site" / "made").stat().st_uid) == (
            "made\n",
            place.uid,
        )

        # The database wants its secret, and has the settings of its file.
        drawn = int(compose("port", "db", "6379").rpartition(":")[2])
        wrong, right, stored = redis(address, drawn, "AUTH wrong", f'AUTH "{PASSWORD}"', "SET word kept")
        assert (wrong.partition(" ")[0], right, stored) == ("-WRONGPASS", "+OK", "+OK")
        settings = f'redis-cli --no-auth-warning -a "{PASSWORD}" config get maxmemory'
        assert compose("exec", "-T", "db", "sh", "-c", settings).split() == ["maxmemory", "33554432"]

        # A container that is made anew has the same port, the volume, and another configuration.
        redis_conf = project / "db" / "redis.conf"
        redis_conf.write_text(redis_conf.read_text().replace("33554432", "44040192"))
        compose("up", "--detach", "--force-recreate", "db", "web")
        drawn = int(compose("port", "db", "6379").rpartition(":")[2])
        assert redis(address, drawn, f'AUTH "{PASSWORD}"', "GET word") == ["+OK", "kept"]
        assert compose("exec", "-T", "db", "sh", "-c", settings).split() == ["maxmemory", "44040192"]
        assert get("127.0.0.1", port) == "changed on the host"

        compose("cp", "web:/built/index.html", "copied.html")
        assert (project / "copied.html").read_text() == "built in the sandbox\n"

        # A path beside the project is refused with the line to run, and that line helps.
        (outside := project.parent / "outside").mkdir(exist_ok=True)
        (outside / "index.html").write_text("from beside\n")
        (project / "override.yaml").write_text('services: {web: {volumes: ["../outside:/site"]}}\n')
        both = ("docker", "compose", "-f", "compose.yaml", "-f", "override.yaml", "up", "--detach", "web")
        refused = place.run(*both, cwd=project, sandbox=shop)
        line = f"kata-dind share add {shop} {outside}"
        assert (refused.returncode, line in refused.stderr) != (0, False), refused.stderr
        place.succeed(*line.split())
        place.succeed(*both, cwd=project, sandbox=shop)
        assert get(address, port) == "from beside"

        compose("down", "--volumes")
        wait_until(lambda: not listens("127.0.0.1", port), what="the port is closed")


def test_two_clones_publish_one_port(place: Place) -> None:
    (port,) = free_ports()
    with place.clone("one") as one, place.clone("two") as two:
        for name in (one, two):
            serve = f"echo {name} >/index.html; exec busybox httpd -f -p 80 -h /"
            published = ("docker", "run", "--detach", "--publish", f"{port}:80")
            place.succeed(*published, "kata-dind/hello", "sh", "-c", serve, sandbox=name)
        assert get("127.0.0.1", port) == get(place.address_of(one), port) == one
        assert get(place.address_of(two), port) == two
        told = place.run("kata-dind", "port", two, str(port))
        assert told.stdout == f"{place.address_of(two)}:{port}\n"
        assert f"port {port}/tcp of 127.0.0.1 belongs to the sandbox '{one}'" in told.stderr
