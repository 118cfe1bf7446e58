from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kata_dind.errors import VerdictFailed
from kata_dind.proof.round_trip import PROOF_IMAGE, describe_storage, native_diff, prove
from kata_dind.proof.verdict import Verdict
from kata_dind.vocabulary import Fallback
from tests.contract.fake_dockerd import FakeDockerd, Faults, serve_dockerd


@contextlib.contextmanager
def serve(tmp_path: Path, dockerd: FakeDockerd) -> Iterator[Path]:
    endpoint = tmp_path / "docker.sock"
    with serve_dockerd(dockerd, endpoint):
        yield endpoint


def failure_of(
    tmp_path: Path, dockerd: FakeDockerd, *, timeout_seconds: float = 5, fallback: Fallback = Fallback.NONE
) -> VerdictFailed:
    with serve(tmp_path, dockerd) as endpoint, pytest.raises(VerdictFailed) as caught:
        prove(endpoint, timeout_seconds=timeout_seconds, fallback=fallback)
    return caught.value


def test_a_healthy_daemon_passes_and_keeps_nothing(tmp_path: Path) -> None:
    dockerd = FakeDockerd()
    with serve(tmp_path, dockerd) as endpoint:
        verdict = prove(endpoint, timeout_seconds=5)
    assert verdict == Verdict("99.1", "overlay2 on extfs", True, verdict.seconds)
    assert 0 < verdict.seconds < 5
    assert (dockerd.images, dockerd.containers) == ({}, {})
    assert dockerd.calls[0] == "GET /info"


def test_the_proof_loads_a_whiteout_and_an_opaque_directory_over_files(tmp_path: Path) -> None:
    """The fake merges layers as a daemon does; without its whiteouts the proof must fail."""
    dockerd = FakeDockerd(Faults(keeps_whiteouts=True))
    error = failure_of(tmp_path, dockerd)
    assert error.summary == "the proof failed: the files of a container are not those of its image's layers"
    assert "d/removed" in error.details
    assert "o/below" in error.details
    assert (dockerd.images, dockerd.containers) == ({}, {})


@pytest.mark.parametrize(
    ("driver", "fallback", "why"),
    [
        ("vfs", Fallback.NONE, "copies every layer"),
        ("native", Fallback.NONE, "copies every layer"),
        ("fuse-overlayfs", Fallback.NONE, "serves every file through a program in user space"),
        ("fuse-overlayfs", Fallback.VFS, "serves every file through a program in user space"),
        ("vfs", Fallback.FUSE_OVERLAYFS, "copies every layer"),
    ],
)
def test_a_slow_driver_is_refused_before_anything_is_loaded(
    tmp_path: Path, driver: str, fallback: Fallback, why: str
) -> None:
    dockerd = FakeDockerd(Faults(driver=driver, driver_status=[]))
    error = failure_of(tmp_path, dockerd, fallback=fallback)
    assert error.summary == f"dockerd fell back to the storage driver {driver}, which {why}"
    assert error.hint == "choose another --data-root"
    assert "POST /images/load" not in dockerd.calls


@pytest.mark.parametrize(
    ("driver", "fallback"),
    [("vfs", Fallback.VFS), ("native", Fallback.VFS), ("fuse-overlayfs", Fallback.FUSE_OVERLAYFS)],
)
def test_a_slow_driver_passes_when_it_was_asked_for(tmp_path: Path, driver: str, fallback: Fallback) -> None:
    with serve(tmp_path, FakeDockerd(Faults(driver=driver, driver_status=[]))) as endpoint:
        assert prove(endpoint, timeout_seconds=5, fallback=fallback).storage == driver


def test_a_snapshotter_that_looks_healthy_and_cannot_load_fails(tmp_path: Path) -> None:
    dockerd = FakeDockerd(Faults(driver="overlayfs", load_error='failed to convert whiteout file "d/.wh.removed"'))
    assert failure_of(tmp_path, dockerd).summary == (
        'the proof failed at load: dockerd cannot load an image: failed to convert whiteout file "d/.wh.removed"'
    )


@pytest.mark.parametrize(
    ("called", "step"),
    [
        ("GET /info", "info"),
        ("POST /images/load", "load"),
        ("POST /containers/create", "create and export"),
        ("GET /containers/c3/export", "create and export"),
        ("DELETE /containers/c3", "create and export"),
    ],
)
def test_a_refusal_names_its_step_and_leaves_no_image(tmp_path: Path, called: str, step: str) -> None:
    dockerd = FakeDockerd(Faults(answers={called: (500, b'{"message":"operation not supported"}')}))
    error = failure_of(tmp_path, dockerd)
    assert error.summary == f"the proof failed at {step}: dockerd refused {called}: operation not supported"
    assert error.hint == "choose another --data-root"
    assert PROOF_IMAGE not in dockerd.images


