"""A real etcd and a real kube-apiserver on this machine, for the length of a `with` block.

A kubelet runs only on the node of tests/kube/node.py, controllers and a scheduler only in the cluster of
tests/kube/cluster.py: objects are validated, defaulted, stored and given back, and nothing is made of them. So there
are no service accounts in namespaces, and the admission plugin that would ask for them is off.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kata_dind.host.process import Daemon, daemon, run
from scripts import build_kube
from tests.kube.client import Client
from tests.kube.namespaces import Namespaces

START_SECONDS = 120

ADMIN = "admin"
READER = "reader"
"""A user without any rights, until a test gives it some."""

WITHOUT_CONTROLLERS = ("--disable-admission-plugins=ServiceAccount",)


@dataclass(frozen=True)
class ApiServer:
    """A running API server."""

    port: int
    directory: Path
    kata_dind_logs: list[Path]
    inside: Namespaces | None = None
    """Where its loopback is, if it isn't this machine's."""

    @property
    def authority(self) -> Path:
        """The certificate that the server's own is signed by."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def service_accounts_key(self) -> Path:
        """The key by which the tokens of service accounts are signed."""
        return self.directory / "service-accounts.key"

    @contextlib.contextmanager
    def client(self, user: str = ADMIN, *, token: str = "") -> Iterator[Client]:
        """Talk to the server as a user, or as somebody with a token."""
        entered = self.inside.entered_network if self.inside else contextlib.nullcontext
        client = Client(self.port, authority=self.authority, token=token or token_of(user), entered=entered)
        try:
            yield client
        finally:
            client.close()

    def kubeconfig(self, path: Path, *, context: str, user: str = ADMIN, token: str = "", namespace: str = "") -> Path:
        """Write what kubectl needs, of a user or of somebody with a token; kubectl reads JSON, too."""
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.authority)}
        place = {"cluster": "test", "user": user, **({"namespace": namespace} if namespace else {})}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token or token_of(user)}}],
            "contexts": [{"name": context, "context": place}],
        }
        path.write_text(json.dumps(config), encoding="utf-8")
        path.chmod(0o600)
        return path


def token_of(user: str) -> str:
    """Return a user's token: the server listens on loopback, and lives as long as a test session."""
    return f"token-of-{user}"


@contextlib.contextmanager
def start_api_server(
    directory: Path, *, inside: Namespaces | None = None, flags: Sequence[str] = WITHOUT_CONTROLLERS
) -> Iterator[ApiServer]:
    """Start etcd and an API server whose files lie in a directory, on this machine's loopback or on a node's.

    The flags are more of the server's.
    """
    program = build_kube.require_program("kube-apiserver")
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(_start_etcd(directory))
        with inside.entered_network() if inside else contextlib.nullcontext():
            port = stack.enter_context(_reserved_port())
        log = directory / "kube-apiserver.log"
        argv = [str(program), *_flags(directory, endpoint=endpoint, port=port), *flags]
        if inside:
            argv = inside.argv(*argv, *_flags_on_node(inside))
        process = stack.enter_context(daemon(argv, name="kube-apiserver", log=log))
        server = ApiServer(port, directory, [log, directory / "etcd.log"], inside)
        _wait_until_ready(server, process)
        yield server


@contextlib.contextmanager
def _start_etcd(directory: Path) -> Iterator[str]:
    log = directory / "etcd.log"
    # On sockets no port has to be found. etcd 3.4 takes what would be host and port for a name in its directory.
    clients, peers = "unix://clients:0", "unix://peers:0"
    argv: list[str | os.PathLike[str]] = [
        *("env", f"--chdir={directory}", build_kube.find_etcd() or "etcd"),
        *("--data-dir", directory / "etcd", "--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"),
    ]
    with daemon(argv, name="etcd", log=log) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (directory / "clients:0").exists():
            assert not process.ended() and time.monotonic() < deadline, process.describe_end()
            time.sleep(0.05)
        yield f"unix://{directory}/clients:0"


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """Keep a port on loopback from everybody but those that share it, as the API server does when it is told to."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def _flags(directory: Path, *, endpoint: str, port: int) -> list[str]:
    key = directory / "service-accounts.key"
    run(["openssl", "genrsa", "-out", key, "2048"], timeout_seconds=60)
    tokens = directory / "tokens.csv"
    tokens.write_text(f"{token_of(ADMIN)},{ADMIN},1,system:masters\n{token_of(READER)},{READER},2\n", encoding="utf-8")
    return [
        f"--etcd-servers={endpoint}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--permit-port-sharing",
        # It signs a certificate for itself there.
        f"--cert-dir={directory / 'certificates'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
    ]


def _flags_on_node(node: Namespaces) -> list[str]:
    # Without a default route it can't choose an address for itself.
    return [f"--advertise-address={node.address}", "--kubelet-preferred-address-types=InternalIP"]


def _wait_until_ready(server: ApiServer, process: Daemon) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(server):
        assert not process.ended() and time.monotonic() < deadline, process.describe_end()
        time.sleep(0.1)


def _is_ready(server: ApiServer) -> bool:
    if not server.authority.exists():
        return False
    with contextlib.suppress(OSError), server.client() as client:
        return client.request("GET", "/readyz").accepted
    return False
