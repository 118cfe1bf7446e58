"""What the containerd backend adds to the pod that it runs: time to dockerd's first answer, a relay's speed and memory.

It starts a containerd of its own as tests/containerd does: the handler runs runc, with the containers' root file
systems on FUSE, so that only comparisons mean anything. Each round measures all ways in turn.

    hand     the same disk, pod and container, by mkfs and CRI's three calls, to the first answer over an exec stream
    api      `up` in a process that is running, to the first answer over the endpoint
    up       `kata-dind up`, from the process's start to the first answer over the endpoint

    stream   a command's output over CRI's own exec stream, read and thrown away
    forward  the same bytes over CRI's port-forward, which Kata doesn't have (kata-containers#1693)
    relay    the same command's output over a stream of ours and a Unix socket

    direct   a file from a web server in a container, at the port that it publishes at the pod's own address
    port     the same at the host's loopback, through the sandbox's owner

Bars: the phases of `api` to dockerd's answer <= 1.1 times hand; relay >= 0.8 times stream; 20 relays <= 30 MiB each
(PSS: what they share is counted once). Exits with 1 when a bar is missed. A port has no bar here: its direct way never
leaves this host's kernel, as it would to reach a virtual machine. Only as root.

    .venv/bin/python benchmarks/startup.py --backend containerd [--rounds 5] [--sandboxes 20] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kata_dind.backend import Wish
from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.backend.containerd.connections import CONNECT
from kata_dind.backend.containerd.disks import require_data_place
from kata_dind.backend.containerd.plan import PodPlan, container_config, pod_config
from kata_dind.backend.containerd.pods import end_pods, find_pods
from kata_dind.backend.containerd.ports import guest_script
from kata_dind.backend.containerd.prepare import prepare
from kata_dind.backend.containerd.spdy import Writer
from kata_dind.backend.containerd.streaming import PROTOCOL, CommandStream, Streams
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.life.relays import relay_connection
from kata_dind.pod.model import Copy
from kata_dind.progress import silent
from kata_dind.sandbox.api import Sandbox, list_sandboxes, require_sandbox, up
from kata_dind.spec import SandboxSpec, parse_spec
from tests.kube.node import Host, start_host

KATA_DIND = str(Path(sys.executable).with_name("kata-dind"))
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
STREAM_BYTES = 256 << 20
BARS = {"api / hand": 1.1, "relay / stream": 0.8, "MiB per relay": 30.0}
AT_LEAST = {"relay / stream"}


def main() -> int:
    """Measure, print, and compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sandboxes", type=int, default=20)
    parser.add_argument("--image", default="dind:bookworm")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdb-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o711)
        os.environ["KATA_DIND_STATE_DIR"] = str(directory / "state")
        with start_host(directory) as host, host.namespaces.entered_network():
            try:
                found = measure(host, asked)
            finally:
                for summary in list_sandboxes():
                    require_sandbox(summary.name).remove(force=True)
    lines = [f"{name:>16}  {value}" for name, value in found.items() if name not in BARS]
    print(json.dumps(found, indent=1) if asked.json else "\n".join(lines))
    missed = [name for name, bar in BARS.items() if (found[name] < bar if name in AT_LEAST else found[name] > bar)]
    for name, bar in [] if asked.json else BARS.items():
        sign, end = ">=" if name in AT_LEAST else "<=", "  MISSED" if name in missed else ""
        print(f"{name}: {found[name]:.2f} (bar {sign} {bar:g}){end}")
    return 1 if missed else 0


