"""How long a Docker daemon takes to answer, four ways, in turn in each round so that a machine's moods cancel out.

    native   dockerd on this host, in namespaces of its own
    floor    the same kernel, disks and data root under a bare QEMU command line; a shell script starts dockerd by hand
    up       `kata-dind up --accel …`, from the process's start to the first answer over the endpoint
    run      `kata-dind run kata-dind/hello`, from start to end

Bars: up <= 1.25 times floor; `--help` <= 0.25 s and `ls` <= 0.3 s; the supervisor <= 60 MiB and idle.
Only root can run `native`.

    .venv/bin/python benchmarks/startup.py [--rounds 5] [--accel tcg] [--json]
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
from collections.abc import Callable, Iterator
from pathlib import Path

from kata_dind.backend.vm.plan import Plan, machine_shape, plan_from_json
from kata_dind.host.disks import create_disk
from kata_dind.image.cpio import encode_cpio, regular
from kata_dind.machine.argv import machine_argv
from kata_dind.machine.shape import Wiring

KATA_DIND = str(Path(sys.executable).with_name("kata-dind"))
NAME = "bench"
DEADLINE_SECONDS = 90.0
LISTENING = b"API listen on"

# What a person would type: mounts, modules, an address, dockerd. No agent, no proof, no network namespace.
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


def native(_plan: Plan, _accel: str) -> float:
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


def floor(plan: Plan, _accel: str) -> float:
    """Start the plan's machine by hand and return the seconds to dockerd's `API listen`."""
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-") as text, contextlib.ExitStack() as stack:
        directory = Path(text)
        for name, size_mib in (("layer.img", 10240), ("data.img", plan.data_root_mib)):
            create_disk(directory / name, size_mib=size_mib)
        init = encode_cpio(
            [regular("floor", FLOOR_INIT.encode(), mode=0o755), regular("by-hand", FLOOR_BY_HAND.encode())]
        )
        (directory / "initramfs").write_bytes(plan.initramfs.read_bytes() + init)
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
        with _process(argv, pass_fds=fds):
            while not (console.exists() and LISTENING in console.read_bytes()):
                _check_deadline(started, console)
                time.sleep(0.01)
            return time.monotonic() - started


def up(_plan: Plan, accel: str) -> float:
    """Run `kata-dind up` and return the seconds to the first answer over its endpoint."""
    endpoint = _endpoint()
    started = time.monotonic()
    try:
        with subprocess.Popen(
            [KATA_DIND, "up", NAME, "--accel", accel, "--quiet"], stdout=subprocess.DEVNULL
        ) as command:
            _wait_for_answer(endpoint)
            seconds = time.monotonic() - started
            if command.wait() != 0:
                raise SystemExit("kata-dind up failed")
        return seconds
    finally:
        _observed.update(_observe())
        subprocess.run([KATA_DIND, "rm", "--force", "--quiet", NAME], check=True)


def run(_plan: Plan, accel: str) -> float:
    """Run `kata-dind run kata-dind/hello` and return its seconds."""
    started = time.monotonic()
    argv = [KATA_DIND, "run", "--accel", accel, "--quiet", "kata-dind/hello"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def cli(*arguments: str) -> Callable[[Plan, str], float]:
    """Time a whole command."""

    def measure(_plan: Plan, _accel: str) -> float:
        started = time.monotonic()
        subprocess.run([KATA_DIND, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    return measure


SCENARIOS: dict[str, Callable[[Plan, str], float]] = {
    "native": native,
    "floor": floor,
    "up": up,
    "run": run,
    "help": cli("--help"),
    "ls": cli("ls"),
}

_observed: dict[str, object] = {}


def _observe() -> dict[str, object]:
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
def _process(argv: list[str], pass_fds: list[int] | None = None) -> Iterator[None]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               pass_fds=pass_fds or [])  # fmt: skip
    try:
        yield
    finally:
        process.kill()  # unshare ignores TERM, and takes its child along when it dies
        process.wait()


def _wait_for_answer(endpoint: Path) -> None:
    started = time.monotonic()
    while True:
        connection = http.client.HTTPConnection("localhost")
        with socket.socket(socket.AF_UNIX) as unix:
            try:
                unix.connect(str(endpoint))
                connection.sock = unix
                connection.request("GET", "/_ping")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
        _check_deadline(started, endpoint)
        time.sleep(0.01)


def _check_deadline(started: float, what: Path) -> None:
    if time.monotonic() - started > DEADLINE_SECONDS:
        said = what.read_text(errors="replace")[-6000:] if what.is_file() else ""
        raise SystemExit(f"no answer within {DEADLINE_SECONDS:g} s: {what}\n{said}")


def _endpoint() -> Path:
    from kata_dind.record import record_of

    return record_of(NAME).endpoint


def _plan(accel: str) -> Plan:
    """Let `up` plan and build whatever is missing, once, and take its plan."""
    subprocess.run([KATA_DIND, "up", NAME, "--accel", accel], check=True, stdout=subprocess.DEVNULL)
    try:
        return plan_from_json(json.loads((_endpoint().parent / "plan.json").read_text())["plan"])
    finally:
        subprocess.run([KATA_DIND, "rm", "--force", "--quiet", NAME], check=True)


def main() -> None:
    """Measure and print a table of medians, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"])
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    scenarios = {name: SCENARIOS[name] for name in asked.only if name != "native" or _can_run_native()}
    plan = _plan(asked.accel)
    seconds: dict[str, list[float]] = {name: [] for name in scenarios}
    for _ in range(asked.rounds):
        for name, measure in scenarios.items():
            seconds[name].append(measure(plan, asked.accel))
    ratios = [c / b for c, b in zip(seconds.get("up", []), seconds.get("floor", []), strict=False)]
    if asked.json:
        print(json.dumps({"seconds": seconds, "up_over_floor": ratios, **_observed}, indent=2))
        return
    print(f"{'':8} {'min':>7} {'median':>7} {'max':>7}   seconds, {asked.rounds} rounds, {plan.accelerator}")
    for name, values in seconds.items():
        print(f"{name:8} {min(values):7.2f} {statistics.median(values):7.2f} {max(values):7.2f}")
    if ratios:
        print(f"up / floor, pair by pair: median {statistics.median(ratios):.2f} (bar 1.25)")
    for key, value in _observed.items():
        print(f"{key}: {value}")


def _can_run_native() -> bool:
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


if __name__ == "__main__":
    main()
