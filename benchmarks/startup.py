"""How long a Docker daemon takes to answer, when it is started in several ways.

Each round measures all ways in turn, so that changes in the machine's speed cancel out.

    native   dockerd on this host, in namespaces of its own
    floor    the same kernel, disks and data root under a bare QEMU command line; a shell script starts dockerd by hand
    cold     `kata-dind up --cold`, from the process's start to the first answer over the endpoint
    bare     the seed that `up` restores, restored by hand: QEMU alone, and one `_ping` through the agent's port
    up       `kata-dind up`, from the process's start to the first answer over the endpoint
    api      `open_sandbox` in a process that has started one before, to the first answer over the endpoint
    run      `kata-dind run kata-dind/hello`, from start to end

Bars: cold <= 1.25 times floor; up <= 2 times bare, and <= 0.6 s, its p99 <= 2 medians; api <= 0.25 s;
`--help` <= 0.25 s and `ls` <= 0.3 s; the supervisor <= 60 MiB and idle. Exits with 1 when a bar that was measured is
missed. Only root can run `native`.

    .venv/bin/python benchmarks/startup.py [--rounds 5] [--accel tcg] [--only bare up] [--json]
    .venv/bin/python benchmarks/startup.py --backend containerd [--rounds 5] [--sandboxes 20] [--json]

The second is `benchmarks/containerd.py`, which has ways and bars of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kata_dind.backend.plan_file import require_plan
from kata_dind.backend.vm.begin import copy_children
from kata_dind.backend.vm.plan import STATE, VmPlan, machine_shape, require_seed_machine, vm_plan, with_machine
from kata_dind.guest.agent import protocol
from kata_dind.host.disks import create_disk
from kata_dind.image.cpio import encode_cpio, regular
from kata_dind.machine.argv import machine_argv
from kata_dind.machine.shape import Wiring

KATA_DIND = str(Path(sys.executable).with_name("kata-dind"))
NAME = "bench"
DEADLINE_SECONDS = 90.0
LISTENING = b"API listen on"

# What a person would type: mounts, modules, an address, dockerd. There is no agent, no proof, no network namespace.
FLOOR_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /sysroot
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs run /run
while read -r module; do insmod "$module"; done </lib/modules/$(uname -r)/boot-modules
mount -o ro /dev/vda /sysroot
mount -o ro /dev/vdb /sysroot/lib/modules
cp /by-hand /run/by-hand
for at in dev proc sys run; do mount --move /$at /sysroot/$at; done
exec switch_root /sysroot /bin/sh /run/by-hand
"""
FLOOR_BY_HAND = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/image /run/layer /run/root
mount -o ro /dev/vdc /run/image
mount /dev/vdd /run/layer
mkdir -p /run/layer/upper /run/layer/work
mount -t overlay -o lowerdir=/run/image,upperdir=/run/layer/upper,workdir=/run/layer/work overlay /run/root
mount /dev/vde /run/root/var/lib/docker
for at in dev proc sys; do mount --bind /$at /run/root/$at; done
mount -t cgroup2 cgroup2 /run/root/sys/fs/cgroup
mount -t tmpfs run /run/root/run
modprobe -a virtio_net br_netfilter
ip link set lo up; ip addr add 198.18.1.15/24 dev eth0; ip link set eth0 up; ip route add default via 198.18.1.2
chroot /run/root /usr/bin/env dockerd --host=unix:///var/run/docker.sock >/dev/console 2>&1 &
wait # process 1 itself must not chroot: the kernel looks for modprobe in its root
"""


def native(_plans: Plans, _accel: str) -> float:
    """Start dockerd on this host and return the seconds to its first answer."""
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-") as directory:
        endpoint = Path(directory) / "docker.sock"
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd",
                f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid",
                f"--host=unix://{endpoint}"]  # fmt: skip
        started = time.monotonic()
        with _process(argv):
            _wait_for_answer(endpoint)
            return time.monotonic() - started


def floor(plans: Plans, _accel: str) -> float:
    """Start the plan's machine by hand and return the seconds to dockerd's `API listen`."""
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-") as text, contextlib.ExitStack() as stack:
        directory = Path(text)
        plan = with_machine(
            plans.cold, data_directory=directory
        )  # the directory of the sandbox for which this was planned is gone
        for name, size_mib in (("layer.img", 10240), ("data.img", plan.data_root_mib)):
            create_disk(directory / name, size_mib=size_mib)
        init = encode_cpio(
            [regular("floor", FLOOR_INIT.encode(), mode=0o755), regular("by-hand", FLOOR_BY_HAND.encode())]
        )
        (directory / "initramfs").write_bytes(plan.own.runs_on.initramfs.read_bytes() + init)
        pairs = [socket.socketpair() for _ in range(2)]
        for end in (end for pair in pairs for end in pair):
            stack.callback(end.close)
        fds = [pair[1].fileno() for pair in pairs]
        console = directory / "console"
        shape = machine_shape(plan, directory)
        argv = machine_argv(shape, Wiring(fds[0], fds[1], console))
        argv[argv.index("-initrd") + 1] = str(directory / "initramfs")
        argv[argv.index("-append") + 1] += " rdinit=/floor"
        started = time.monotonic()
        with _process(argv, pass_fds=fds) as process:
            while not (console.exists() and LISTENING in console.read_bytes()):
                if process.poll() is not None:
                    raise SystemExit(f"QEMU has ended: exit {process.returncode}")
                _check_deadline(started, console)
                time.sleep(0.01)
            return time.monotonic() - started


def bare(plans: Plans, _accel: str) -> float:
    """Restore the seed by hand and return the seconds to the answer of its dockerd."""
    return restore_by_hand(plans.clone)


def restore_by_hand(plan: VmPlan) -> float:
    """Restore a clone's plan by QEMU alone; return the seconds from QEMU's start to the answer of its dockerd."""
    if plan.own.seed is None:
        raise SystemExit("`up` boots on this host, so there is no seed to restore by hand")
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-") as text, contextlib.ExitStack() as stack:
        directory = Path(text)
        copy_children(plan, directory)
        qmp, agent = (stack.enter_context(_socketpair()) for _ in range(2))
        state = stack.enter_context((require_seed_machine(plan).directory / STATE).open("rb"))
        fds = [qmp[1].fileno(), agent[1].fileno(), state.fileno()]
        argv = machine_argv(machine_shape(plan, directory), Wiring(fds[0], fds[1], directory / "console", None, fds[2]))
        started = time.monotonic()
        with _process(argv, pass_fds=fds):
            _tell_qmp(qmp[0], fds[2])
            _ping_by_hand(agent[0])
            return time.monotonic() - started


def _tell_qmp(qmp: socket.socket, state_fd: int) -> None:
    shared = [{"capability": "x-ignore-shared", "state": True}]
    with qmp.makefile("rw") as monitor:
        monitor.readline()  # the greeting
        for command, arguments in (
            ("qmp_capabilities", {}),
            ("migrate-set-capabilities", {"capabilities": shared}),
            ("migrate-incoming", {"uri": f"fd:{state_fd}"}),
        ):
            monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            monitor.flush()
            while "return" not in json.loads(monitor.readline()):
                pass


def _ping_by_hand(agent: socket.socket) -> None:
    mux = protocol.Mux(is_host=True)
    mux.hello("by-hand", time=time.time())
    _exchange(agent, mux, lambda frame: frame.kind == protocol.HELLO)
    stream = mux.open({"kind": "docker"})
    mux.send(stream, b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    _exchange(agent, mux, lambda frame: frame.kind == protocol.DATA and b"200 OK" in frame.payload)


def _exchange(agent: socket.socket, mux: protocol.Mux, awaited: Callable[[protocol.Frame], bool]) -> None:
    while data := mux.peek():
        mux.took(agent.send(data))
    while not any(awaited(frame) for frame in mux.receive(agent.recv(65536))):
        pass


def up(_plans: Plans, accel: str) -> float:
    """Run `kata-dind up` and return the seconds to the first answer over its endpoint."""
    return _up(accel)


def cold(_plans: Plans, accel: str) -> float:
    """Run `kata-dind up --cold` and return the seconds to the first answer over its endpoint."""
    return _up(accel, "--cold")


def _up(accel: str, *options: str) -> float:
    endpoint = endpoint_of(NAME)
    started = time.monotonic()
    try:
        with subprocess.Popen(
            [KATA_DIND, "up", NAME, "--accel", accel, "--quiet", *options], stdout=subprocess.DEVNULL
        ) as command:
            _wait_for_answer(endpoint)
            seconds = time.monotonic() - started
            if command.wait() != 0:
                raise SystemExit("kata-dind up failed")
        return seconds
    finally:
        if not _observed:
            _observed.update(_observe())
        subprocess.run([KATA_DIND, "rm", "--force", "--quiet", NAME], check=True)


def api(_plans: Plans, accel: str) -> float:
    """Open a sandbox through the Python API and return the seconds to the first answer over its endpoint."""
    from kata_dind.sandbox.api import open_sandbox
    from kata_dind.spec import parse_spec

    started = time.monotonic()
    with open_sandbox(parse_spec(name="bench-api", accelerator=accel)) as sandbox:
        _wait_for_answer(sandbox.endpoint)
        return time.monotonic() - started


def run(_plans: Plans, accel: str) -> float:
    """Run `kata-dind run kata-dind/hello` and return its seconds."""
    started = time.monotonic()
    argv = [KATA_DIND, "run", "--accel", accel, "--quiet", "kata-dind/hello"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def cli(*arguments: str) -> Callable[[Plans, str], float]:
    """Time a whole command."""

    def measure(_plans: Plans, _accel: str) -> float:
        started = time.monotonic()
        subprocess.run([KATA_DIND, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    return measure


SCENARIOS: dict[str, Callable[[Plans, str], float]] = {
    "native": native,
    "floor": floor,
    "cold": cold,
    "bare": bare,
    "up": up,
    "api": api,
    "run": run,
    "help": cli("--help"),
    "ls": cli("ls"),
}

_observed: dict[str, Any] = {}


def _observe() -> dict[str, Any]:
    """Look at a running sandbox: its phases, its supervisor's memory, and the processor time of 3 idle seconds."""
    inspected = json.loads(
        subprocess.run([KATA_DIND, "inspect", "--json", NAME], check=True, capture_output=True).stdout
    )
    status = json.loads((Path(inspected["directory"]) / "status.json").read_text())
    pid = int(status["pid"])
    memory = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    before = _cpu_seconds(pid)
    time.sleep(3)
    return {
        "phases": {phase["name"]: phase["seconds"] for phase in inspected["phases"]},
        "proof_seconds": inspected["timings"].get("proof_seconds"),
        "supervisor_mib": round(int(memory.split()[1]) / 1024, 1),
        "supervisor_idle_cpu": round((_cpu_seconds(pid) - before) / 3, 4),
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _process(argv: list[str], pass_fds: list[int] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               pass_fds=pass_fds or [])  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # unshare ignores TERM, and kills its child when it ends
        process.wait()


def ping(endpoint: Path) -> float | None:
    """Return the seconds to the answer to `/_ping`, None without an answer."""
    started = time.monotonic()
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.settimeout(30)
        try:
            unix.connect(str(endpoint))
            connection.sock = unix
            connection.request("GET", "/_ping")
            if connection.getresponse().status != 200:
                return None
        except (OSError, http.client.HTTPException):
            return None
    return time.monotonic() - started


def _wait_for_answer(endpoint: Path) -> None:
    started = time.monotonic()
    while ping(endpoint) is None:
        _check_deadline(started, endpoint)
        time.sleep(0.002)


def _check_deadline(started: float, what: Path) -> None:
    if time.monotonic() - started > DEADLINE_SECONDS:
        said = what.read_text(errors="replace")[-6000:] if what.is_file() else ""
        raise SystemExit(f"no answer within {DEADLINE_SECONDS:g} s: {what}\n{said}")


def endpoint_of(name: str) -> Path:
    """Return where a sandbox has its endpoint."""
    from kata_dind.store.sandboxes import record_of

    return record_of(name).endpoint


@dataclass(frozen=True)
class Plans:
    """The plans of `up` on this host, when it boots and when it restores a seed."""

    cold: VmPlan
    clone: VmPlan


def _plans(accel: str) -> Plans:
    return Plans(plan_of_up(accel, "--cold"), plan_of_up(accel))


def plan_of_up(accel: str, *options: str) -> VmPlan:
    """Let `up` plan and build whatever is missing, and return its plan.

    No next `up` is started early, since the next command line differs.
    """
    subprocess.run([KATA_DIND, "up", NAME, "--accel", accel, *options], check=True, stdout=subprocess.DEVNULL)
    try:
        return vm_plan(require_plan(endpoint_of(NAME).parent))
    finally:
        subprocess.run([KATA_DIND, "rm", "--force", "--quiet", NAME], check=True)


@contextlib.contextmanager
def _socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def main() -> None:
    """Measure and print a table of medians, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"])
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--backend", default="vm", choices=["vm", "containerd"])
    parser.add_argument("--sandboxes", type=int, default=20)
    asked = parser.parse_args()
    if asked.backend == "containerd":
        sys.exit(_run_containerd(asked))
    scenarios = {name: SCENARIOS[name] for name in asked.only if name != "native" or _can_run_native()}
    plans = _plans(asked.accel)
    seconds: dict[str, list[float]] = {name: [] for name in scenarios}
    for _ in range(asked.rounds):
        for name, measure in scenarios.items():
            seconds[name].append(measure(plans, asked.accel))
    judged = [*bars(seconds)]
    if asked.json:
        print(json.dumps({"seconds": seconds, "bars": [bar._asdict() for bar in judged], **_observed}, indent=2))
    else:
        _print_table(seconds, f"seconds, {asked.rounds} rounds, {plans.cold.accelerator}")
        print_bars(judged)
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


def _run_containerd(asked: argparse.Namespace) -> int:
    words = [f"--rounds={asked.rounds}", f"--sandboxes={asked.sandboxes}", *(["--json"] if asked.json else [])]
    argv = [sys.executable, "-m", "benchmarks.containerd", *words]
    return subprocess.run(argv, cwd=Path(__file__).parents[1], check=False).returncode


def _print_table(seconds: dict[str, list[float]], what: str) -> None:
    heads = ("min", "median", "p99", "max")
    print(f"{'':8}", *(f"{head:>7}" for head in heads), f"  {what}")
    for name, values in seconds.items():
        figures = (min(values), statistics.median(values), percentile_99(values), max(values))
        print(f"{name:8}", *(f"{figure:7.2f}" for figure in figures))
    for key, value in _observed.items():
        print(f"{key}: {value}")


class Bar(NamedTuple):
    """A measurement, the bar for it, and whether the bar is kept."""

    what: str
    value: float
    wanted: str
    kept: bool


def at_most(what: str, value: float, most: float) -> Bar:
    """Compare a value with the most that it may be."""
    return Bar(what, value, f"<= {most:g}", value <= most)


def at_least(what: str, value: float, least: float) -> Bar:
    """Compare a value with the least that it may be."""
    return Bar(what, value, f">= {least:g}", value >= least)


def print_bars(judged: Iterable[Bar]) -> None:
    """Print a line for each bar."""
    for bar in judged:
        print(f"{bar.what}: {bar.value:.2f} (bar {bar.wanted}){'' if bar.kept else '  MISSED'}")


def bars(seconds: dict[str, list[float]]) -> Iterator[Bar]:
    """Compare the measurements with their bars."""
    for above, below, most in (("cold", "floor", 1.25), ("up", "bare", 2.0)):
        if {above, below} <= {*seconds}:
            yield at_most(f"{above} / {below}, pair by pair, median", _ratio(seconds, above, below), most)
    for name, most in (("up", 0.6), ("api", 0.25), ("help", 0.25), ("ls", 0.3)):
        if name in seconds:
            yield at_most(f"{name}, median", statistics.median(seconds[name]), most)
    if "up" in seconds:
        yield at_most("up, p99 / median", percentile_99(seconds["up"]) / statistics.median(seconds["up"]), 2.0)
    if _observed:
        yield at_most("the supervisor, MiB", _observed["supervisor_mib"], 60)


def _ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def percentile_99(values: list[float]) -> float:
    """Return the value that 1 in 100 exceeds; of fewer than 100 values, the largest."""
    return sorted(values)[-1 - len(values) // 100]


def _can_run_native() -> bool:
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


if __name__ == "__main__":
    main()
