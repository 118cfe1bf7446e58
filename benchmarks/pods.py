"""What the functions of `kata_dind.pod` cost, in microseconds of processor time for one pod.

    none     `detect` of a pod of three containers in which nothing speaks of Docker
    client   `detect` of a pod whose only Docker is a client
    detect   `detect` of ARC's pod, with a Docker daemon in a native sidecar
    repair   `detect` and `repair` of the same pod
    again    `detect` and `repair` of the pod that the repair has made
    script   `detect` of a pod whose ConfigMap has a start script that makes a loop disk

Each is the median of several rounds; the least is told, too, as the machine may have other things to do.

Bars: none <= 50 us; repair and again <= 300 us. Exits with 1 when a bar that was measured is missed.

    .venv/bin/python benchmarks/pods.py [--rounds 20] [--only none repair] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonpatch
from startup import Bar, at_most, print_bars

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.detect import detect
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair

POLICY = Policy()
NONE_MOST_US = 50.0
REPAIR_MOST_US = 300.0
ROUND_SECONDS = 0.05

NONE = {
    "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"prometheus.io/scrape": "true"}},
    "spec": {
        "runtimeClassName": "kata-qemu",
        "containers": [
            {
                "name": f"web-{number}",
                "image": "registry.example.com/team/web:1.2.3",
                "command": ["/app/server"],
                "args": ["--port", "8080", "--log-level", "info"],
                "env": [{"name": f"SETTING_{each}", "value": "x" * 20} for each in range(12)],
                "volumeMounts": [{"name": f"data-{each}", "mountPath": f"/data/{each}"} for each in range(4)],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            }
            for number in range(3)
        ],
        "volumes": [{"name": f"data-{each}", "emptyDir": {}} for each in range(4)],
    },
}
CLIENT = {
    "metadata": {"name": "job"},
    "spec": {
        "runtimeClassName": "kata-qemu",
        "containers": [
            {
                "name": "build",
                "image": "docker:27-cli",
                "command": ["sh", "-c", "until docker info; do sleep 1; done\ndocker build -t x . && docker push x"],
                "env": [{"name": "DOCKER_HOST", "value": "tcp://docker:2376"}],
            }
        ],
    },
}
ARC = {
    "metadata": {"name": "runner", "labels": {"actions-ephemeral-runner": "True"}},
    "spec": {
        "runtimeClassName": "kata-qemu",
        "restartPolicy": "Never",
        "initContainers": [
            {
                "name": "init-dind-externals",
                "image": "ghcr.io/actions/actions-runner:latest",
                "command": ["cp"],
                "args": ["-r", "/home/runner/externals/.", "/home/runner/tmpDir/"],
                "volumeMounts": [{"name": "dind-externals", "mountPath": "/home/runner/tmpDir"}],
            },
            {
                "name": "dind",
                "image": "docker:dind",
                "args": ["dockerd", "--host=unix:///var/run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
                "env": [{"name": "DOCKER_GROUP_GID", "value": "123"}],
                "securityContext": {"privileged": True},
                "restartPolicy": "Always",
                "startupProbe": {"exec": {"command": ["docker", "info"]}, "failureThreshold": 24, "periodSeconds": 5},
                "volumeMounts": [
                    {"name": "work", "mountPath": "/home/runner/_work"},
                    {"name": "dind-sock", "mountPath": "/var/run"},
                    {"name": "dind-externals", "mountPath": "/home/runner/externals"},
                ],
            },
        ],
        "containers": [
            {
                "name": "runner",
                "image": "ghcr.io/actions/actions-runner:latest",
                "command": ["/home/runner/run.sh"],
                "env": [
                    {"name": "DOCKER_HOST", "value": "unix:///var/run/docker.sock"},
                    {"name": "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS", "value": "120"},
                ],
                "volumeMounts": [
                    {"name": "work", "mountPath": "/home/runner/_work"},
                    {"name": "dind-sock", "mountPath": "/var/run"},
                ],
            }
        ],
        "volumes": [{"name": name, "emptyDir": {}} for name in ("work", "dind-sock", "dind-externals")],
    },
}
SCRIPT = {
    "metadata": {"name": "by-hand"},
    "spec": {
        "runtimeClassName": "kata-qemu",
        "containers": [
            {
                "name": "dind",
                "image": "docker:dind",
                "command": ["/scripts/start.sh"],
                "securityContext": {"privileged": True},
                "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
            }
        ],
        "volumes": [{"name": "scripts", "configMap": {"name": "start"}}],
    },
}
CONFIG_MAPS = {
    "start": {
        "start.sh": "#!/bin/sh\nset -e\napk add e2fsprogs\ntruncate -s 20G /disk.img\nmkfs.ext4 -q /disk.img\n"
        "mount -o loop /disk.img /var/lib/docker\nexec dockerd --host=unix:///var/run/docker.sock\n"
    }
}


def repaired(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod with its repair in it."""
    patch = repair(pod, POLICY, script=entrypoint_for_pods).patch
    return dict(jsonpatch.apply_patch(copy.deepcopy(dict(pod)), list(patch)))


def measured() -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    again = repaired(ARC)
    return {
        "none": lambda: detect(NONE, POLICY),
        "client": lambda: detect(CLIENT, POLICY),
        "detect": lambda: detect(ARC, POLICY),
        "repair": lambda: repair(ARC, POLICY, script=entrypoint_for_pods, detection=detect(ARC, POLICY)),
        "again": lambda: repair(again, POLICY, script=entrypoint_for_pods, detection=detect(again, POLICY)),
        "script": lambda: detect(SCRIPT, POLICY, config_maps=CONFIG_MAPS),
    }


def microseconds(function: Callable[[], object]) -> float:
    """Return the processor time of one call, of as many as fill a round."""
    calls = 0
    started = time.process_time()
    while (spent := time.process_time() - started) < ROUND_SECONDS:
        for _ in range(20):
            function()
        calls += 20
    return spent / calls * 1e6


def bars(medians: Mapping[str, float]) -> Iterator[Bar]:
    """Judge what was measured."""
    for name, most in (("none", NONE_MOST_US), ("repair", REPAIR_MOST_US), ("again", REPAIR_MOST_US)):
        if name in medians:
            yield at_most(f"{name}, us", medians[name], most)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    functions = measured()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(functions), default=list(functions))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in asked.only}
    for _ in range(asked.rounds):
        for name in asked.only:
            found[name].append(microseconds(functions[name]))
    medians = {name: statistics.median(values) for name, values in found.items()}
    judged = [*bars(medians)]
    if asked.json:
        least = {name: min(values) for name, values in found.items()}
        print(
            json.dumps({"median_us": medians, "least_us": least, "bars": [bar._asdict() for bar in judged]}, indent=2)
        )
    else:
        for name, values in found.items():
            print(f"{name:8} median {medians[name]:6.1f} us, least {min(values):6.1f} us")
        print_bars(judged)
    sys.exit(0 if all(bar.kept for bar in judged) else 1)


if __name__ == "__main__":
    main()
