"""What a data root costs, kind by kind, in sandboxes of one size.

Each round measures all variants in turn, so that changes in the machine's speed cancel out.

    memory, block, loop, virtiofs   `--data-root …`
    xfs      block with `--filesystem xfs`
    alpine   loop in a root like the official images': busybox and no util-linux (tests/alpine_image.py)
    recipe   the loop kind's disk without direct I/O, which is what `mount disk.img /var/lib/docker` gives
    vfs      on a share without extended attributes, which is what dockerd uses there when nothing stops it

    write      200 MiB written in sequence and synced, in the guest; the median of three
    unpack     `docker load` of a layer of 20,000 small files
    build      an image of 30 layers on a base of 24 MiB
    container  create, start, wait for and remove a container that does nothing
    load       `docker load` of 200 MiB in a few files, after all earlier data has gone to the disk; the median of
               three, each of which is removed before the next
    disk       how much of the host's disk the 30-layer image takes, after a sync

Also what the guest entrypoint adds to a start on this host (root only): milliseconds and processes on a good data root,
and milliseconds for a loop disk of 50 GiB, which is new or was used before. Where there is an apk, what the recipe's
`apk add` takes, in turn with these (benchmarks/apk.py).

Bars: loop and alpine >= 5 times recipe at writing; block >= 0.9 times memory at loading; 30 layers on loop and on block
<= 1/10 of vfs; the entrypoint <= 150 ms and <= 10 processes, <= 500 ms with a new disk, <= 100 ms with a used one;
apk add >= 10 times the entrypoint with a used disk, and no less than with a new one, which the entrypoint formats.
Exits with 1 when a bar that was measured is missed.

    .venv/bin/python benchmarks/dataroot.py [--rounds 1] [--accel tcg] [--only loop recipe] [--json]

Docker 20.10 creates no container on vfs there, so the default image is that of Debian 13.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
from apk import apk_add, find_apk
from startup import Bar, at_least, at_most, print_bars

from kata_dind import Sandbox, open_sandbox, parse_spec
from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.image.archive import Layer, docker_archive
from kata_dind.image.busybox import require_busybox
from kata_dind.image.entrypoint import entrypoint_script
from kata_dind.image.source import default_source

VARIANTS: dict[str, dict[str, Any]] = {
    "memory": {"data_root": "memory", "size": "1G"},
    "block": {"data_root": "block"},
    "xfs": {"data_root": "block", "filesystem": "xfs"},
    "loop": {"data_root": "loop"},
    "alpine": {"data_root": "loop", "image": "dind:alpine-like"},
    "virtiofs": {"data_root": "virtiofs"},
    "recipe": {"data_root": "loop"},
    "vfs": {"data_root": "virtiofs", "virtiofs_xattr": False, "fallback": "vfs"},
}
# busybox' dd and date tell no fractions of a second.
WRITE = """
read -r began _ </proc/uptime
dd if=/dev/zero of=/var/lib/docker/written bs=1M count=200 conv=fsync && read -r ended _ </proc/uptime || exit
rm /var/lib/docker/written
echo "$began $ended"
"""
BUFFERED = 'losetup --direct-io=off "$(findmnt -n -o SOURCE /var/lib/docker)"'
LAYERS = 30

_random = random.Random(1)


def small_files() -> bytes:
    """Make an image of 20,000 files of up to 4 KiB, like the tree of a package manager."""
    files = {f"d{number % 200}/f{number}": _random.randbytes(_random.randrange(4096)) for number in range(20_000)}
    return docker_archive("bench/files:latest", [Layer(files=files)])


def large_files() -> bytes:
    """Make an image of 200 MiB that nothing can compress."""
    return docker_archive(
        "bench/large:latest", [Layer(files={f"f{n}": _random.randbytes(20 << 20) for n in range(10)})]
    )


def base_image() -> bytes:
    """Make the image that the build starts from: a busybox and 24 MiB beside it."""
    busybox = require_busybox(default_source(), cache=cache_directory()).read_bytes()
    return docker_archive(
        "bench/base:latest", [Layer(files={"data": _random.randbytes(24 << 20)}, executables={"busybox": busybox})]
    )


def build_context() -> io.BytesIO:
    """Make the context of an image with one small file a layer."""
    names = [f"f{number}" for number in range(LAYERS)]
    dockerfile = "\n".join(["FROM bench/base", *(f"COPY {name} /{name}" for name in names)])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in [("Dockerfile", dockerfile.encode()), *((name, name.encode()) for name in names)]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def measure(variant: str, images: dict[str, bytes], *, accel: str, image: str) -> dict[str, float]:
    """Return one sandbox's seconds by workload, and `disk` in MiB."""
    asked = {"image": image, **VARIANTS[variant]}
    spec = parse_spec(name=f"bench-{variant}", accelerator=accel, memory="3G", timeout_seconds=600, **asked)
    with open_sandbox(spec) as sandbox, contextlib.closing(_client(sandbox)) as client:
        if variant == "recipe":
            _succeed(sandbox, BUFFERED)
        # The first write runs code that the emulator has not translated yet.
        seconds = {"write": statistics.median(_write_seconds(sandbox) for _ in range(3))}
        seconds["unpack"] = _timed(client.images.load, images["small"])
        client.images.load(images["base"])
        before = _allocated_mib(sandbox)
        seconds["build"] = _timed(
            lambda: client.images.build(fileobj=build_context(), custom_context=True, tag="bench")
        )
        seconds["disk"] = _allocated_mib(sandbox) - before
        seconds["container"] = _timed(lambda: client.containers.run("bench/base", ["/busybox", "true"], remove=True))
        # At the end, since the space of these images goes back to the host only a while after their removal.
        seconds["load"] = statistics.median(_load_seconds(sandbox, client, images["large"]) for _ in range(3))
        return seconds