def measure(host: Host, asked: argparse.Namespace) -> dict[str, Any]:
    """Return all that was measured, in the median."""

    def spec(name: str) -> SandboxSpec:
        sizes = {"size": "1G", "memory": "1G", "data_root": "block"}
        return parse_spec(name=name, backend="containerd", image=asked.image, handler="kata-qemu",
                          allow_shared_kernel=True, containerd_address=str(host.address), **sizes)  # fmt: skip

    by_hand(spec("warm"))  # the image is imported and unpacked
    times: dict[str, list[float]] = {"hand": [], "api": [], "up": []}
    for number in range(asked.rounds):
        times["hand"].append(by_hand(spec(f"hand-{number}")))
        times["api"].append(by_api(spec(f"api-{number}")))
        times["up"].append(by_command(spec(f"up-{number}")))
    found: dict[str, Any] = {way: round(statistics.median(all_), 3) for way, all_ in times.items()}
    found["api / hand"] = round(found["api"] / found["hand"], 2)
    sandbox = up(spec("streams"))
    with connected(host.address) as containerd:
        speeds = stream_speeds(containerd, sandbox, rounds=asked.rounds)
        found |= port_speeds(containerd, sandbox, rounds=asked.rounds)
    sandbox.remove(force=True)
    found |= speeds
    found["relay / stream"] = round(speeds["relay MiB/s"] / speeds["stream MiB/s"], 2)
    found["MiB per relay"] = memory_per_relay([up(spec(f"many-{number}")) for number in range(asked.sandboxes)])
    return found


# --- to dockerd's first answer


def by_hand(spec: SandboxSpec) -> float:
    """Make the pod of a plan by CRI's calls, and return the seconds until dockerd answers."""
    with tempfile.TemporaryDirectory(dir=os.environ["KATA_DIND_STATE_DIR"] if _state() else None) as name:
        directory = Path(name)
        plan = prepare(Wish(spec, directory), report=silent)
        with connected(plan.own.address) as containerd:
            try:
                return _seconds_by_hand(containerd, plan, directory)
            finally:
                with contextlib.suppress(Exception):
                    end_pods(containerd, find_pods(containerd, plan.own.identity), name=plan.name)


def _state() -> bool:
    Path(os.environ["KATA_DIND_STATE_DIR"]).mkdir(exist_ok=True)
    return True


def _seconds_by_hand(containerd: Containerd, plan: PodPlan, directory: Path) -> float:
    from kata_dind.backend.containerd.disks import attached_disk
    from kata_dind.backend.containerd.plan import data_disk

    script = entrypoint_for_pods(Copy(plan.data_root, filesystem=plan.own.filesystem))
    began = time.monotonic()
    require_data_place(plan)  # a pod has no disk before somebody has made it
    pod = pod_config(plan, directory)
    call: dict[str, Any] = {"failing": "by hand", "timeout_seconds": 120.0}
    with attached_disk(data_disk(plan)) as device:
        pod_id = containerd.call("RuntimeService/RunPodSandbox", config=pod, runtime_handler=plan.own.handler,
                                 **call).pod_sandbox_id  # fmt: skip
        container = {
            **container_config(plan, script=script, published_port=guest_script("published_port.sh"), check=False),
            "devices": [device] if device else [],
        }
        made = containerd.call("RuntimeService/CreateContainer", pod_sandbox_id=pod_id, config=container,
                               sandbox_config=pod, **call)  # fmt: skip
        containerd.call("RuntimeService/StartContainer", container_id=made.container_id, **call)
        asyncio.run(_ping_by_stream(containerd, made.container_id))
    return time.monotonic() - began


async def _ping_by_stream(containerd: Containerd, container_id: str) -> None:
    stream = _stream(containerd, container_id, ["sh", "-c", CONNECT])
    await stream.send(PING)
    answer = b""
    while b"200 OK" not in answer:
        part = await stream.receive()
        assert part is not None, answer
        answer += part.data
    stream.close()


def by_api(spec: SandboxSpec) -> float:
    """Start a sandbox, and return the seconds of its phases until dockerd answered."""
    sandbox = up(spec)
    seconds = float(sandbox.inspect()["timings"]["docker_seconds"])
    sandbox.remove(force=True)
    return seconds


