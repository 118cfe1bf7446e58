"""Seeds without machines: their files are real, and have a few bytes each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kata_dind.store.marks import mark_files
from kata_dind.store.seeds import Seed, new_seed_directory, publish_seed

MakeSeed = Callable[..., Seed]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def make_seed() -> MakeSeed:
    """Make a seed: `make_seed("web", memory=b"…")`."""

    def make(seed_id: str = "web", memory: bytes = b"memory", **facts: Any) -> Seed:
        with new_seed_directory() as directory:
            (directory / "memory").write_bytes(memory)
            with (directory / "layer.img").open("wb") as file:
                os.truncate(file.fileno(), 1 << 20)
                os.pwrite(file.fileno(), b"layer", 1 << 19)
            (directory / "layer.qcow2").write_bytes(b"child")
            files = mark_files(directory, ["memory", "layer.img", "layer.qcow2"])
            return publish_seed(directory, seed_id, {"plan": {}, "files": files, "children": ["layer.qcow2"], **facts})

    return make
