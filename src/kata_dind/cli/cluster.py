"""`kata-dind cluster`: the verbs, of which each has a file of its own."""

from __future__ import annotations

from kata_dind.cli.cluster_check import check
from kata_dind.cli.cluster_plan import plan

__all__ = ["check", "plan"]
