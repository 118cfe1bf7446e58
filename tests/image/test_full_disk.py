"""A full disk is reported as such, and nothing else is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.requires("mmdebstrap", "userns"), pytest.mark.timeout(600)]

_BUILD = """
import json, os, sys
from pathlib import Path
from kata_dind.errors import KataDindError
from kata_dind.progress import silent
from kata_dind.image.guestos import require_guest_os
from kata_dind.image.source import default_source
from kata_dind.image import workspace
if sys.argv[1] == "unchecked":
    workspace._require_space = lambda parent, goal: None
try:
    require_guest_os(default_source(), report=silent)
except KataDindError as error:
    cache = Path(os.environ["KATA_DIND_CACHE_DIR"])
    left = [str(path) for path in cache.rglob("*") if path.is_file() and path.stat().st_size]
    print(json.dumps([error.as_fields(), left]))
"""

# The file system is mounted in a mount namespace of the test's own, and ends with that.
_ON_A_SMALL_DISK = 'mount -t tmpfs -o "size=$1" small "$KATA_DIND_CACHE_DIR" && exec "$2" -c "$3" "$4"'


@pytest.mark.parametrize(
    ("size", "check", "why"),
    [("180m", "checked", "MiB left, and 384 MiB are needed"), ("180m", "unchecked", "is full")],
    ids=["before it begins", "while packages are installed"],
)
def test_a_full_cache_is_no_space_with_a_way_out(size: str, check: str, why: str, tmp_path: Path) -> None:
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto", "--mount"]
    argv = ["unshare", *namespaces, "sh", "-c", _ON_A_SMALL_DISK, "sh", size, sys.executable, _BUILD, check]
    environment = {**os.environ, "KATA_DIND_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    error, left = json.loads(done.stdout)
    assert error["error"] == "NoSpace"
    assert why in error["summary"]
    assert "KATA_DIND_CACHE_DIR" in error["hint"]
    assert left == []
