"""What a project's tests do with testcontainers; `leave` ends as a test run that was killed does.

Prints what it has seen, and the ids of its containers, as JSON.
"""

import json
import os
import socket
import sys
from pathlib import Path

from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs


def main() -> None:
    Path("redis.conf").write_text("maxmemory 33554432\n")
    containers = []
    seen = {}
    for name in ("one", "two"):
        container = DockerContainer("redis:7").with_exposed_ports(6379)
        container.with_volume_mapping(str(Path("redis.conf").resolve()), "/etc/redis.conf")
        container.with_command("redis-server /etc/redis.conf --bind 0.0.0.0 --protected-mode no")
        container.start()
        wait_for_logs(container, "Ready to accept connections", timeout=100)
        containers.append(container)
        address = (container.get_container_host_ip(), int(container.get_exposed_port(6379)))
        with socket.create_connection(address, 30) as connected:
            connected.sendall(b"CONFIG GET maxmemory\r\n")
            seen[name] = [*address, connected.recv(4096).decode().split()[-1]]
    ids = [container.get_wrapped_container().id for container in containers]
    sys.stdout.write(json.dumps({"seen": seen, "containers": ids}) + "\n")
    sys.stdout.flush()
    if sys.argv[1:] == ["leave"]:
        os._exit(0)
    for container in containers:
        container.stop()


main()