def by_command(spec: SandboxSpec) -> float:
    """Run `kata-dind up`, and return the seconds until its endpoint answers."""
    sandbox = Path(os.environ["KATA_DIND_STATE_DIR"]) / "sandboxes" / spec.name / "docker.sock"
    words = [KATA_DIND, "--quiet", "up", spec.name, "--backend=containerd", f"--image={spec.image}",
             f"--handler={spec.handler}", "--data-root=block", "--allow-shared-kernel", "--size=1G", "--memory=1G",
             f"--containerd-address={spec.containerd_address}"]  # fmt: skip
    began = time.monotonic()
    words.remove("--quiet")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not _answers(sandbox):
            assert process.poll() in (None, 0), "up failed"
            time.sleep(0.01)
        seconds = time.monotonic() - began
        assert process.wait() == 0
    require_sandbox(spec.name).remove(force=True)
    return seconds


def _answers(endpoint: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(endpoint))
        client.sendall(PING)
        return b"200 OK" in client.recv(4096)
    return False


# --- streams


def _stream(containerd: Containerd, container_id: str, argv: list[str]) -> CommandStream:
    async def open_url() -> str:
        answer = await containerd.ask("RuntimeService/Exec", failing="exec", container_id=container_id, cmd=argv,
                                      stdin=True, stdout=True, stderr=False)  # fmt: skip
        return str(answer.url)

    return CommandStream(open_url, Streams(terminal=None, errors=False), is_gone=lambda: False)


def stream_speeds(containerd: Containerd, sandbox: Sandbox, *, rounds: int) -> dict[str, Any]:
    """Return the MiB per second of each way, in the median."""
    identity = json.loads((sandbox.directory / "plan.json").read_text())["own"]["identity"]
    (pod,) = find_pods(containerd, identity)
    argv = ["head", "-c", str(STREAM_BYTES), "/dev/zero"]
    found: dict[str, list[float]] = {"stream": [], "forward": [], "relay": []}
    for _ in range(rounds):
        found["stream"].append(_raw(containerd, pod.container_id, argv))
        found["forward"].append(_forwarded(containerd, pod.pod_id, sandbox))
        found["relay"].append(asyncio.run(_relayed(containerd, pod.container_id, argv)))
    return {f"{way} MiB/s": round(statistics.median(all_), 1) for way, all_ in found.items()}


