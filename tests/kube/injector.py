"""A second mutating webhook, which does what the injectors of Istio, Tekton and Argo do to pods."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.webhook.pairs import Pair

Inject = Callable[[dict[str, Any]], None]
"""Changes a pod in place."""


def mesh(pod: dict[str, Any]) -> None:
    """Add a native sidecar ahead of all others, an init container, volumes, and variables in all containers."""
    spec = pod["spec"]
    if any(each["name"] == "istio-proxy" for each in spec.get("initContainers", ())):
        return
    proxy = {"name": "istio-proxy", "image": "istio/proxyv2:1.30", "restartPolicy": "Always"}
    proxy["volumeMounts"] = [{"name": "istio-envoy", "mountPath": "/etc/istio/proxy"}]  # type: ignore[assignment]
    init = {"name": "istio-validation", "image": "istio/proxyv2:1.30", "args": ["istio-iptables"]}
    spec["initContainers"] = [init, proxy, *spec.get("initContainers", ())]
    spec["volumes"] = [{"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}, *spec.get("volumes", ())]
    for container in spec["containers"]:
        container["env"] = [{"name": "ISTIO_META", "value": "mesh"}, *container.get("env", ())]
    pod["metadata"].setdefault("annotations", {})["sidecar.istio.io/status"] = "injected"


def steps(pod: dict[str, Any]) -> None:
    """Put a program of its own in front of each command, as Tekton does, with its volumes and mounts."""
    spec = pod["spec"]
    if any(each["name"] == "tekton-internal-bin" for each in spec.get("volumes", ())):
        return
    spec.setdefault("volumes", []).append({"name": "tekton-internal-bin", "emptyDir": {}})
    for container in spec["containers"]:
        container.setdefault("volumeMounts", []).append({"name": "tekton-internal-bin", "mountPath": "/tekton/bin"})
        container.setdefault("env", []).append({"name": "TEKTON", "value": "1"})


def docker(pod: dict[str, Any]) -> None:
    """Add a Docker daemon, as a CI system's own webhook may."""
    spec = pod["spec"]
    if all(each["name"] != "injected-dind" for each in spec["containers"]):
        added = {"name": "injected-dind", "image": "docker:27-dind", "securityContext": {"privileged": True}}
        spec["containers"].append(added)


def no_volumes(pod: dict[str, Any]) -> None:
    """Write the list of volumes anew, as one that knows only its own."""
    for container in pod["spec"]["containers"]:
        container["volumeMounts"] = []
    pod["spec"]["volumes"] = []


@contextlib.contextmanager
def start_injector(directory: Path, pair: Pair, inject: Inject) -> Iterator[int]:
    """Serve an injector, and yield its port."""
    for name, content in pair.files.items():
        (directory / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    with http.server.HTTPServer(("127.0.0.1", 0), _handler(inject)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _handler(inject: Inject) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            pod = review["request"]["object"]
            inject(pod)
            parts = [
                {"op": "add", "path": f"/{part}", "value": pod[part]} for part in ("metadata", "spec") if part in pod
            ]
            response = {
                "uid": review["request"]["uid"],
                "allowed": True,
                "patchType": "JSONPatch",
                "patch": base64.b64encode(json.dumps(parts).encode()).decode(),
            }
            body = json.dumps({**review, "request": None, "response": response}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
