"""Child processes: fork and exec with pipes or a terminal. `subprocess` would cost a slow guest 0.1 s at start."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CGROUP = "/sys/fs/cgroup"
CONTAINER_CGROUP = f"{CGROUP}/kata-dind"


class Child:
    """A started process: its pid, and our ends of its standard descriptors, which are one with a terminal."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int, *, terminal: bool) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        """-1 with a terminal, which has one output."""
        self.terminal = terminal


def run(argv: Sequence[str], *, stdin: bytes = b"") -> int:
    """Run a short command to its end and return its exit code; output goes to the console.

    Only for the time before the loop runs, since it blocks.
    """
    read, write = os.pipe()
    os.write(write, stdin)
    os.close(write)
    pid = os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)])
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def spawn(
    become: Callable[[], None],
    *,
    size: tuple[int, int] | None,
    change: Callable[[], None] | None = None,
    keep: Sequence[int] = (),
) -> Child:
    """Fork a child whose standard descriptors are pipes or, given a `size` in rows and columns, a terminal of its own.

    `become` runs in the child and must not return. When it raises OSError the child ends with 127 (a program that is
    absent) or 126, and says so on its standard error, as a shell would.

    `change` makes or joins namespaces first. A pid namespace begins with the children of the process that made it:
    so the child forks once more, and the grandchild is returned, which process 1 inherits as it does all orphans.

    All descriptors are closed in the child but those to `keep`.
    """
    if size is not None:
        master, slave = os.openpty()
        resize(master, size)
        ours, theirs = (master, master, -1), (slave, slave, slave)
    else:
        pipes = [os.pipe() for _ in range(3)]
        ours = (pipes[0][1], pipes[1][0], pipes[2][0])
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
    pid_read, pid_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(become, theirs, terminal=size is not None, change=change, pid_write=pid_write, keep=keep)
    for fd in {*theirs, pid_write}:
        os.close(fd)
    if change:
        pid = _grandchild(pid, pid_read)
    os.close(pid_read)
    for fd in set(ours) - {-1}:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
    return Child(pid, *ours, terminal=size is not None)


def program(argv: Sequence[str], environment: dict[str, str], *, cwd: str = "/") -> Callable[[], None]:
    """Return what makes a child a program, to be found on the PATH of its environment."""

    def become() -> None:
        os.chdir(cwd)
        try:
            os.execvpe(argv[0], list(argv), environment)
        except OSError as error:
            raise OSError(error.errno, error.strerror, argv[0]) from error

    return become


def resize(terminal: int, size: tuple[int, int]) -> None:
    """Set a terminal's rows and columns; the kernel tells its foreground process."""
    rows, columns = (min(max(count, 0), 0xFFFF) for count in size)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _grandchild(child: int, pid_read: int) -> int:
    """Return the pid that a child wrote before it ended; its own when it could not fork."""
    pid = os.read(pid_read, 16)
    if not pid:
        return child
    os.waitpid(child, 0)
    return int(pid)


def _be_child(
    become: Callable[[], None],
    fds: Sequence[int],
    *,
    terminal: bool,
    change: Callable[[], None] | None,
    pid_write: int,
    keep: Sequence[int],
) -> None:
    """Finish the forked child; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        first = 3
        for fd in sorted((pid_write, *keep, 4096)):
            os.closerange(first, fd)
            first = fd + 1
        if change:
            change()
            pid = os.fork()
            if pid:
                os.write(pid_write, str(pid).encode())
                os._exit(0)
        os.close(pid_write)
        os.setsid()
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        become()
    except OSError as error:
        os.write(2, f"{error.filename or 'kata-dind'}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    finally:
        os._exit(126)


def join_first(cgroups: Sequence[str]) -> None:
    """Move this process into the first cgroup that takes it.

    A container's own root cgroup refuses (EBUSY) once dockerd's nesting has moved everything into `init` below it:
    https://github.com/kata-containers/kata-containers/issues/10733.
    """
    for cgroup in cgroups:
        try:
            with open(f"{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
        except OSError:
            continue
        return
