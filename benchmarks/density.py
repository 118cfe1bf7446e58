#!/usr/bin/env python3
"""Measure many clones of one seed at once, and many one after another.

alive       N sandboxes are started by `kata-dind up`, one after another, and all stay
    seconds             of each `up`, from process start to a `_ping` over its endpoint
    vm_mib              the proportional share of QEMU's memory: what clones share is counted once
    all_mib             how much less memory the host has for each: MemAvailable before and after, by N
    disk_mib            how much disk a fresh clone's directory takes
    answer_seconds      a `_ping` of each sandbox when all are idle
    idle_load           how many processors all of them together keep busy, over some idle seconds
sequential  `up` and `rm` again and again: the processes, files and memory that are left behind
    parts               the medians of each tenth of the cycles, of fewer parts below 100: the seconds of `up`, those of
                        a restore by hand after every tenth cycle, and their ratio pair by pair, in which changes of the
                        machine's speed cancel out

Bars, for 100 clones on 2 cores: vm_mib <= 60, all_mib <= 90, disk_mib <= 2, every answer within 1 s, idle_load <= 1, no
start slower than 3 times the first; after 1000 cycles no process and no file is left, and p99 <= 2 medians. Exits with
1 when a bar that was measured is missed.

    benchmarks/density.py --clones 100 --cycles 1000 --accel tcg
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from startup import KATA_DIND, Bar, at_most, endpoint_of, percentile_99, ping, plan_of_up, restore_by_hand

DEADLINE_SECONDS = 300.0
IDLE_SECONDS = 30.0
_BY_HAND_EACH = 10


def up(name: str, accel: str) -> float:
    """Start a sandbox and return the seconds to the first answer over its endpoint."""
    endpoint = endpoint_of(name)
    started = time.monotonic()
    with subprocess.Popen([KATA_DIND, "up", name, "--accel", accel, "--quiet"]) as command:
        while ping(endpoint) is None:
            if command.poll() not in (None, 0) or time.monotonic() - started > DEADLINE_SECONDS:
                raise SystemExit(f"kata-dind up {name} failed")
            time.sleep(0.005)
        seconds = time.monotonic() - started
        if command.wait() != 0:
            raise SystemExit(f"kata-dind up {name} failed")
    return seconds


def rm(*names: str) -> None:
    """Remove sandboxes."""
    subprocess.run([KATA_DIND, "rm", "--force", "--quiet", *names], check=True)


def meminfo_mib(*names: str) -> float:
    """Return the sum of some rows of /proc/meminfo."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(rows[name].split()[0]) for name in names) / 1024


def available_mib() -> float:
    """Return how much memory the host could still give to programs."""
    return meminfo_mib("MemAvailable")