def _client(sandbox: Sandbox) -> docker.DockerClient:
    return docker.DockerClient(base_url=sandbox.docker_host, timeout=900)


def _succeed(sandbox: Sandbox, command: str) -> str:
    result = sandbox.run(["sh", "-c", command], timeout_seconds=600)
    if result.exit_code:
        raise SystemExit(f"{command} failed: {result.stdout.decode()}{result.stderr.decode()}")
    return result.stdout.decode()


def _write_seconds(sandbox: Sandbox) -> float:
    began, ended = _succeed(sandbox, WRITE).split()
    return float(ended) - float(began)


def _timed(call: Any, *arguments: Any) -> float:
    started = time.monotonic()
    call(*arguments)
    return time.monotonic() - started


def _load_seconds(sandbox: Sandbox, client: docker.DockerClient, image: bytes) -> float:
    _succeed(sandbox, "sync")  # so that the load does not pay for earlier writes
    seconds = _timed(client.images.load, image)
    client.images.remove("bench/large")
    return seconds


def _allocated_mib(sandbox: Sandbox) -> float:
    """Return how much the data root takes on the host after a sync; for the memory kind, of the guest's memory."""
    _succeed(sandbox, "sync")
    if sandbox.inspect()["data_root"]["kind"] == "memory":
        return int(_succeed(sandbox, "df -k /var/lib/docker | tail -n 1").split()[2]) / 1024
    paths = [sandbox.directory / name for name in ("data.img", "data.qcow2", "data-root")]
    said = subprocess.run(
        ["du", "--summarize", "--total", "--block-size=1024", *(path for path in paths if path.exists())],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return int(said.splitlines()[-1].split()[0]) / 1024


_COUNTED = r"""
for path in /sys/fs/cgroup /sys/module/overlay/parameters /proc/sys/fs/inotify /proc/sys/kernel/keys; do
    mount -t tmpfs cover "$path"
done
touch /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.controllers /sys/fs/cgroup/cgroup.subtree_control
sh -c 'echo $$'
"$@" sh -c 'sh -c "echo \$\$"'
"""
"""Runs a command between two processes that print their numbers, which count those in between."""


def entrypoint_cost(rounds: int = 20) -> dict[str, float]:
    """Return how many milliseconds more than a bare shell the entrypoint takes on a tmpfs, and its processes."""
    temporary = tempfile.TemporaryDirectory(prefix="kata-dind-bench-")
    with temporary as directory, tempfile.NamedTemporaryFile("w", prefix="kata-dind-bench-") as entrypoint:
        entrypoint.write(entrypoint_script())
        entrypoint.flush()
        script = f"mount -t tmpfs good {directory}\n{_COUNTED}"
        milliseconds = []
        for _ in range(rounds):
            with_it, last = _in_namespaces(script, "dash", entrypoint.name, directory=directory)
            without, first = _in_namespaces(script, "env", directory=directory)
            milliseconds.append((with_it - without) * 1000)
        cost = {"milliseconds": statistics.median(milliseconds), "processes": float(last - first)}
        return cost | disk_cost(entrypoint.name, rounds)


def disk_cost(entrypoint: str, rounds: int) -> dict[str, float]:
    """Return how many milliseconds more than a bare shell the entrypoint takes with a new and with a used loop disk.

    And how many `apk add` takes, if there is an apk: in turn with these, so that a busy machine slows down all.
    """
    taken: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        apk = find_apk()
        add = stack.enter_context(apk_add(apk)) if apk else None
        for _ in range(rounds):
            for name, milliseconds in _disk_round(entrypoint):
                taken.setdefault(name, []).append(milliseconds)
            for state in ("present", "absent") if add else ():
                assert add
                taken.setdefault(f"apk_add_{state}_milliseconds", []).append(add(state))
    return {name: statistics.median(milliseconds) for name, milliseconds in taken.items()}


def _disk_round(entrypoint: str) -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory(prefix="kata-dind-bench-", dir="/var/tmp") as directory:
        told = {
            "KATA_DIND_DATA_ROOT": "loop",
            "KATA_DIND_SIZE": "50G",
            "KATA_DIND_DIR": f"{directory}/share",
            "KATA_DIND_PATH": f"{directory}/docker",
        }
        for name in ("new_disk_milliseconds", "used_disk_milliseconds"):  # the first start makes the disk
            with_it, _ = _in_namespaces(_COUNTED, "dash", entrypoint, directory=directory, **told)
            without, _ = _in_namespaces(_COUNTED, "env", directory=directory)
            yield name, (with_it - without) * 1000


def _in_namespaces(script: str, *argv: str, directory: str, **variables: str) -> tuple[float, int]:
    """Return the seconds until the command runs, and how many process numbers were used."""
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
    told = {
        "KATA_DIND_PATH": directory,
        "KATA_DIND_STATUS_DIR": f"{directory}/status",
        "KATA_DIND_LOG": "error",
    } | variables
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "sh", "-ec", script, "sh", *argv], env={**os.environ, **told}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        first, last = (int(process.stdout.readline()) for _ in range(2))
        seconds = time.monotonic() - started  # without the end of the namespace, where a disk is unmounted
    if process.returncode:
        raise SystemExit(f"{argv} ended with {process.returncode}")
    return seconds, last - first


