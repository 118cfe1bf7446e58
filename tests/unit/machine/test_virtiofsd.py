from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import pytest

from kata_dind.host.locks import is_locked, locked
from kata_dind.host.namespaces import find_unshare, private_mounts_argv
from kata_dind.host.process import run
from kata_dind.machine.virtiofsd import Bind, Virtiofsd, binding_argv, start_virtiofsd, virtiofsd_argv

SHARED = Path("/state/demo/shared")


def test_the_argv_of_the_rust_virtiofsd() -> None:
    virtiofsd = Virtiofsd(Path("/usr/libexec/virtiofsd"), is_rust=True)
    assert virtiofsd_argv(virtiofsd, directory=SHARED, socket_fd=8, xattr=False) == [
        "/usr/libexec/virtiofsd",
        "--fd=8",
        "--shared-dir=/state/demo/shared",
        "--cache=auto",
        "--announce-submounts",
        "--sandbox=chroot",
        "--inode-file-handles=never",
    ]


def test_the_argv_of_qemus_old_virtiofsd() -> None:
    virtiofsd = Virtiofsd(Path("/usr/lib/qemu/virtiofsd"), is_rust=False)
    assert virtiofsd_argv(virtiofsd, directory=SHARED, socket_fd=8, xattr=False) == [
        "/usr/lib/qemu/virtiofsd",
        "--fd=8",
        "-o", "source=/state/demo/shared",
        "-o", "cache=auto",
        "-o", "announce_submounts",
        "-o", "sandbox=chroot",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("is_rust", "more"),
    [(True, ["--xattr", "--modcaps=+sys_admin"]), (False, ["-o", "xattr", "-o", "modcaps=+sys_admin"])],
)
def test_extended_attributes_come_with_the_capability_for_those_of_the_kernel(is_rust: bool, more: list[str]) -> None:
    virtiofsd = Virtiofsd(Path("/usr/libexec/virtiofsd"), is_rust=is_rust)
    without = virtiofsd_argv(virtiofsd, directory=SHARED, socket_fd=8, xattr=False)
    assert virtiofsd_argv(virtiofsd, directory=SHARED, socket_fd=8, xattr=True) == [*without, *more]


def test_a_comma_in_a_path_does_not_end_the_old_virtiofsds_option() -> None:
    virtiofsd = Virtiofsd(Path("/usr/lib/qemu/virtiofsd"), is_rust=False)
    argv = virtiofsd_argv(virtiofsd, directory=Path("/a,b\\c"), socket_fd=8, xattr=False)
    assert argv[3] == "source=/a\\,b\\\\c"


def test_shares_are_bound_by_words_not_by_script() -> None:
    binds = [Bind("share-0", Path("/src; reboot"), read_only=True), Bind("data-root", Path("/d"), read_only=False)]
    argv = binding_argv(["virtiofsd", "--fd=8"], SHARED, binds)
    assert argv[:2] == ["sh", "-c"]
    assert "reboot" not in argv[2]
    assert argv[3:] == [
        "/state/demo/shared",
        "share-0", "/src; reboot", "ro",
        "data-root", "/d", "rw",
        "--", "virtiofsd", "--fd=8",
    ]  # fmt: skip


@pytest.mark.requires("root")
def test_what_is_bound_is_there_and_read_only_where_asked(tmp_path: Path) -> None:
    """For real, in a mount namespace, with a shell in the daemon's place."""
    shared, writable, readable = (tmp_path / name for name in ("shared", "it's mine", "$(touch oops)"))
    for directory in (shared, writable, readable):
        directory.mkdir()
    (readable / "kept").write_text("kept")
    single = tmp_path / "single"
    single.write_text("one file")
    script = f"""
    cd {shlex.quote(str(shared))}
    cat share-1/kept share-2
    touch share-0/made
    touch share-1/made 2>/dev/null || echo refused
    """
    binds = [Bind("share-0", writable, False), Bind("share-1", readable, True), Bind("share-2", single, True)]
    argv = binding_argv(["sh", "-c", script], shared, binds)
    printed = run(private_mounts_argv(argv, unshare=find_unshare(), as_root=True), timeout_seconds=10).stdout
    assert printed == "keptone filerefused\n"
    assert [path.name for path in writable.iterdir()] == ["made"]
    assert [path.name for path in readable.iterdir()] == ["kept"]
    assert [*(shared / "share-0").iterdir()] == [], "the mounts have not ended with their namespace"


@pytest.mark.requires("root")
def test_no_daemon_runs_without_a_share_that_cannot_be_bound(tmp_path: Path) -> None:
    argv = binding_argv(["echo", "started"], tmp_path / "shared", [Bind("share-0", tmp_path / "absent", False)])
    wrapped = private_mounts_argv(argv, unshare=find_unshare(), as_root=True)
    (tmp_path / "shared").mkdir()
    script = '"$@" 2>/dev/null && echo "went on" || echo "stopped"'
    assert run(["sh", "-c", script, "sh", *wrapped], timeout_seconds=10).stdout == "stopped\n"


@pytest.mark.requires("root", "virtiofsd")
def test_it_holds_the_locks_that_it_inherits(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with contextlib.ExitStack() as stack:
        with locked(lock, timeout_seconds=0) as descriptor:
            stack.enter_context(
                start_virtiofsd(tmp_path / "shared", [], socket_path=tmp_path / "v.sock", log=tmp_path / "log",
                                unshare=find_unshare(), as_root=True, pass_fds=[descriptor])
            )  # fmt: skip
        assert is_locked(lock)
    assert not is_locked(lock)
