"""What the webhook costs: one replica on one core, real HTTPS, and the client on another core.

Each round asks, in turn, our webhook and one that does nothing, of the same stack: it reads the review and admits the
pod. The difference is what deciding, patching, counting and logging cost. The reviews are those of webhook_reviews.py:
a mix as a cluster has it, and the worst case, in which each pod is to be repaired (the answer has 60 KB then).

    start    from the process's start to the first 200 of /readyz over HTTPS, tried every 2 ms
    first    the first review after that, and the median of the fifty that follow
    rate     200 reviews a second over 8 connections; a review is timed from when it is due, so that its time has in it
             by how much the client itself was late (`late`, the 99th of 100)
    full     16 connections that send the next review when they have an answer
    idle     1,000 connections that say nothing: what the process's memory grows by
    memory   RSS after 5,000 reviews, at four moments on the way, and after all (--reviews)

Time on the wall is what users have, and what other work on the machine spoils: `cpu` is the processor time of the
server for one review, and 1000/cpu is what a core can do at most; `faults` are the pages that it touched for the first
time, or again after it had given them back.

Bars: p99 at 200 reviews/s <= 10 ms, in the round that was disturbed least; >= 800 reviews/s; RSS <= 80 MiB, and less
than 2 MiB more after all reviews than after 5,000; start <= 1 s. Exits with 1 when a bar is missed.

    .venv/bin/python benchmarks/webhook.py [--rounds 3] [--seconds 10] [--reviews 100000] [--only load|memory] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from startup import Bar, at_least, at_most, percentile_99, print_bars
from webhook_reviews import MIXES, repair, request_of

HERE = Path(__file__).parent
KATA_DIND = str(Path(sys.executable).with_name("kata-dind"))
WARM_REVIEWS = 5_000
MOMENTS = 5
IDLE = 1_000
DEADLINE_SECONDS = 60.0


@dataclass
class Server:
    """A running webhook."""

    pid: int
    port: int
    authority: Path
    start_seconds: float
    start_processor_seconds: float

    @property
    def context(self) -> ssl.SSLContext:
        """A client's context."""
        return ssl.create_default_context(cafile=str(self.authority))

    def processor_seconds(self) -> float:
        """How long it has run; by the kernel's own clock, since ticks are too coarse."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9 + _threads_seconds(self.pid)

    def page_faults(self) -> int:
        """How often a page was missing in its memory, and was not to be read from a disk."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[7])  # minflt, the tenth of all in proc_pid_stat(5)

    def rss_mib(self) -> float:
        """How much memory it has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _threads_seconds(pid: int) -> float:
    others = (path for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid))
    return sum(int((path / "schedstat").read_text().split()[0]) for path in others) / 1e9


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for loopback, of the kind that `kata-dind webhook certs` makes."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=webhook", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextlib.contextmanager
def served(directory: Path, *, ours: bool, core: int) -> Iterator[Server]:
    """Start one of the two webhooks on a core, and time it until it is ready."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    argv = [sys.executable, str(HERE / "webhook_nothing.py"), str(certificate), str(key)]
    if ours:
        argv = [KATA_DIND, "webhook", "serve", "--cert", str(certificate), "--key", str(key)]
        argv += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    log = directory / "log"
    with log.open("wb") as sink:
        started = time.monotonic()
        process = subprocess.Popen(["taskset", "-c", str(core), *argv], stdin=subprocess.DEVNULL, stderr=sink)
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        port = _wait_until_ready(process, log, context)
        took = time.monotonic() - started
        server = Server(process.pid, port, certificate, took, 0.0)
        server.start_processor_seconds = server.processor_seconds()
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, context: ssl.SSLContext) -> int:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the webhook is not ready:\n{log.read_text()}")
        listening = [line for line in log.read_text().splitlines() if '"https"' in line and line.endswith("}")]
        if listening:
            port = int(json.loads(listening[0])["address"].rpartition(":")[2])
            with contextlib.suppress(OSError), connected(port, context) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                if connection.recv(64).startswith(b"HTTP/1.1 200 "):
                    return port
        time.sleep(0.002)


@contextlib.contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Open a connection."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        # As Go does; without it, the first review waits for 40 ms.
        secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield secure


def load(server: Server, core: int, **told: Any) -> dict[str, Any]:
    """Let a client of its own put load on a webhook, and return what it tells, with the server's processor time."""
    words = json.dumps({"port": server.port, "authority": str(server.authority), **told})
    before, faults = server.processor_seconds(), server.page_faults()
    argv = ["taskset", "-c", str(core), sys.executable, str(HERE / "webhook_load.py"), words]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    count = len(found["latencies"])
    return {
        "reviews": count,
        "failures": found["failures"],
        "per_second": count / found["seconds"],
        "median_ms": statistics.median(found["latencies"]) * 1000,
        "p99_ms": percentile_99(found["latencies"]) * 1000,
        "most_ms": found["latencies"][-1] * 1000,
        "late_ms": percentile_99(found["lateness"]) * 1000 if found["lateness"] else 0.0,
        "cpu_ms": (server.processor_seconds() - before) / count * 1000,
        "faults": (server.page_faults() - faults) / count,
        "client_cpu_ms": found["processor_seconds"] / count * 1000,
        "kib": found["mib"] * 1024 / count,
    }


def first_reviews(server: Server) -> tuple[float, float]:
    """Return the milliseconds of the first review, and the median of those that follow on its connection."""
    content = request_of(repair()[0])
    with connected(server.port, server.context) as connection:
        times = [_ask(connection, content) for _ in range(51)]
    return times[0] * 1000, statistics.median(times[1:]) * 1000


def _ask(connection: ssl.SSLSocket, content: bytes) -> float:
    started = time.perf_counter()
    connection.sendall(content)
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1 << 18)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 18)
    return time.perf_counter() - started


