"""`kata-dind entrypoint`: the guest entrypoint, for an image or a pod of your own."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options import flag, option, require_word, takes_session
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError
from kata_dind.pod.model import Copy, Program
from kata_dind.vocabulary import DataRootKind, Filesystem

Kind = Annotated[
    str,
    option(
        "--kind",
        variable="ENTRYPOINT_KIND",
        metavar="|".join(DataRootKind),
        help_text="The kind of data root to print it for, without comments, as for a pod's manifest.",
        show_default="all kinds, with comments",
        autocompletion=completion.words(DataRootKind),
    ),
]

ForProgram = Annotated[
    str,
    option(
        "--program",
        variable="ENTRYPOINT_PROGRAM",
        metavar="|".join(Program),
        help_text="With a kind: the program that the data root is for.",
        show_default="dockerd",
        autocompletion=completion.words(Program),
    ),
]

OfFilesystem = Annotated[
    str,
    option(
        "--filesystem",
        variable="ENTRYPOINT_FILESYSTEM",
        metavar="|".join(Filesystem),
        help_text="With a kind that has a disk: the disk's file system.",
        show_default="ext4",
        autocompletion=completion.words(Filesystem),
    ),
]

WithFallback = Annotated[
    bool,
    flag(
        "--fallback",
        variable="ENTRYPOINT_FALLBACK",
        help_text="With a kind: let KATA_DIND_FALLBACK name a storage driver.",
    ),
]

WithContainerd = Annotated[
    bool,
    flag(
        "--containerd",
        variable="ENTRYPOINT_CONTAINERD",
        help_text="With a kind: prepare the root of a system containerd as well.",
    ),
]

WithMountsBelow = Annotated[
    bool,
    flag(
        "--mounts-below",
        variable="ENTRYPOINT_MOUNTS_BELOW",
        help_text="With a kind that has a disk: mount what the pod mounts on directories of the data root there again, "
        "on the disk.",
    ),
]


@takes_session
def entrypoint(
    session: Session,
    *,
    kind: Kind = "",
    program: ForProgram = "",
    filesystem: OfFilesystem = "",
    fallback: WithFallback = False,
    containerd: WithContainerd = False,
    mounts_below: WithMountsBelow = False,
) -> None:
    """Print the guest entrypoint, a shell script.

    You can use it alone, in a pod or an image of your own. For a kind it has only what that kind, program and file
    system need, and refuses the rest.
    """
    if not kind:
        from kata_dind.image.entrypoint import entrypoint_script

        if program or filesystem or fallback or containerd or mounts_below:
            raise SpecError("what an entrypoint is for is chosen together with --kind", id="spec.wrong-value")
        print(entrypoint_script(), end="")
        return
    from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods

    for name, value, words in (
        ("kind", kind, DataRootKind),
        ("program", program, Program),
        ("filesystem", filesystem, Filesystem),
    ):
        if value:
            require_word(f"--{name}", value, words)
    copy = Copy(
        kind=DataRootKind(kind),
        program=Program(program or Program.DOCKERD),
        filesystem=Filesystem(filesystem or Filesystem.EXT4),
        fallback=fallback,
        containerd=containerd,
        mounts_below=mounts_below,
    )
    print(entrypoint_for_pods(copy), end="")
