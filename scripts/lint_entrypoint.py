#!/usr/bin/env python3
"""Check the guest entrypoint as it is shipped, for dash and for busybox; a finding names the part and its line."""

from __future__ import annotations

import json
import sys
import tempfile

from kata_dind.host.process import run
from kata_dind.image.entrypoint import WHOLE, entrypoint_script, part_file, read_parts
from kata_dind.image.shelltext import lines_for


def main() -> int:
    script, places = entrypoint_script(), places_of()
    findings = [finding for shell in ("dash", "busybox") for finding in findings_in(script, shell=shell)]
    for line, text in findings:
        print(f"{places[line - 1]}: {text}")
    return 1 if findings else 0


def places_of() -> list[str]:
    """Return where each line of the script comes from; a blank line between two parts belongs to the first."""
    return [
        f"src/kata_dind/guest/entrypoint/{name}.sh:{number + 1}"
        for name in read_parts()
        for number in _lines_of(part_file(name).read_text(encoding="utf-8"))
    ]


def _lines_of(text: str) -> list[int]:
    return [*lines_for(WHOLE, text), text.count("\n")]


def findings_in(script: str, *, shell: str) -> list[tuple[int, str]]:
    """Return the line and the text of each finding."""
    with tempfile.TemporaryFile() as file:
        file.write(script.encode())
        file.seek(0)
        argv = ["shellcheck", f"--shell={shell}", "--enable=check-set-e-suppressed", "--format=json1", "-"]
        done = run(argv, timeout_seconds=60, stdin=file, allowed_codes=(0, 1))
    comments = json.loads(done.stdout)["comments"]
    assert bool(comments) == bool(done.code), done
    return [(found["line"], f"SC{found['code']} ({shell}) {found['message']}") for found in comments]


if __name__ == "__main__":
    sys.exit(main())
