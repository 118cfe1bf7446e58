"""The guest entrypoint for a pod: what it leaves out changes nothing, and what it says of itself is true."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
from typing import Any

import pytest

from kata_dind.image.entrypoint import INTERFACE, WHOLE, WORDS, assemble, read_parts
from kata_dind.image.entrypoint_for_pods import (
    MOST_BYTES,
    MOST_BYTES_WITH_AN_OPTION,
    entrypoint_for_pods,
    words_of,
)
from kata_dind.image.shelltext import without_comments
from kata_dind.pod.model import Copy, Program
from kata_dind.version import __version__
from kata_dind.vocabulary import DataRootKind, Filesystem

COPIES = [
    *(Copy(kind) for kind in DataRootKind),
    *(Copy(kind, filesystem=Filesystem.XFS) for kind in (DataRootKind.LOOP, DataRootKind.BLOCK)),
    *(Copy(DataRootKind.LOOP, program) for program in Program if program is not Program.DOCKERD),
    *(Copy(kind, fallback=True, containerd=True, mounts_below=True) for kind in DataRootKind),
]

_FOR_COPIES = {
    "copy",
    *(
        f"no-{name}"
        for name in ("auto", "loop", "block", "size", "rootless", "containerd", "fallback", "choice", "other-programs")
    ),
}


def named(copy: Copy) -> str:
    return "-".join(str(value) for value in dataclasses.astuple(copy))


def functions_of(script: str) -> set[str]:
    return set(re.findall(r"^(\w+)\(\) \{", script, re.MULTILINE))


@pytest.mark.parametrize("copy", COPIES, ids=named)
def test_its_lines_are_those_of_the_whole_in_their_order(copy: Copy) -> None:
    everything = read_parts(WHOLE | _FOR_COPIES)
    whole = iter(without_comments(assemble(everything, WORDS | words_of(copy))).splitlines())
    for line in entrypoint_for_pods(copy).splitlines()[2:]:
        assert line in whole, line


@pytest.mark.parametrize("copy", COPIES, ids=named)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_it_is_a_whole_program(copy: Copy, shell: str) -> None:
    subprocess.run([shell, "-n"], input=entrypoint_for_pods(copy).encode(), check=True)


@pytest.mark.parametrize("copy", COPIES, ids=named)
def test_it_calls_no_function_that_it_lacks(copy: Copy) -> None:
    """As the first word of a command; a name with a variable in it is left to the tests that run the copies."""
    script = entrypoint_for_pods(copy)
    everything = functions_of("\n".join(read_parts(WHOLE | _FOR_COPIES).values()))
    called = set(re.findall(r"(?:^|[;&|{(!]|\bthen|\belse|\bdo)\s*([a-z_0-9]+)(?=[ ;\n])", script, re.MULTILINE))
    assert called & everything <= functions_of(script)


@pytest.mark.parametrize("copy", COPIES, ids=named)
def test_its_second_line_tells_what_it_is(copy: Copy) -> None:
    shebang, head, body = entrypoint_for_pods(copy).split("\n", 2)
    assert shebang == "#!/bin/sh"
    digest = hashlib.sha256(body.encode("ascii")).hexdigest()
    begin = (
        f"# kata-dind {__version__} guest entrypoint, interface {INTERFACE}, kind {copy.kind}, program {copy.program}"
    )
    assert head.startswith(begin)
    assert head.endswith(f", sha256 {digest}")
    assert ("filesystem xfs" in head) == (copy.filesystem is Filesystem.XFS)
    assert ("fallback" in head, "containerd" in head.replace("program containerd", "")) == (
        copy.fallback,
        copy.containerd,
    )


@pytest.mark.parametrize("copy", COPIES, ids=named)
def test_a_pipeline_of_buildkites_can_carry_it(copy: Copy) -> None:
    r"""There `$$` and `\$` are both a dollar, so that a backslash before one can't be written."""
    assert r"\$" not in entrypoint_for_pods(copy)


@pytest.mark.parametrize("kind", DataRootKind)
def test_it_is_as_small_as_is_said(kind: DataRootKind) -> None:
    script = entrypoint_for_pods(Copy(kind))
    assert MOST_BYTES[kind] - 1024 < len(script.encode()) <= MOST_BYTES[kind]
    assert not [line for line in script.splitlines()[2:] if line.lstrip().startswith("#") or not line.strip()]


@pytest.mark.parametrize("option", ["fallback", "containerd", "mounts_below"])
@pytest.mark.parametrize("kind", [kind for kind in DataRootKind if kind is not DataRootKind.AUTO])
def test_it_is_small_with_one_option_as_well(kind: DataRootKind, option: str) -> None:
    options: dict[str, Any] = {option: True}
    script = entrypoint_for_pods(Copy(kind, **options))
    assert len(script.encode()) <= MOST_BYTES_WITH_AN_OPTION


@pytest.mark.parametrize(
    ("copy", "lacks"),
    [
        (
            Copy(DataRootKind.LOOP),
            {"prepare_block", "prepare_memory", "choose", "read_toml", "grow_xfs", "fall_back"},
        ),
        (Copy(DataRootKind.LOOP, filesystem=Filesystem.XFS), {"run_e2fsck", "protect_ext4", "read_guard"}),
        (Copy(DataRootKind.LOOP, Program.BUILDKITD), {"read_config", "start_containerd", "read_command"}),
        (Copy(DataRootKind.BLOCK), {"prepare_loop", "take_turn", "keep_turn", "verify_without_root"}),
        (Copy(DataRootKind.MEMORY), {"prepare_loop", "prepare_block", "make_file_system", "measure_ext4"}),
    ],
    ids=lambda value: named(value) if isinstance(value, Copy) else "",
)
def test_it_lacks_what_it_does_not_need(copy: Copy, lacks: set[str]) -> None:
    functions = functions_of(entrypoint_for_pods(copy))
    assert not functions & lacks
    assert lacks <= functions_of("\n".join(read_parts().values()))