def idle_mib(server: Server) -> float:
    """Return by how much its memory grows for connections that say nothing."""
    context, before = server.context, server.rss_mib()
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(connected(server.port, context))
        return server.rss_mib() - before


@dataclass
class Found:
    """All measurements."""

    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    start_seconds: list[float] = field(default_factory=list)
    start_processor_seconds: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    later_ms: list[float] = field(default_factory=list)
    idle_mib: float = 0.0
    rss_mib: dict[str, float] = field(default_factory=dict)

    def best(self, name: str, what: str) -> float:
        """Return the least value of all rounds."""
        return float(min(run[what] for run in self.runs[name]))


def measure_round(found: Found, directory: Path, seconds: float, cores: tuple[int, int]) -> None:
    """Ask both webhooks once."""
    for ours in (True, False):
        with served(directory, ours=ours, core=cores[0]) as server:
            name = "ours" if ours else "nothing"
            if ours:
                found.start_seconds.append(server.start_seconds)
                found.start_processor_seconds.append(server.start_processor_seconds)
                first, later = first_reviews(server)
                found.first_ms.append(first)
                found.later_ms.append(later)
            for reviews in MIXES:
                for how, told in (("rate", {"rate": 200}), ("full", {"connections": 16})):
                    ran = load(server, cores[1], mix=reviews, seconds=seconds, **told)
                    found.runs.setdefault(f"{name} {reviews} {how}", []).append(ran)


def measure_memory(found: Found, directory: Path, reviews: int, cores: tuple[int, int]) -> None:
    """Ask one replica for very many reviews, and look at its memory on the way."""
    with served(directory, ours=True, core=cores[0]) as server:
        found.rss_mib["ready"] = server.rss_mib()
        load(server, cores[1], mix="repair", reviews=WARM_REVIEWS, connections=16)
        found.rss_mib[f"{WARM_REVIEWS} reviews"] = server.rss_mib()
        for number in range(1, MOMENTS + 1) if reviews > WARM_REVIEWS else ():
            load(server, cores[1], mix="repair", reviews=(reviews - WARM_REVIEWS) // MOMENTS, connections=16)
            asked = WARM_REVIEWS + (reviews - WARM_REVIEWS) * number // MOMENTS
            found.rss_mib[f"{asked} reviews"] = server.rss_mib()
        found.idle_mib = idle_mib(server)


def bars(found: Found) -> Iterator[Bar]:
    """Compare the measurements with their bars."""
    for reviews in MIXES if found.runs else ():
        yield at_most(f"p99 at 200/s, {reviews}, ms", found.best(f"ours {reviews} rate", "p99_ms"), 10)
        most = max(run["per_second"] for run in found.runs[f"ours {reviews} full"])
        yield at_least(f"reviews/s, {reviews}", most, 800)
    if found.rss_mib:
        rss = [*found.rss_mib.values()]
        yield at_most("RSS, MiB", max(rss), 80)
        yield at_most("RSS after all reviews - after 5,000, MiB", rss[-1] - rss[1], 2)
    if found.start_seconds:
        yield at_most("start, s", min(found.start_seconds), 1)
    failures = sum(run["failures"] for runs in found.runs.values() for run in runs)
    yield at_most("reviews without an answer", failures, 0)


def print_found(found: Found) -> None:
    """Print all of it."""
    columns = ("per_second", "median_ms", "p99_ms", "most_ms", "late_ms", "cpu_ms", "faults", "client_cpu_ms", "kib")
    print(f"{'':22}", *(f"{column:>13}" for column in columns))
    for name, runs in found.runs.items():
        print(f"{name:22}", *(f"{statistics.median(run[column] for run in runs):13.2f}" for column in columns))
    for reviews in MIXES if found.runs else ():
        ours, nothing = (found.best(f"{name} {reviews} full", "cpu_ms") for name in ("ours", "nothing"))
        print(f"{reviews}: {ours:.2f} ms of processor time a review, at most {1000 / ours:.0f} reviews/s; ", end="")
        print(f"{nothing:.2f} if nothing is done, {ours - nothing:.2f} to decide, patch, count and log")
        pair = [found.best(f"{name} {reviews} full", "faults") for name in ("ours", "nothing")]
        print(f"{reviews}: {pair[0]:.1f} page faults a review, {pair[1]:.1f} if nothing is done")
    if found.start_seconds:
        print(f"start: {min(found.start_seconds):.2f} s, {min(found.start_processor_seconds):.2f} s of processor time")
        print(f"first review: {min(found.first_ms):.1f} ms, later ones {min(found.later_ms):.1f} ms")
    if found.rss_mib:
        print(f"RSS, MiB: {', '.join(f'{value:.1f} {when}' for when, value in found.rss_mib.items())}")
        print(f"{IDLE} idle connections: {found.idle_mib:.1f} MiB more")


def main() -> None:
    """Measure, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="for each load")
    parser.add_argument("--reviews", type=int, default=100_000, help="for the memory")
    parser.add_argument("--only", choices=("load", "memory"), help="the loads alone, or the memory")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = sorted(os.sched_getaffinity(0))
    pair = (cores[0], cores[-1])
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        make_certificate(Path(name))
        for _ in range(asked.rounds if asked.only != "memory" else 0):
            measure_round(found, Path(name), asked.seconds, pair)
        if asked.only != "load":
            measure_memory(found, Path(name), asked.reviews, pair)
    judged = [*bars(found)]
    if asked.json:
        print(json.dumps({**vars(found), "bars": [bar._asdict() for bar in judged]}, indent=2))
    else:
        print_found(found)
        print_bars(judged)
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


if __name__ == "__main__":
    main()
