"""`kata-dind fix` on large input: a thousand documents in seconds, and memory that does not grow with the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.manifests import deployment

_PROGRAM = """
import resource, sys
from kata_dind.__main__ import main
sys.argv[0] = "kata-dind"
code = main()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""


def measured(file: Path, output: str) -> tuple[int, float]:
    """Return the most memory in KiB, and the processor time in seconds, of one run."""
    argv = [sys.executable, "-c", _PROGRAM, "fix", "--quiet", "-o", output, str(file)]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    kib, seconds = done.stderr.split()
    return int(kib), float(seconds)


@pytest.mark.parametrize("output", ["yaml", "diff", "json"])
def test_memory_does_not_grow_with_the_file_and_a_thousand_documents_take_seconds(home: Path, output: str) -> None:
    small, large = home / "small.yaml", home / "large.yaml"
    small.write_text("---\n".join(map(deployment, range(50))))
    large.write_text("---\n".join(map(deployment, range(1000))))
    few_kib, _ = measured(small, output)
    many_kib, seconds = measured(large, output)
    assert many_kib < few_kib + 8 * 1024, "0.3 MiB, when measured"
    # Processor time, since other tests may run beside this one; 1.4 s when measured.
    assert seconds < 5
