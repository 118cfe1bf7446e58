"""How long documents take to be read, searched for pods, and changed; and the memory that a long stream takes.

    read     1,000 Deployments of 60 lines, read from a stream
    find     the same, and each pod found
    change   the same, and a patch such as a repair's written into each: a script of 40 KB, a volume, a mount
    memory   how much more the process has at its most after 4,000 documents than after 1,000

Seconds are the processor's, since nothing waits. Bars: change <= 5 s, which is what `fix` has for all; memory <= 4 MiB.
Exits with 1 when a bar is missed.

    .venv/bin/python benchmarks/manifests.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from startup import at_most, print_bars

from kata_dind.manifest import Document, edited, read_documents
from kata_dind.pod.places import find_pods, translate

_DOCUMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: runner
  labels:
    app: runner  # a comment
spec:
  replicas: 2
  selector:
    matchLabels:
      app: runner
  template:
    metadata:
      labels:
        app: runner
    spec:
      runtimeClassName: kata-qemu
      containers:
      - name: job
        image: docker:27-cli
        command: ["sh", "-c", "docker info"]
        env:
        - name: DOCKER_HOST
          value: tcp://localhost:2375
        resources:
          requests:
            cpu: 500m
            memory: 1Gi
          limits:
            memory: 2Gi
        volumeMounts:
        - name: work
          mountPath: /work
      - name: dind
        image: docker:27-dind
        args:
        - --storage-driver=vfs
        - --mtu=1450
        env:
        - name: DOCKER_TLS_CERTDIR
          value: ""
        securityContext:
          privileged: true
        readinessProbe:
          tcpSocket:
            port: 2375
          periodSeconds: 5
        volumeMounts:
        - name: work
          mountPath: /work
        - name: docker
          mountPath: /var/lib/docker
      - name: logs
        image: busybox
        command:
        - tail
        - -F
        - /var/log/work
      volumes:
      - name: work
        emptyDir: {}
      - name: docker
        emptyDir: {}
"""
_SCRIPT = "#!/bin/sh\n" + '\tprintf "%s\\n" "a line of the script"\n' * 1000
_PATCH: list[Any] = [
    {"op": "remove", "path": "/spec/containers/1/args/0"},
    {"op": "add", "path": "/spec/containers/1/command", "value": ["/bin/sh", "-c", _SCRIPT, "kata-dind", "dockerd"]},
    {"op": "replace", "path": "/spec/volumes/1/emptyDir", "value": {"sizeLimit": "30Gi"}},
    {"op": "add", "path": "/spec/containers/1/volumeMounts/-", "value": {"name": "new", "mountPath": "/new"}},
    {"op": "add", "path": "/spec/volumes/-", "value": {"name": "new", "emptyDir": {"medium": "Memory"}}},
]


def _stream(documents: int) -> Iterator[str]:
    """Yield the lines of the same document again and again, which are never in memory together."""
    for _ in range(documents):
        yield from _DOCUMENT.splitlines(keepends=True)
        yield "---\n"


def _read(document: Document) -> None:
    del document


def _find(document: Document) -> None:
    list(find_pods(document.data))


def _change(document: Document) -> None:
    for place in find_pods(document.data):
        held, _left = translate(place, _PATCH)
        edited(document, held)


def _seconds(work: Callable[[Document], None], documents: int) -> float:
    began = time.process_time()
    for document in read_documents(_stream(documents), "stream.yaml"):
        work(document)
    return time.process_time() - began


def _most_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    """Measure, print, and compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    best = {
        work.__name__.strip("_"): min(_seconds(work, 1000) for _ in range(rounds)) for work in (_read, _find, _change)
    }
    for name, seconds in best.items():
        print(f"{name}: {seconds:.2f} s for 1,000 documents, the least of {rounds}")
    before = _most_kib()
    _seconds(_change, 4000)
    judged = [
        at_most("change, seconds", best["change"], 5),
        at_most("memory, MiB", (_most_kib() - before) / 1024, 4),
    ]
    print_bars(judged)
    return 0 if all(bar.kept for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