# CAP_NET_BIND_SERVICE=ep, as `getfattr -n security.capability -e hex` shows it.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def exported(files: dict[str, bytes], *, capability: bytes = CAPABILITY) -> bytes:
    """Make an export whose program, if it has one, has a file capability."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "program" and capability:
                member.pax_headers = {"SCHILY.xattr.security.capability": capability.decode()}
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


RIGHT = {"d/hidden": b"lower", "kept": b"upper", "o/above": b"upper", "program": b"upper"}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**RIGHT, "d/removed": b"lower"},
        {**RIGHT, "o/below": b"lower"},
        {**RIGHT, "kept": b"lower"},
        {**RIGHT, "d/.wh.removed": b""},
        {name: content for name, content in RIGHT.items() if name != "d/hidden"},
    ],
    ids=["nothing", "no whiteout", "not opaque", "old content", "whiteout as a file", "too little"],
)
def test_a_container_with_other_content_fails(tmp_path: Path, files: dict[str, bytes]) -> None:
    dockerd = FakeDockerd(Faults(answers={"GET /containers/c3/export": (200, exported(files))}))
    error = failure_of(tmp_path, dockerd)
    assert error.id == "proof.files-differ"
    assert f"found    {files}" in error.details


@pytest.mark.parametrize(
    "capability", [b"", CAPABILITY[:-1], CAPABILITY.replace(b"\4", b"\5")], ids=["none", "cut", "another"]
)
def test_a_container_that_has_another_file_capability_fails(tmp_path: Path, capability: bytes) -> None:
    answer = exported(RIGHT, capability=capability)
    dockerd = FakeDockerd(Faults(answers={"GET /containers/c3/export": (200, answer)}))
    error = failure_of(tmp_path, dockerd)
    assert error.summary.startswith("the proof failed: the file capabilities in a container are not those of ")
    assert f"found    { ({'program': capability} if capability else {}) }" in error.details


def test_a_data_root_that_loses_file_capabilities_fails(tmp_path: Path) -> None:
    """Also where a fallback was asked for, since overlay is in use after all."""
    for fallback in Fallback:
        dockerd = FakeDockerd(Faults(loses_capabilities=True))
        error = failure_of(tmp_path, dockerd, fallback=fallback)
        assert error.id == "proof.capabilities-differ"
        assert (dockerd.images, dockerd.containers) == ({}, {})


@pytest.mark.parametrize(
    "faults",
    [
        Faults(driver="vfs", driver_status=[], refuses_capabilities=True),
        Faults(driver="native", driver_status=[], loses_capabilities=True),
    ],
    ids=["refuses", "loses"],
)
def test_a_fallback_may_lose_file_capabilities_and_nothing_else(tmp_path: Path, faults: Faults) -> None:
    dockerd = FakeDockerd(faults)
    with serve(tmp_path, dockerd) as endpoint:
        assert not prove(endpoint, timeout_seconds=5, fallback=Fallback.VFS).file_capabilities
    assert (dockerd.images, dockerd.containers) == ({}, {})
    worse = FakeDockerd(replace(faults, keeps_whiteouts=True))
    assert failure_of(tmp_path, worse, fallback=Fallback.VFS).id == "proof.files-differ"


def test_files_of_the_daemons_own_in_a_container_do_not_count(tmp_path: Path) -> None:
    answer = exported({**RIGHT, ".dockerenv": b"", "dev/console": b"", "etc/resolv.conf": b"nameserver"})
    with serve(tmp_path, FakeDockerd(Faults(answers={"GET /containers/c3/export": (200, answer)}))) as endpoint:
        prove(endpoint, timeout_seconds=5)


@pytest.mark.parametrize(
    "answer",
    [b"", b"no archive", exported(RIGHT)[:700], exported({"kept": b"x" * 5000})[:2000]],
    ids=["empty", "text", "cut in a header", "cut in a file"],
)
def test_an_export_that_is_not_an_archive_fails(tmp_path: Path, answer: bytes) -> None:
    dockerd = FakeDockerd(Faults(answers={"GET /containers/c3/export": (200, answer)}))
    assert failure_of(tmp_path, dockerd).summary.startswith("the proof failed")


@pytest.mark.parametrize("answer", [b"[]", b"no JSON"])
def test_an_info_that_makes_no_sense_fails(tmp_path: Path, answer: bytes) -> None:
    error = failure_of(tmp_path, FakeDockerd(Faults(answers={"GET /info": (200, answer)})))
    assert error.summary.startswith("the proof failed at info: dockerd's answer to GET /info is not a JSON object")


def test_an_info_that_tells_nothing_leaves_the_proof_to_the_round_trip(tmp_path: Path) -> None:
    with serve(tmp_path, FakeDockerd(Faults(answers={"GET /info": (200, b"{}")}))) as endpoint:
        verdict = prove(endpoint, timeout_seconds=5)
    assert (verdict.docker_version, verdict.storage, verdict.native_diff) == ("", "unknown", None)


def test_a_daemon_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    dockerd = FakeDockerd(Faults(silent_on=frozenset({"POST /images/load"})))
    error = failure_of(tmp_path, dockerd, timeout_seconds=0.3)
    assert error.summary == "the proof failed at load: dockerd does not answer POST /images/load: timed out"


def test_no_daemon_is_a_failed_proof_of_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(VerdictFailed, match="the proof failed at info: dockerd does not answer GET /info"):
        prove(tmp_path / "absent.sock", timeout_seconds=1)


@pytest.mark.parametrize(
    ("info", "storage", "diff"),
    [
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, "overlay2 on xfs", None),
        ({"Driver": "overlay2", "DriverStatus": [["Native Overlay Diff", "false"]]}, "overlay2", False),
        ({"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}, "overlayfs", None),
        ({"Driver": "btrfs", "DriverStatus": None}, "btrfs", None),
        ({"Driver": "zfs"}, "zfs", None),
    ],
)
def test_what_docker_tells_of_its_storage(info: dict[str, object], storage: str, diff: bool | None) -> None:
    assert describe_storage(info) == storage
    assert native_diff(info) is diff


def test_the_proof_image_is_small(tmp_path: Path) -> None:
    dockerd = FakeDockerd()
    sizes = []
    respond = dockerd.respond

    def measure(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        sizes.append(len(body))
        return respond(method, path, body)

    dockerd.respond = measure  # type: ignore[method-assign]  # the fake is ours
    with serve(tmp_path, dockerd) as endpoint:
        prove(endpoint, timeout_seconds=5)
    assert max(sizes) < 64 * 1024
