"""A real node for the length of a `with` block: kubelet, containerd and runc, with an API server of its own.

There is no scheduler and no controller (tests/kube/cluster.py has both): a pod names the node. The handler `kata-qemu`
is runc as well. What its containers share with the node (emptyDirs, image VOLUMEs, their root file systems) lies on
FUSE without extended attributes, on which overlay fails as it does on Kata's virtio-fs; and in their /dev is no more
than in Kata's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.host.process import Daemon, daemon, require_tool, scrubbed_environment
from scripts import build_dind29, build_kube
from tests.guest.daemons import loop_files
from tests.kube.client import Client, condition
from tests.kube.namespaces import Namespaces, make_namespaces
from tests.kube.objects import namespace_named, runtime_class
from tests.kube.pod_images import PAUSE, pause_archive
from tests.kube.server import WITHOUT_CONTROLLERS, ApiServer, start_api_server

NAME = "node"
_ADDRESS = "192.0.2.1"
_PODS = "198.51.100.0/24"
START_SECONDS = 120
_PATH = scrubbed_environment()["PATH"]
_CNI_PROGRAMS = ("/usr/lib/cni", "/opt/cni/bin")
_CRI = "io.containerd.grpc.v1.cri"

# This form of the file is understood from containerd 1.6 on.
_CONTAINERD = """
version = 2
root = "{directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # Where we may not lower it, as in most containers.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_programs}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]
      runtime_type = "io.containerd.runc.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu.options]
        BinaryName = "{directory}/runc-like-kata"
"""
_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": _PODS}]]},
        }
    ],
}
_OF_NETWORK = ("pods", "last_reserved_ip.0", "lock")
"""What the first pod's network makes, and all later ones use."""


