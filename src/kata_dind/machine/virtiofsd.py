"""File sharing: one virtiofsd per sandbox, serving a directory in which every share is a submount, as Kata does it.

The shares are bound into the sandbox's shared directory in a mount namespace that only virtiofsd lives in, so nothing
stays mounted when it ends. We bind and listen, and the daemon inherits the descriptor, so QEMU may connect at once.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kata_dind.errors import CommandFailed, HostError, ToolMissing
from kata_dind.host.namespaces import in_mounts_argv, private_mounts_argv
from kata_dind.host.process import Daemon, daemon, find_tool, run

_SYSTEM_PATHS = (Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd"), Path("/opt/kata/libexec/virtiofsd"))

# $0 is the shared directory; then three words a share: name, host path, ro or rw; then `--` and the daemon.
_BIND_AND_EXEC = """
set -e
# The shared directory itself is read-only: a guest finds the shares in it, and can't leave anything beside them.
targets() {
	while [ "$1" != -- ]; do
		if [ -d "$2" ]; then mkdir -p "$root/$1"; else : >>"$root/$1"; fi
		shift 3
	done
}
root=$0
targets "$@"
mount --bind -- "$root" "$root"
mount -o remount,bind,ro -- "$root"
while [ "$1" != -- ]; do
	target=$root/$1
	mount --bind -- "$2" "$target"
	[ "$3" != ro ] || mount -o remount,bind,ro -- "$target"
	shift 3
done
shift
exec "$@"
"""


# $1 and $2 are the place of the new share and its host path, $3 is ro or rw. The last line tells what was bound.
_BIND_LATER = """
set -e
mount --bind -- "$2" "$1"
[ "$3" != ro ] || mount -o remount,bind,ro -- "$1"
stat -L -c %d:%i -- "$1"
"""

_BIND_SECONDS = 10.0


class Bind(NamedTuple):
    """One share as virtiofsd sees it; `name` is its place below the shared directory."""

    name: str
    host_path: Path
    read_only: bool


class Virtiofsd(NamedTuple):
    """The daemon that this host has; the Rust one and QEMU's old C one take different options."""

    program: Path
    is_rust: bool


def find_virtiofsd() -> Virtiofsd | None:
    """Find virtiofsd where the distributions and Kata put it."""
    candidates = [*_SYSTEM_PATHS, *filter(None, [find_tool("virtiofsd")])]
    program = next((path for path in candidates if path.exists()), None)
    if program is None:
        return None
    return Virtiofsd(program, is_rust=_is_rust(program))


def _is_rust(program: Path) -> bool:
    try:
        version = run([program, "--version"], timeout_seconds=10)
    except CommandFailed:
        return False  # the C daemon first drops its groups, which an ordinary user may not do
    return "FUSE" not in version.stdout + version.stderr


def require_virtiofsd() -> Virtiofsd:
    """Return this host's virtiofsd, or raise ToolMissing."""
    found = find_virtiofsd()
    if found is None:
        raise ToolMissing(
            "virtiofsd is not installed; shares and the kinds loop and virtiofs need it",
            id="host.tool-missing",
            hint="sudo apt-get install virtiofsd",
        )
    return found


def virtiofsd_argv(virtiofsd: Virtiofsd, *, directory: Path, socket_fd: int, xattr: bool) -> list[str]:
    """Compute the daemon's arguments: Kata's defaults, and submounts announced.

    With `xattr` it passes extended attributes on, and keeps CAP_SYS_ADMIN, without which the kernel refuses it those of
    `trusted.*`.
    """
    if virtiofsd.is_rust:
        return [
            str(virtiofsd.program), f"--fd={socket_fd}", f"--shared-dir={directory}", "--cache=auto",
            "--announce-submounts", "--sandbox=chroot", "--inode-file-handles=never",
            *(["--xattr", "--modcaps=+sys_admin"] if xattr else []),
        ]  # fmt: skip
    source = str(directory).replace("\\", "\\\\").replace(",", "\\,")  # a comma would end libfuse's option
    return [
        str(virtiofsd.program), f"--fd={socket_fd}", "-o", f"source={source}", "-o", "cache=auto",
        "-o", "announce_submounts", "-o", "sandbox=chroot",
        *(["-o", "xattr", "-o", "modcaps=+sys_admin"] if xattr else []),
    ]  # fmt: skip


