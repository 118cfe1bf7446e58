from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.handlers import Runtime, runtime_of
from kata_dind.pod.model import Backing, Outcome, Program
from kata_dind.pod.outcomes import outcome_of
from kata_dind.pod.policy import Policy, RuntimeClass

DOCKERD, BUILDKITD, CONTAINERD = Program.DOCKERD, Program.BUILDKITD, Program.CONTAINERD
DAGGER, EARTHLY = Program.DAGGER, Program.EARTHLY
WORKS, SLOW, FAILS, UNKNOWN = Outcome.WORKS, Outcome.SLOW, Outcome.FAILS, Outcome.UNKNOWN
SHARE, DISK, MEMORY = Backing.VIRTIOFS, Backing.DISK, Backing.MEMORY


def runtime(name: str = "kata-qemu", **fields: Any) -> Runtime:
    found = runtime_of(name, {}, Policy(runtime_classes=(RuntimeClass(match=name, **fields),)))
    assert found is not None
    return found


QEMU = runtime()

# Program, version, driver that the pod names; what becomes of it on a share, and a part of the sentence.
ON_A_SHARE = [
    (DOCKERD, (19, 3, 13), "", FAILS, "Docker 19.03 silently uses vfs, with which `docker run` fails"),
    (DOCKERD, (20, 10, 24), "", FAILS, "Docker 20.10 silently uses vfs, with which `docker run` fails: `operation not"),
    (DOCKERD, (20,), "", FAILS, "Docker 20 silently uses vfs, with which `docker run` fails"),
    (DOCKERD, (23,), "", SLOW, "Docker 23 silently uses vfs, which copies each layer"),
    (DOCKERD, (26, 1, 5), "", SLOW, "Docker 26 silently uses vfs"),
    (DOCKERD, (28, 5, 2), "", SLOW, "Docker 28 silently uses vfs"),
    (DOCKERD, (29,), "", FAILS, "Docker 29 starts, looks healthy, and fails at the first pull or run"),
    (DOCKERD, (30, 1), "", FAILS, "Docker 30 starts, looks healthy"),
    (DOCKERD, (), "", FAILS, "Docker 29 and later start, look healthy, and fail"),
    (DOCKERD, (), "", FAILS, "earlier ones silently use vfs, which copies"),
    (DOCKERD, (20, 10), "overlay2", FAILS, "exits with `error initializing graphdriver: driver not supported`"),
    (DOCKERD, (27,), "overlay2", FAILS, "Docker 27 is told to use overlay2, so it exits with"),
    (DOCKERD, (29,), "overlay2", FAILS, "exits with `error initializing graphdriver"),
    (DOCKERD, (27,), "btrfs", FAILS, "is told to use btrfs, so it exits"),
    (DOCKERD, (20, 10), "vfs", FAILS, "Docker 20.10 is told to use vfs, with which `docker run` fails"),
    (DOCKERD, (27,), "vfs", SLOW, "Docker 27 is told to use vfs, which copies each layer"),
    (DOCKERD, (29,), "vfs", SLOW, "Docker 29 is told to use vfs"),
    (DOCKERD, (), "vfs", SLOW, "; up to 20.10, `docker run` fails"),
    (DOCKERD, (29,), "native", SLOW, "told to use the snapshotter native"),
    (DOCKERD, (29,), "overlayfs", FAILS, "with the snapshotter overlayfs fails at the first pull"),
    (DOCKERD, (27,), "fuse-overlayfs", FAILS, "a Kata container has no /dev/fuse"),
    (BUILDKITD, (0, 12, 5), "", SLOW, "BuildKit 0.12 silently uses the snapshotter native"),
    (BUILDKITD, (), "auto", SLOW, "BuildKit silently uses the snapshotter native"),
    (BUILDKITD, (), "native", SLOW, "BuildKit is told to use the snapshotter native"),
    (BUILDKITD, (), "overlayfs", FAILS, "is told to use overlayfs, so it fails at the first build"),
    (DAGGER, (0, 18, 2), "", SLOW, "Dagger's engine 0.18 silently uses the snapshotter native"),
    (EARTHLY, (), "", SLOW, "Earthly's buildkitd silently uses the snapshotter native"),
    (CONTAINERD, (2, 1), "", FAILS, "containerd 2.1 starts, looks healthy, and fails at the first pull or run"),
    (CONTAINERD, (), "native", SLOW, "told to use the snapshotter native"),
]


@pytest.mark.parametrize(("program", "version", "driver", "outcome", "sentence"), ON_A_SHARE)
def test_on_a_share(program: Program, version: tuple[int, ...], driver: str, outcome: Outcome, sentence: str) -> None:
    answer = outcome_of(program, version, SHARE, QEMU, driver=driver)
    assert answer[0] is outcome
    assert sentence in answer[1]


@pytest.mark.parametrize(("program", "version", "driver", "outcome", "sentence"), ON_A_SHARE)
def test_the_nodes_directories_and_the_sandboxs_root_are_shares_too(
    program: Program, version: tuple[int, ...], driver: str, outcome: Outcome, sentence: str
) -> None:
    host = outcome_of(program, version, Backing.HOST, QEMU, driver=driver)
    assert host == (outcome, host[1])
    assert host[1].endswith("; and a second daemon on the same directory would destroy the data of both")
    root = outcome_of(program, version, Backing.GUEST_ROOT, QEMU, driver=driver)
    assert root == (outcome, "unless the snapshotter is devmapper, " + root[1].partition(", ")[2])


