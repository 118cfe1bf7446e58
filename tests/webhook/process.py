"""A webhook as a process of its own, with what it logs and counts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.host.process import Daemon, daemon
from tests.vm.driver import KATA_DIND
from tests.webhook.client import SECONDS, Answer, Connection, connect, trusting
from tests.webhook.pairs import Mounted, Pair

START_SECONDS = 60.0
RELOAD_SECONDS = 0.1
_SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Webhook:
    """A webhook that is ready."""

    process: Daemon
    log: Path
    tls: Mounted
    context: ssl.SSLContext
    port: int
    http_port: int

    @property
    def kata_dind_logs(self) -> list[Path]:
        return [self.log]

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection of HTTPS."""
        with connect(self.port, self.context) as connection:
            yield connection

    def ask(self, review: Any) -> Answer:
        """Send a review on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(review if isinstance(review, bytes) else json.dumps(review).encode())

    def get(self, path: str) -> tuple[int, bytes]:
        """Return what is served without TLS."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        return dict(json.loads(self.get("/readyz")[1]))

    def metrics(self) -> dict[str, float]:
        """Return all samples, by name and labels."""
        samples = _SAMPLE.findall(self.get("/metrics")[1].decode())
        return {name.removeprefix("kata_dind_webhook_"): float(value) for name, value in samples}

    def events(self, what: str) -> list[dict[str, Any]]:
        """Return the events of a name in the log."""
        return [each for each in events_in(self.log) if each["event"] == what]

    def wait_for_event(self, what: str, *, count: int = 1) -> dict[str, Any]:
        """Wait until the log has so many events of a name, and return the last of these."""
        wait_until(lambda: len(self.events(what)) >= count, f"{count} events of {what}")
        return self.events(what)[count - 1]


def events_in(log: Path) -> list[dict[str, Any]]:
    """Return the events in a log; a line that is not JSON fails."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_until(holds: Callable[[], bool], what: str, *, timeout_seconds: float = SECONDS) -> None:
    """Wait for something."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, f"there is no end of waiting for {what}"
        time.sleep(0.02)


def serve_argv(cert: Path, key: Path, *options: str, listen: str = "127.0.0.1:0") -> list[str]:
    """Return the command."""
    files = ("--cert", str(cert), "--key", str(key))
    ports = ("--listen", listen, "--http-listen", "127.0.0.1:0")
    return [*KATA_DIND, "webhook", "serve", *files, *ports, "--reload-every", str(RELOAD_SECONDS), *options]


@contextlib.contextmanager
def start_webhook(
    directory: Path,
    pair: Pair,
    *options: str,
    limits: Mapping[str, float] | None = None,
    wrapper: Sequence[str] = (),
    listen: str = "127.0.0.1:0",
    **told: float,
) -> Iterator[Webhook]:
    """Start a webhook in a directory, which gets its files; with `limits`, the program is that of our own."""
    tls = Mounted(directory / "tls", pair.files)
    cert, key = tls / "tls.crt", tls / "tls.key"
    argv = serve_argv(cert, key, *options, listen=listen)
    if limits is not None:
        program = Path(__file__).with_name("serve_with_limits.py")
        ports = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
        argv = [sys.executable, str(program)]
        argv += [json.dumps({"cert": str(cert), "key": str(key), **ports, "limits": limits, **told})]
    log = directory / "webhook.log"
    with daemon([*wrapper, *argv], name="webhook", log=log, rung_seconds=15) as process:
        ports_found = wait_until_ready(process)
        yield Webhook(process, log, tls, trusting(pair.certificate), ports_found["https"], ports_found["http"])
        if not process.ended():
            os.kill(process.pid, signal.SIGKILL)  # its own end would take as long as a cluster needs to learn of it


def wait_until_ready(process: Daemon) -> dict[str, int]:
    """Wait for a webhook, and return where it listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        has_ended = process.ended()
        text = process.log.read_text()
        if '"event": "ready"' in text:
            listening = [each for each in events_in(process.log) if each["event"] == "listening"]
            return {each["port"]: int(each["address"].rpartition(":")[2]) for each in listening}
        assert not has_ended and time.monotonic() < deadline, process.describe_end()
        time.sleep(0.02)