@dataclass(frozen=True)
class Host:
    """A host with a containerd of its own, in namespaces of its own."""

    namespaces: Namespaces
    directory: Path
    kata_dind_logs: list[Path]

    @property
    def address(self) -> Path:
        """containerd's socket."""
        return self.directory / "containerd.sock"

    def run(
        self, *argv: str | os.PathLike[str], text: str = "", timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node."""
        return subprocess.run(
            self.namespaces.argv(*argv),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env={**os.environ, "KUBECONFIG": str(self.directory / "kubeconfig"), "HOME": str(self.directory)},
            check=False,
        )

    def succeed(self, *argv: str | os.PathLike[str], **options: Any) -> str:
        """Run a command in the node, and return what it prints."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{shlex.join(map(str, argv))}\n{done.stdout}{done.stderr}"
        return done.stdout

    def load_image(self, archive: Path) -> None:
        """Give the node an image, as if it had pulled it."""
        self.succeed(*self.ctr("images", "import", str(archive)), timeout_seconds=300)

    def ctr(self, *arguments: str) -> list[str]:
        program = str(require_tool("ctr", package="containerd"))
        return [program, f"--address={self.address}", "--namespace=k8s.io", *arguments]

    def records(self) -> frozenset[str]:
        """Return what is remembered of pods; kubelet removes what it has of those that have ended once a minute."""
        places = {"sandbox": self.directory / "share/volumes/sandboxes", "logs": self.directory / "logs"}
        there = {what: place for what, place in places.items() if place.is_dir()}
        found = {f"{what}: {path.name}" for what, place in there.items() for path in place.iterdir()}
        for what, listing in (("container", "containers"), ("snapshot", "snapshots")):
            lines = self.succeed(*self.ctr(listing, "list")).splitlines()[1:]
            found |= {f"{what}: {line.split()[0]}" for line in lines if " Committed" not in line}
        return frozenset(found)

    def traces(self) -> frozenset[str]:
        """Return what pods have of the node, but for the records."""
        root = Path(f"/proc/{self.namespaces.pid}/root")
        places = {
            "a pod's directory": self.directory / "share/pods",
            "a container's directory": self.directory / "share/volumes/containers",
            "a network": root / "run/netns",
            "an address": root / "var/lib/cni/networks/pods",
            "an interface": root / "sys/class/net",
        }
        entries = ((what, path.name) for what, place in places.items() if place.is_dir() for path in place.iterdir())
        found = {f"{what}: {name}" for what, name in entries if name not in _OF_NETWORK}
        found |= {f"mount: {path}" for path in self.namespaces.mounts()}
        found |= {f"loop device on {text.strip()}" for text in loop_files() if str(self.directory) in text}
        groups = {path.relative_to(group) for group in self.namespaces.groups for path in group.rglob("*/")}
        processes = self.namespaces.processes().items()
        return frozenset(
            found | {f"group: {path}" for path in groups} | {f"process: {pid} {line}" for pid, line in processes}
        )


@dataclass(frozen=True)
class Node(Host):
    """A running node."""

    server: ApiServer

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; it speaks to the API server, as people do."""
        return self.run(build_kube.require_program("kubectl"), *arguments, **options)


class NodeNotReady(Exception):
    """A kubelet doesn't run on this machine; the message has the reason from its log."""


def find_cni_programs() -> Path | None:
    """Return where the programs are that give pods a network."""
    return next((place for place in map(Path, _CNI_PROGRAMS) if (place / "bridge").exists()), None)


@contextlib.contextmanager
def start_node(
    directory: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    server_flags: Sequence[str] = WITHOUT_CONTROLLERS,
) -> Iterator[Node]:
    """Start everything in a directory, and wait until the node is ready. Raises NodeNotReady.

    The settings are more of kubelet's.
    """
    with contextlib.ExitStack() as stack:
        namespaces = stack.enter_context(make_namespaces(directory, address=_ADDRESS))
        server_directory = directory / "server"
        server_directory.mkdir(mode=0o700)
        server = stack.enter_context(start_api_server(server_directory, inside=namespaces, flags=server_flags))
        logs = [directory / f"{name}.log" for name in ("kubelet", "containerd")]
        node = Node(namespaces, directory, [*logs, *server.kata_dind_logs], server)
        # containerd 2 if it has been built for other tests, and else the distribution's.
        stack.enter_context(start_containerd(node, programs=build_dind29.find_programs()))
        node.load_image(pause_archive(directory / "pause.tar"))
        kubelet = stack.enter_context(_start_kubelet(node, settings or {}))
        _wait_until_ready(node, kubelet)
        node.succeed("mkdir", "-p", "/run/netns")
        with server.client() as client:
            client.make(namespace_named("ci"), runtime_class("kata-qemu"))
        yield node


@contextlib.contextmanager
def start_host(directory: Path, *, programs: Path | None = None, handlers: str = "") -> Iterator[Host]:
    """Start a containerd in a directory, with a handler named like Kata's, and no kubelet.

    Its programs are the distribution's, unless a directory has others. `handlers` are more lines of its configuration.
    """
    with make_namespaces(directory, address=_ADDRESS) as namespaces:
        host = Host(namespaces, directory, [directory / "containerd.log"])
        with start_containerd(host, programs=programs, handlers=handlers):
            host.load_image(pause_archive(directory / "pause.tar"))
            host.succeed("mkdir", "-p", "/run/netns")
            yield host


@contextlib.contextmanager
def start_containerd(node: Host, *, programs: Path | None, handlers: str = "") -> Iterator[Daemon]:
    """Start a host's containerd for the length of the block, for the first time or again."""
    directory = node.directory
    config = directory / "containerd.toml"
    if not config.exists():
        # What is shared with containers: the VOLUMEs of images are directories there.
        _share(node, "volumes", directory / "containerd" / _CRI)
        _write_json(directory / "cni" / "10-pods.conflist", _NETWORK)
        config.write_text(
            _CONTAINERD.format(directory=directory, pause=PAUSE, cni_programs=find_cni_programs()) + handlers,
            encoding="utf-8",
        )
        _write_runtime(directory / "runc-like-kata")
    path = f"{programs}:{_PATH}" if programs else _PATH
    argv = node.namespaces.argv("env", f"PATH={path}", "containerd", f"--config={config}")
    with daemon(argv, name="containerd", log=directory / "containerd.log") as process:
        _wait_for(lambda: node.run(*node.ctr("version")).returncode == 0, process)
        yield process


def _write_runtime(path: Path) -> None:
    source = Path(__file__).with_name("runc_like_kata.py").read_text(encoding="utf-8")
    path.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
    path.chmod(0o755)


@contextlib.contextmanager
def _start_kubelet(node: Node, settings: Mapping[str, Any]) -> Iterator[Daemon]:
    directory = node.directory
    _share(node, "pods", directory / "kubelet" / "pods")
    node.server.kubeconfig(directory / "kubeconfig", context=NAME)
    (directory / "resolv.conf").write_text("nameserver 192.0.2.53\n", encoding="utf-8")
    _write_json(directory / "kubelet.json", {**_kubelet_configuration(directory), **settings})
    argv = node.namespaces.argv(
        "env",
        f"PATH={_PATH}",
        build_kube.require_program("kubelet"),
        f"--config={directory / 'kubelet.json'}",
        f"--kubeconfig={directory / 'kubeconfig'}",
        f"--root-dir={directory / 'kubelet'}",
        f"--cert-dir={directory / 'kubelet' / 'pki'}",
        f"--hostname-override={NAME}",
        f"--node-ip={_ADDRESS}",
        "--v=2",
    )
    with daemon(argv, name="kubelet", log=directory / "kubelet.log") as process:
        yield process


def _kubelet_configuration(directory: Path) -> dict[str, Any]:
    never = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Only the node itself reaches it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{directory}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # However full this machine is.
        "evictionHard": dict.fromkeys(never, "0%"),
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(directory / "logs"),
        "volumePluginDir": str(directory / "volume-plugins"),
        "resolvConf": str(directory / "resolv.conf"),
        "readOnlyPort": 0,
        "syncFrequency": "10s",
    }


def _share(node: Host, name: str, place: Path) -> None:
    """Let a directory of the share be what a program has at a place."""
    (node.directory / "share" / name).mkdir()
    place.mkdir(parents=True)
    node.succeed("mount", "--bind", node.directory / "shared" / name, place)


def _wait_until_ready(node: Node, kubelet: Daemon) -> None:
    deadline = time.monotonic() + START_SECONDS
    with node.server.client() as client:
        while not _is_ready(client):
            if kubelet.ended() or time.monotonic() > deadline:
                raise NodeNotReady(f"{kubelet.describe_state()}: {_reason(kubelet.log)}")
            time.sleep(0.2)


def _is_ready(client: Client) -> bool:
    node = client.find({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}})
    return condition(node or {"status": {}}, "Ready") == "True"


def _reason(log: Path) -> str:
    """Return the line of a kubelet's log that says most: its last complaint."""
    lines = log.read_text(errors="replace").splitlines()
    complaints = [line for line in lines if line[:1] in "EF" and line[1:5].isdigit()]
    return (complaints or lines or ["it has said nothing"])[-1]


def _wait_for(holds: Any, process: Daemon) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert not process.ended() and time.monotonic() < deadline, process.describe_end()
        time.sleep(0.2)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