def _upgraded(url: str, protocol: str) -> tuple[socket.socket, Writer]:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(
        f"POST {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert connection.recv(65536).startswith(b"HTTP/1.1 101 ")
    return connection, Writer()


def _mib_per_second(connection: socket.socket) -> float:
    buffer, got = bytearray(1 << 20), 0
    began = time.monotonic()
    while got < STREAM_BYTES and (count := connection.recv_into(buffer)):
        got += count
    return (got >> 20) / (time.monotonic() - began)


def _raw(containerd: Containerd, container_id: str, argv: list[str]) -> float:
    url = containerd.call("RuntimeService/Exec", failing="exec", container_id=container_id, cmd=argv, stdin=True,
                          stdout=True, stderr=False).url  # fmt: skip
    connection, frames = _upgraded(url, PROTOCOL)
    with connection:
        for number, kind in ((1, "error"), (3, "stdin"), (5, "stdout")):
            connection.sendall(frames.open_stream(number, {"streamtype": kind}))
        return _mib_per_second(connection)


def _forwarded(containerd: Containerd, pod_id: str, sandbox: Sandbox) -> float:
    listen = 'IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:4711", ReuseAddr => 1)'
    script = f'$c = {listen}->accept; print $c "\\0" x 65536 for 1..{STREAM_BYTES >> 16}'
    words = [KATA_DIND, "exec", sandbox.name, "--", "perl", "-MIO::Socket::INET", "-e", script]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    time.sleep(1)
    url = containerd.call("RuntimeService/PortForward", failing="forward", pod_sandbox_id=pod_id, port=[4711]).url
    connection, frames = _upgraded(url, "portforward.k8s.io")
    with connection:
        for number, kind in ((1, "error"), (3, "data")):
            headers = {"streamtype": kind, "port": "4711", "requestid": "0"}
            connection.sendall(frames.open_stream(number, headers))
        speed = _mib_per_second(connection)
    server.kill()
    server.wait()
    return speed


async def _relayed(containerd: Containerd, container_id: str, argv: list[str]) -> float:
    """Carry the command's output as the endpoint does, to a client in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/relay.sock"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await relay_connection(reader, writer, _stream(containerd, container_id, argv))

        server = await asyncio.start_unix_server(serve, path)
        code = (
            "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nb=bytearray(1<<20)\n"
            "while s.recv_into(b): pass"
        )
        began = time.monotonic()
        client = await asyncio.create_subprocess_exec(sys.executable, "-IS", "-c", code, path)
        await client.wait()
        server.close()
        return (STREAM_BYTES >> 20) / (time.monotonic() - began)


# --- ports


def port_speeds(containerd: Containerd, sandbox: Sandbox, *, rounds: int) -> dict[str, Any]:
    """Return what a port's data and first byte take in both ways, in the median, and their relation."""
    identity = json.loads((sandbox.directory / "plan.json").read_text())["own"]["identity"]
    (pod,) = find_pods(containerd, identity)
    status = containerd.call("RuntimeService/PodSandboxStatus", pod_sandbox_id=pod.pod_id, failing="status").status
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    layer = Layer({"www/first": b"1"}, executables={"bin/busybox": busybox}, links={"bin/sh": "busybox"})
    docker = [KATA_DIND, "docker", sandbox.name, "--"]
    archive = docker_archive("web:1", [layer], {"Env": ["PATH=/bin"]})
    subprocess.run([*docker, "load"], input=archive, check=True, capture_output=True)
    script = f"busybox dd if=/dev/zero of=/www/data bs=1M count={STREAM_BYTES >> 20}; exec busybox httpd -f -h /www"
    words = ["run", "--detach", "--publish=8080:80", "web:1", "sh", "-c", script]
    subprocess.run([*docker, *words], check=True, capture_output=True)
    places = {"direct": (status.network.ip, 8080), "port": ("127.0.0.1", 8080)}
    while not _first_byte(places["direct"]):
        time.sleep(0.5)
    speeds: dict[str, list[float]] = {way: [] for way in places}
    firsts: dict[str, list[float]] = {way: [] for way in places}
    for _ in range(rounds):
        for way, place in places.items():
            with _got(place, "data") as connection:
                speeds[way].append(_mib_per_second(connection))
            firsts[way].append(statistics.median(_first_byte(place) for _ in range(50)))
    return {
        **{f"{way} MiB/s": round(statistics.median(all_), 1) for way, all_ in speeds.items()},
        **{f"{way} ms": round(1000 * statistics.median(all_), 2) for way, all_ in firsts.items()},
        "port / direct": round(statistics.median(speeds["port"]) / statistics.median(speeds["direct"]), 2),
        "first byte": round(statistics.median(firsts["port"]) / statistics.median(firsts["direct"]), 2),
    }


def _got(place: tuple[str, int], path: str) -> socket.socket:
    connection = socket.create_connection(place, timeout=60)
    connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
    return connection


def _first_byte(place: tuple[str, int]) -> float:
    """Return the seconds until the first byte of an answer; 0 where nobody answers yet."""
    began = time.monotonic()
    with contextlib.suppress(OSError), _got(place, "first") as connection:
        return time.monotonic() - began if connection.recv(1) else 0.0
    return 0.0


# --- memory


def memory_per_relay(sandboxes: list[Sandbox]) -> float:
    """Return how much memory the owners of sandboxes take each, of what they share their part."""
    time.sleep(2)
    return round(sum(_pss(sandbox) for sandbox in sandboxes) / len(sandboxes) / 1024, 1)


def _pss(sandbox: Sandbox) -> int:
    pid = json.loads((sandbox.directory / "status.json").read_text())["pid"]
    lines: Iterator[str] = iter(Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    sys.exit(main())