def binding_argv(argv: Sequence[str], directory: Path, binds: Sequence[Bind]) -> list[str]:
    """Compute a command that binds the shares below a directory, then becomes the daemon."""
    words = [word for bind in binds for word in (bind.name, str(bind.host_path), "ro" if bind.read_only else "rw")]
    return ["sh", "-c", _BIND_AND_EXEC, str(directory), *words, "--", *argv]


def bind_later(process: Daemon, directory: Path, bind: Bind, *, as_root: bool) -> None:
    """Bind a further share below the directory of a virtiofsd that runs. Raises HostError."""
    target = directory / bind.name
    if bind.host_path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mode = "ro" if bind.read_only else "rw"
    script = ["sh", "-c", _BIND_LATER, "sh", str(target), str(bind.host_path), mode]
    status = bind.host_path.stat()
    try:
        bound = run(in_mounts_argv(script, pid=process.pid, as_root=as_root), timeout_seconds=_BIND_SECONDS).stdout
    except CommandFailed as error:
        raise HostError(
            f"'{bind.host_path}' can't be shared with a sandbox that runs", id="share.not-bound", details=error.details
        ) from error
    if bound.split() != [f"{status.st_dev}:{status.st_ino}"]:
        unbind(process, directory, bind.name, as_root=as_root)
        raise HostError(
            f"'{bind.host_path}' was mounted on this host after the sandbox's shares were, which don't see it",
            id="share.not-bound",
            hint="stop the sandbox, and start it again",
        )


def remove_place(place: Path) -> None:
    """Remove the empty directory, or the empty file, on which a share was bound; what has anything in it stays."""
    with contextlib.suppress(OSError):
        if place.is_dir():
            place.rmdir()
        elif not place.stat().st_size:
            place.unlink()


def unbind(process: Daemon, directory: Path, name: str, *, as_root: bool) -> None:
    """Take a share away from a virtiofsd that runs. Raises HostError."""
    script = ["umount", "-l", "--", str(directory / name)]
    try:
        run(in_mounts_argv(script, pid=process.pid, as_root=as_root), timeout_seconds=_BIND_SECONDS)
    except CommandFailed as error:
        raise HostError("the share can't be taken away", id="share.not-bound", details=error.details) from error
    remove_place(directory / name)


@contextlib.contextmanager
def start_virtiofsd(
    directory: Path,
    binds: Sequence[Bind],
    *,
    socket_path: Path,
    log: Path,
    unshare: Path,
    as_root: bool,
    xattr: bool = False,
    pass_fds: Sequence[int] = (),
) -> Iterator[Daemon]:
    """Serve a directory on a socket that QEMU may connect to at once; the daemon inherits `pass_fds`.

    Raises ToolMissing without virtiofsd, HostError when the socket can't be made.
    """
    virtiofsd = require_virtiofsd()
    directory.mkdir(mode=0o755, exist_ok=True)
    for place in directory.iterdir():  # those of an earlier start may be of another kind
        remove_place(place)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        socket_path.unlink(missing_ok=True)
        try:
            listener.bind(str(socket_path))
            listener.listen(1)
        except OSError as error:
            raise HostError(f"cannot listen on {socket_path}: {error.strerror}", id="share.socket-failed") from error
        stack.callback(socket_path.unlink, missing_ok=True)
        argv = virtiofsd_argv(virtiofsd, directory=directory, socket_fd=listener.fileno(), xattr=xattr)
        wrapped = private_mounts_argv(binding_argv(argv, directory, binds), unshare=unshare, as_root=as_root)
        descriptors = [listener.fileno(), *pass_fds]
        process = stack.enter_context(daemon(wrapped, name="virtiofsd", log=log, pass_fds=descriptors, command=argv))
        listener.close()  # ours; QEMU's connect waits in the queue, or fails at once when virtiofsd is gone
        yield process
