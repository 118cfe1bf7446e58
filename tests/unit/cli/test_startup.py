from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

_LOADED = """
import json, sys
from kata_dind.__main__ import main
sys.argv = ["kata-dind", *sys.argv[1:]]
code = main()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        [],
        ["up", "--help"],
        ["ls"],
        ["fix", "--help"],
        ["render", "--help"],
        ["policy", "--help"],
        ["webhook", "serve", "--help"],
    ],
)
def test_quick_commands_load_no_heavy_module(argv: list[str], home: Path) -> None:
    done = run([sys.executable, "-c", _LOADED, *argv], capture_output=True, check=True, text=True)
    code, loaded = json.loads(done.stderr)
    assert code == 0
    assert not {
        "pydantic",
        "asyncio",
        "qemu",
        "docker",
        "rich",
        "yaml",
        "httptools",
        "orjson",
        "prometheus_client",
        "uvloop",
    } & set(loaded)
