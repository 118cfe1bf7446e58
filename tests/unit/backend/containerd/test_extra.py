"""Without the extra, the backend says how to get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kata_dind.backend.containerd.client import Containerd
from kata_dind.errors import ToolMissing


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ToolMissing, match="the Python package grpcio is not installed") as caught:
        Containerd(Path("/run/containerd/containerd.sock"))
    assert caught.value.hint == "pipx install --force 'kata-dind[containerd]'"