@pytest.mark.parametrize("backing", [DISK, MEMORY])
@pytest.mark.parametrize(
    ("program", "version", "driver", "outcome", "sentence"),
    [
        (DOCKERD, (20, 10), "", WORKS, "overlay works there, so Docker 20.10 does"),
        (DOCKERD, (29,), "", WORKS, "overlay works there, so Docker 29 does"),
        (DOCKERD, (), "overlay2", WORKS, "overlay works there, so Docker does"),
        (DOCKERD, (29,), "overlayfs", WORKS, "Docker 29"),
        (BUILDKITD, (), "", WORKS, "so BuildKit does"),
        (CONTAINERD, (), "", WORKS, "so containerd does"),
        (DOCKERD, (27,), "vfs", SLOW, "overlay works there, but Docker 27 is told to use vfs, which copies"),
        (DOCKERD, (29,), "native", SLOW, "told to use native"),
        (BUILDKITD, (), "native", SLOW, "BuildKit is told to use native"),
        (DOCKERD, (27,), "fuse-overlayfs", FAILS, "no /dev/fuse"),
        (DOCKERD, (27,), "btrfs", FAILS, "Docker 27 exits, since the driver btrfs needs a file system of that kind"),
        (DOCKERD, (25,), "devicemapper", FAILS, "Docker 25 and later exit"),
        (DOCKERD, (), "aufs", FAILS, "Docker 24 and later exit, since they have the driver aufs no more"),
        (DOCKERD, (23,), "overlay", WORKS, "Docker 23"),
    ],
)
def test_on_a_disk_or_in_memory(
    backing: Backing, program: Program, version: tuple[int, ...], driver: str, outcome: Outcome, sentence: str
) -> None:
    answer = outcome_of(program, version, backing, QEMU, driver=driver)
    assert answer[0] is outcome
    assert sentence in answer[1]


def test_memory_is_said_to_be_taken_from_the_guest() -> None:
    assert outcome_of(DOCKERD, (27,), MEMORY, QEMU)[1].endswith("and all that it stores takes memory of the guest")


@pytest.mark.parametrize(("version", "is_said"), [("", False), ("3.17.0", True), ("3.18.0", False), ("4.1.0", False)])
def test_a_tmpfs_without_extended_attributes_is_said(version: str, is_said: bool) -> None:
    for rootless in (False, True):
        outcome, sentence = outcome_of(DOCKERD, (27,), MEMORY, runtime(version=version), rootless=rootless)
        assert outcome is WORKS
        assert ("images with file capabilities fail" in sentence) is is_said
        assert ("rootless ones may fail" in sentence) is (is_said and rootless)


@pytest.mark.parametrize(("version", "outcome"), [("2.5.2", UNKNOWN), ("3.0.0", WORKS), ("4.1.0", WORKS), ("", WORKS)])
def test_overlay_without_root_needs_a_kernel_of_kata_3(version: str, outcome: Outcome) -> None:
    for backing in (DISK, MEMORY):
        assert outcome_of(DOCKERD, (27,), backing, runtime(version=version), rootless=True)[0] is outcome
        assert outcome_of(DOCKERD, (27,), backing, runtime(version=version))[0] is WORKS


@pytest.mark.parametrize(("version", "outcome"), [((27,), SLOW), ((29,), FAILS)])
def test_rootless_docker_on_a_share_fares_no_better(version: tuple[int, ...], outcome: Outcome) -> None:
    assert outcome_of(DOCKERD, version, SHARE, QEMU, rootless=True)[0] is outcome
    assert outcome_of(DOCKERD, version, SHARE, runtime("kata-dragonball"), rootless=True)[0] is UNKNOWN
    assert outcome_of(DOCKERD, version, SHARE, runtime("kata-dragonball"))[0] is outcome


@pytest.mark.parametrize("backing", [SHARE, Backing.HOST])
def test_a_fit_virtiofsd_makes_a_share_work(backing: Backing) -> None:
    fit = runtime(virtiofs_fit=True)
    for version in ((), (20, 10), (29,)):
        outcome, sentence = outcome_of(DOCKERD, version, backing, fit)
        assert outcome is WORKS
        assert "kata#5818" in sentence
    assert outcome_of(DOCKERD, (27,), backing, fit, driver="vfs")[0] is SLOW
    assert outcome_of(BUILDKITD, (), backing, fit)[0] is WORKS


@pytest.mark.parametrize(
    ("backing", "outcome", "sentence"),
    [
        (Backing.RAW, FAILS, "Docker 27 needs a directory, so the device has to be formatted and mounted first"),
        (Backing.UNFIT, FAILS, "Docker 27 can't keep its data there"),
        (Backing.UNKNOWN, UNKNOWN, "what Docker 27 does there is not known"),
    ],
)
def test_what_is_no_file_system(backing: Backing, outcome: Outcome, sentence: str) -> None:
    assert outcome_of(DOCKERD, (27, 5, 1), backing, QEMU) == (outcome, sentence)


@given(
    st.sampled_from(Program),
    st.lists(st.integers(0, 99), max_size=3).map(tuple),
    st.sampled_from(Backing),
    st.sampled_from([None, QEMU, runtime("kata-dragonball"), runtime(version="3.1", virtiofs_fit=True)]),
    st.booleans(),
    st.sampled_from(["", "vfs", "overlay2", "overlay", "auto"]) | st.text(max_size=200),
)
def test_there_is_a_sentence_for_all(
    program: Program,
    version: tuple[int, ...],
    backing: Backing,
    found: Runtime | None,
    rootless: bool,
    driver: str,
) -> None:
    outcome, sentence = outcome_of(program, version, backing, found, rootless=rootless, driver=driver)
    assert isinstance(outcome, Outcome)
    assert sentence.isprintable()
    assert not sentence.endswith(".")
    assert len(sentence) < 500