def bars(medians: dict[str, dict[str, float]], entrypoint: dict[str, float]) -> Iterator[Bar]:
    """Compare the measurements with their bars."""

    def ratio(workload: str, over: str, under: str) -> float | None:
        return medians[over][workload] / medians[under][workload] if {over, under} <= medians.keys() else None

    for kind in ("loop", "alpine"):
        if (value := ratio("write", "recipe", kind)) is not None:
            yield at_least(f"{kind} / recipe at writing", value, 5)
    if (value := ratio("load", "memory", "block")) is not None:
        yield at_least("block / memory at loading", value, 0.9)
    for kind in ("loop", "block"):
        if (value := ratio("disk", kind, "vfs")) is not None:
            yield at_most(f"{kind} / vfs, disk of {LAYERS} layers", value, 0.1)
    if entrypoint:
        yield at_most("entrypoint, ms", entrypoint["milliseconds"], 150)
        yield at_most("entrypoint, processes", entrypoint["processes"], 10)
        yield at_most("entrypoint with a new disk, ms", entrypoint["new_disk_milliseconds"], 500)
        yield at_most("entrypoint with a used disk, ms", entrypoint["used_disk_milliseconds"], 100)
    if (add := entrypoint.get("apk_add_present_milliseconds")) is not None:
        yield at_least("apk add / entrypoint with a used disk", add / entrypoint["used_disk_milliseconds"], 10)
        yield at_least("apk add / entrypoint with a new disk", add / entrypoint["new_disk_milliseconds"], 1)


def require_image(reference: str) -> None:
    """Build the image of Debian 13 when it is the one to measure and is absent."""
    kata_dind = str(Path(sys.executable).with_name("kata-dind"))
    known = subprocess.run([kata_dind, "image", "ls", "--quiet"], check=True, capture_output=True, text=True).stdout
    if reference == "dind:trixie" and reference not in known.split():
        subprocess.run([kata_dind, "image", "build", "--suite", "trixie"], check=True)


def require_alpine_image() -> None:
    """Build the image that is like the official ones when it is absent."""
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "tests.alpine_image"], check=True, stdout=subprocess.DEVNULL, cwd=root)


def main() -> None:
    """Measure and print a table of medians with the bars, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"])
    parser.add_argument("--image", default="dind:trixie")
    parser.add_argument("--only", nargs="*", choices=[*VARIANTS, "entrypoint"], default=[*VARIANTS, "entrypoint"])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    variants = [name for name in asked.only if name in VARIANTS]
    if variants:
        require_image(asked.image)
    if "alpine" in variants:
        require_alpine_image()
    images = {"small": small_files(), "large": large_files(), "base": base_image()} if variants else {}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(asked.rounds):
        for name in variants:
            try:
                measured[name].append(measure(name, images, accel=asked.accel, image=asked.image))
            except KataDindError as error:
                raise SystemExit(f"{name}: {error.summary}\n{error.details}") from error
            print(f"{name}: {measured[name][-1]}", file=sys.stderr)
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in measured.items()
    }
    entrypoint = entrypoint_cost() if "entrypoint" in asked.only and os.geteuid() == 0 else {}
    if entrypoint and not find_apk():
        print("there is no apk here to compare the entrypoint with; see benchmarks/apk.py", file=sys.stderr)
    judged = [*bars(medians, entrypoint)]
    if asked.json:
        print(
            json.dumps(
                {"measured": measured, "entrypoint": entrypoint, "bars": [bar._asdict() for bar in judged]}, indent=2
            )
        )
    else:
        _print_table(medians)
        print("".join(f"{name}: {value:.0f}\n" for name, value in entrypoint.items()), end="")
        print_bars(judged)
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


def _print_table(medians: dict[str, dict[str, float]]) -> None:
    if medians:
        print(f"{'':9}" + "".join(f"{name:>11}" for name in medians) + "   seconds; disk in MiB")
        for key in next(iter(medians.values())):
            print(f"{key:9}" + "".join(f"{values[key]:11.2f}" for values in medians.values()))


if __name__ == "__main__":
    main()
