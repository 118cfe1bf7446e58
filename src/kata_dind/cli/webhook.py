"""`kata-dind webhook`: the verbs, of which each has a file of its own."""

from __future__ import annotations

from kata_dind.cli.webhook_certs import certs
from kata_dind.cli.webhook_check import check
from kata_dind.cli.webhook_manifest import manifest
from kata_dind.cli.webhook_serve import serve

__all__ = ["certs", "check", "manifest", "serve"]
