"""A webhook that does nothing, of the same stack as ours: it reads each review, and admits the pod as it is.

.venv/bin/python benchmarks/webhook_nothing.py CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import socket
import sys
from http import HTTPStatus
from pathlib import Path

import orjson
import uvloop

from kata_dind.webhook.certificates import load_certificate
from kata_dind.webhook.connections import Connections, Reply, Request
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.reviews import admitted, parse_review, review_text


def answer(request: Request) -> Reply:
    """Admit a pod."""
    if request.path != "/mutate":
        return Reply(HTTPStatus.OK, b"ok\n")
    return Reply(HTTPStatus.OK, review_text(admitted(parse_review(request.body)["uid"])), "application/json")


async def serve(certificate: bytes, key: bytes) -> None:
    """Serve until the process is killed."""
    context = load_certificate(certificate, key).context
    listening = socket.create_server(("127.0.0.1", 0))
    connections = Connections("https", answer, Metrics())
    await asyncio.get_running_loop().create_server(connections, sock=listening, ssl=context)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    sys.stderr.buffer.write(orjson.dumps({"event": "listening", "port": "https", "address": address}) + b"\n")
    sys.stderr.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()))
