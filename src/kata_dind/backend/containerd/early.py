"""All that a start needs, imported: by a process that has nothing else to do yet."""

from __future__ import annotations

import contextlib

import kata_dind.backend.containerd.start  # noqa: F401
from kata_dind.backend.containerd.client import get_ready
from kata_dind.errors import ToolMissing

with contextlib.suppress(ToolMissing):  # which the command says
    get_ready()
