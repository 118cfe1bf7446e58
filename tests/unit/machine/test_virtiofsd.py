from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind.errors import HostError
from kata_dind.host.locks import is_locked, locked
from kata_dind.host.namespaces import find_unshare, private_mounts_argv
from kata_dind.host.process import daemon, run
from kata_dind.machine.virtiofsd import (
    Bind,
    Virtiofsd,
    bind_later,
    binding_argv,
    remove_place,
    start_virtiofsd,
    virtiofsd_argv,
)
from tests.users import OrdinaryUser

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


BIND_LATER = """
import sys, tempfile
from pathlib import Path
from kata_dind.errors import HostError
from kata_dind.host.namespaces import find_unshare, in_mounts_argv, private_mounts_argv
from kata_dind.host.process import daemon, run
from kata_dind.machine.virtiofsd import Bind, bind_later, binding_argv, unbind

as_root = sys.argv[1] == "root"
with tempfile.TemporaryDirectory() as name:
    home = Path(name)
    root, first, later, note = (home / name for name in ("root", "first", "later", "note"))
    for directory in (root, first, later):
        directory.mkdir()
    (later / "file").write_text("of the host")
    note.write_text("a note")
    argv = binding_argv(["sh", "-c", "echo ready; exec sleep 60"], root, [Bind("share-0", first, read_only=False)])
    wrapped = private_mounts_argv(argv, unshare=find_unshare(), as_root=as_root)
    with daemon(wrapped, name="sleep", log=home / "log") as process:
        while not (home / "log").read_text():
            assert not process.ended(), (home / "log").read_text()
        bind_later(process, root, Bind("share-1", later, read_only=False), as_root=as_root)
        bind_later(process, root, Bind("share-2", note, read_only=True), as_root=as_root)
        script = 'cat "$0/share-1/file" "$0/share-2"; echo x >"$0/share-1/written"; echo x >"$0/share-2"; :'
        inside = in_mounts_argv(["sh", "-c", script, str(root)], pid=process.pid, as_root=as_root)
        seen = run(inside, timeout_seconds=10)
        print(seen.stdout, "Read-only" in seen.stderr, (later / "written").read_text().strip(), note.read_text())
        unbind(process, root, "share-1", as_root=as_root)
        unbind(process, root, "share-2", as_root=as_root)
        print(sorted(path.name for path in root.iterdir()), (later / "file").exists())
"""

BOUND = "of the hosta note True x a note\n['share-0'] True\n"


@pytest.mark.requires("root")
def test_a_share_is_bound_later_as_root(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BIND_LATER, "root"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (BOUND, "")


@pytest.mark.requires("ordinary-user")
def test_a_share_is_bound_later_as_an_ordinary_user(ordinary_user: OrdinaryUser) -> None:
    assert ordinary_user.run(BIND_LATER, "user") == BOUND


@pytest.mark.requires("root")
def test_a_file_system_that_was_mounted_meanwhile_is_told(tmp_path: Path) -> None:
    root, later = tmp_path / "root", tmp_path / "later"
    root.mkdir()
    later.mkdir()
    argv = private_mounts_argv(["sh", "-c", "echo ready; exec sleep 60"], unshare=find_unshare(), as_root=True)
    with daemon(argv, name="sleep", log=tmp_path / "log") as process:
        while not (tmp_path / "log").read_text():
            assert not process.ended()
        run(["mount", "-t", "tmpfs", "later", str(later)], timeout_seconds=10)
        try:
            with pytest.raises(HostError, match="was mounted on this host after"):
                bind_later(process, root, Bind("share-1", later, read_only=False), as_root=True)
        finally:
            run(["umount", str(later)], timeout_seconds=10)
    assert [*root.iterdir()] == []


def test_the_places_of_an_earlier_start_are_removed_if_they_are_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "nothing").touch()
    (tmp_path / "something").write_text("x")
    for place in [*tmp_path.iterdir()]:
        remove_place(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "something"]
