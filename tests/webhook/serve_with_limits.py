"""`kata-dind webhook serve` with other limits for clients: they are no options, since only tests want to wait less."""

from __future__ import annotations

import json
import sys

from kata_dind.webhook.connections import Limits
from kata_dind.webhook.logs import log_to
from kata_dind.webhook.serving import Settings, parse_address, serve

if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    log_to()
    serve(
        Settings(
            listen=parse_address(told["listen"], option="--listen"),
            http_listen=parse_address(told["http_listen"], option="--http-listen"),
            certificate_file=told["cert"],
            key_file=told["key"],
            limits=Limits(**told["limits"]),
            drain_seconds=told.get("drain_seconds", 3.0),
        )
    )
