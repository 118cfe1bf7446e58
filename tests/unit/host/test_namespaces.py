from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kata_dind.errors import PermissionMissing
from kata_dind.host.namespaces import (
    find_unshare,
    private_mounts_argv,
    private_network_argv,
    require_network_namespaces,
)
from kata_dind.host.process import run

UNSHARE = Path("/usr/bin/unshare")
AS_ROOT = os.geteuid() == 0


def test_root_needs_no_user_namespace_for_a_network_of_its_own() -> None:
    assert private_network_argv(["qemu", "-x"], unshare=UNSHARE, as_root=True) == [
        "/usr/bin/unshare",
        "--net",
        "--",
        "qemu",
        "-x",
    ]


def test_an_ordinary_user_gets_a_network_through_a_user_namespace() -> None:
    assert private_network_argv(["qemu"], unshare=UNSHARE, as_root=False) == [
        "/usr/bin/unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--",
        "qemu",
    ]


def test_mounts_end_with_their_namespace() -> None:
    assert private_mounts_argv(["sh", "-c", "true"], unshare=UNSHARE, as_root=True) == [
        "/usr/bin/unshare",
        "--mount",
        "--propagation",
        "private",
        "--",
        "sh",
        "-c",
        "true",
    ]


def test_an_ordinary_user_gets_mounts_with_the_subordinate_ids() -> None:
    assert private_mounts_argv(["virtiofsd"], unshare=UNSHARE, as_root=False) == [
        "/usr/bin/unshare",
        "--user",
        "--map-root-user",
        "--map-auto",
        "--mount",
        "--propagation",
        "private",
        "--",
        "virtiofsd",
    ]


def test_a_copy_of_unshare_beside_the_interpreter_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_unshare().name == "unshare"
    copy = tmp_path / "kata-dind-unshare"
    copy.touch()
    assert find_unshare() == copy


@pytest.mark.requires("netns")
def test_network_namespaces_that_can_be_made_are_made_once_without_a_complaint(tmp_path: Path) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text(f'#!/bin/sh\necho >>{tmp_path}/tried\nexec {find_unshare()} "$@"\n')
    unshare.chmod(0o755)
    for _ in range(2):
        require_network_namespaces(unshare, as_root=AS_ROOT, cache=tmp_path)
    assert len((tmp_path / "tried").read_text().splitlines()) == 1


def test_network_namespaces_that_cannot_be_made_are_told_with_the_way_out(tmp_path: Path) -> None:
    refuses = tmp_path / "unshare"
    refuses.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refuses.chmod(0o755)
    for _ in range(2):  # for that may be mended
        with pytest.raises(PermissionMissing) as caught:
            require_network_namespaces(refuses, as_root=False, cache=tmp_path)
    assert "Operation not permitted" in caught.value.details
    assert "kata-dind setup" in caught.value.hint


@pytest.mark.requires("netns")
def test_the_program_keeps_its_process_id_and_finds_no_network() -> None:
    inside = private_network_argv(["sh", "-c", "echo $$; ip -o link"], unshare=find_unshare(), as_root=AS_ROOT)
    first, second, *links = run(
        ["sh", "-c", 'echo $$; exec "$@"', "sh", *inside], timeout_seconds=5
    ).stdout.splitlines()
    assert first == second
    assert [link.split()[1] for link in links] == ["lo:"]