def vm_mib() -> list[float]:
    """Return the proportional share of each QEMU's memory that belongs to our sandboxes."""
    from kata_dind.store.sandboxes import sandboxes_directory

    ours, shares = str(sandboxes_directory()).encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if command.startswith(b"qemu-system") and ours in command:
                pss = next(
                    line for line in (process / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
                )
                shares.append(int(pss.split()[1]) / 1024)
        except OSError:
            continue
    return shares


def busy_seconds() -> float:
    """Return the processor time that the host has spent on anything since it booted."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def disk_mib(name: str) -> float:
    """Return how much disk a sandbox's directory takes."""
    directory = endpoint_of(name).parent
    return sum(path.lstat().st_blocks for path in directory.iterdir()) * 512 / 2**20


@contextmanager
def removed_at_the_end(names: list[str]) -> Iterator[None]:
    """Remove sandboxes whatever happens."""
    try:
        yield
    finally:
        if names:
            rm(*names)


def alive(count: int, accel: str) -> dict[str, Any]:
    """Start a number of sandboxes, look at them when they are idle, and remove them."""
    names: list[str] = []
    with removed_at_the_end(names):
        rm_first = "density-first"
        up(rm_first, accel)  # so that the first start of all makes its seed before we measure
        rm(rm_first)
        idle_before = _idle_load()
        before_mib = available_mib()
        seconds = []
        for number in range(count):
            names.append(f"density-{number}")
            seconds.append(up(names[-1], accel))
        fresh_mib = disk_mib(names[-1])
        time.sleep(5)
        answers = [ping(endpoint_of(name)) for name in names]
        load = _idle_load()
        return {
            "clones": count,
            "seconds": [round(value, 3) for value in seconds],
            "seconds_median": round(statistics.median(seconds), 3),
            "slowest_by_first": round(max(seconds) / seconds[0], 2),
            "vm_mib": round(statistics.mean(vm_mib()), 1),
            "all_mib": round((before_mib - available_mib()) / count, 1),
            "disk_mib": round(fresh_mib, 2),
            "unanswered": answers.count(None),
            "slowest_answer_seconds": round(max(value or DEADLINE_SECONDS for value in answers), 3),
            "idle_load": round(load - idle_before, 3),
        }


def _idle_load() -> float:
    before = busy_seconds()
    time.sleep(IDLE_SECONDS)
    return (busy_seconds() - before) / IDLE_SECONDS


def sequential(cycles: int, accel: str) -> dict[str, Any]:
    """Start and remove a sandbox again and again; compare the host before and after."""
    plan = plan_of_up(accel)
    up("density", accel)
    rm("density")
    restore_by_hand(plan)
    before, seconds, bare = _surroundings(), [], []
    for cycle in range(cycles):
        seconds.append(up("density", accel))
        rm("density")
        if cycle % _BY_HAND_EACH == 0:
            bare.append(restore_by_hand(plan))
    after = _surroundings()
    ratios = [one / other for one, other in zip(seconds[::_BY_HAND_EACH], bare, strict=True)]
    count = min(10, len(bare))
    return {
        "cycles": cycles,
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_p99": round(percentile_99(seconds), 3),
        "parts": {"up": _parts(seconds, count), "bare": _parts(bare, count), "up / bare": _parts(ratios, count)},
        "before": before,
        "after": after,
    }


def _parts(values: list[float], count: int) -> list[float]:
    """Return the medians of `count` parts of a list, which has at least as many values."""
    edges = [len(values) * number // count for number in range(count + 1)]
    return [round(statistics.median(values[begin:end]), 3) for begin, end in itertools.pairwise(edges)]


def _surroundings() -> dict[str, float]:
    from kata_dind.host.directories import state_directory

    commands = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(process.read_bytes())
        except OSError:
            continue
    files = [path for path in state_directory().rglob("*") if path.exists()]
    return {
        "processes": sum(b"kata_dind" in command or b"slirp4netns" in command for command in commands),
        "files": len(files),
        "disk_mib": round(sum(path.lstat().st_blocks for path in files) * 512 / 2**20, 1),
        "available_mib": round(available_mib()),
        # MemAvailable also moves with the page cache; a leak in the kernel would show here.
        "kernel_mib": round(meminfo_mib("SUnreclaim", "KernelStack", "PageTables", "Percpu"), 1),
    }


def bars(found: dict[str, dict[str, Any]]) -> Iterator[Bar]:
    """Compare the measurements with their bars."""
    if alive := found.get("alive"):
        for what, most in (("vm_mib", 60), ("all_mib", 90), ("disk_mib", 2), ("unanswered", 0),
                           ("slowest_answer_seconds", 1), ("idle_load", 1), ("slowest_by_first", 3)):  # fmt: skip
            yield at_most(what, alive[what], most)
    if sequential := found.get("sequential"):
        for what in ("processes", "files"):
            yield at_most(f"{what} left", sequential["after"][what] - sequential["before"][what], 0)
        yield at_most("p99 / median", sequential["seconds_p99"] / sequential["seconds_median"], 2)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--accel", default="auto", choices=["auto", "kvm", "tcg"])
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    if asked.clones:
        found["alive"] = alive(asked.clones, asked.accel)
    if asked.cycles:
        found["sequential"] = sequential(asked.cycles, asked.accel)
    judged = [*bars(found)]
    print(json.dumps({**found, "bars": [bar._asdict() for bar in judged]}, indent=2))
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


if __name__ == "__main__":
    main()
