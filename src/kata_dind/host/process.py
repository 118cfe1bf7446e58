"""Running programs: `run` for a command that ends, `daemon` for one that lives as long as a `with` block.

The only module that imports `subprocess`. Argument lists, never shell strings; stdin closed; each argv logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from kata_dind.errors import CommandFailed, CommandTimedOut, ToolMissing

logger = logging.getLogger(__name__)

_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TERM", "LANG", "SSL_CERT_FILE", "XDG_RUNTIME_DIR")
_KEPT_SUFFIXES = ("_proxy", "_PROXY")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

P = TypeVar("P", bound="Process")

_PR_SET_THP_DISABLE = 41

_RUN_RUNG_SECONDS = 2.0
_DRAIN_SECONDS = 1.0

# "Die with the parent" is armed by an exec wrapper, since a preexec_fn is unsafe beside threads. The parent may have
# died before the signal was armed, hence the look at $PPID. The signal follows the thread that forked (prctl(2)).
_DIE_WITH_PARENT = '[ "$PPID" = "$0" ] || exit 143; exec "$@"'


class Completed(NamedTuple):
    """A command that ended well, and its output (as text, with undecodable bytes replaced)."""

    argv: tuple[str, ...]
    stdout: str
    stderr: str
    code: int = 0


def scrubbed_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the few variables that children may see: paths, locale and proxies, with `extra` on top; LC_ALL is C."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.endswith(_KEPT_SUFFIXES)
    }
    # mkfs and losetup live in sbin, which an ordinary user's PATH lacks on Debian.
    kept["PATH"] = f"{kept.get('PATH', '/usr/bin:/bin')}:{_SBIN}"
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def find_tool(name: str) -> Path | None:
    """Find a program on PATH, sbin included."""
    found = shutil.which(name, path=scrubbed_environment()["PATH"])
    return Path(found) if found else None


def require_tool(name: str, *, package: str) -> Path:
    """Return a program's path, or raise ToolMissing with the Debian package that has it."""
    found = find_tool(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed", id="host.tool-missing", hint=f"sudo apt-get install {package}")
    return found


def _without_package(name: str) -> ToolMissing:
    hint = f"install the package that has {name}"
    return ToolMissing(f"{name} is not installed", id="host.tool-missing", hint=hint)


def use_small_pages() -> None:
    """Give memory in small pages alone to this process and all that it starts.

    An emulator asks for huge pages for the code that it translates. For a guest that mostly sleeps they stay nearly
    empty, which wastes 20 MiB a guest. Source: PR_SET_THP_DISABLE, prctl(2).
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


class Process:
    """A running program and its process group; it is not reaped before its `with` block ends, so `pid` stays ours."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)

    @property
    def pid(self) -> int:
        """The process id, and that of its group."""
        return self._popen.pid

    @property
    def pidfd(self) -> int:
        """A descriptor that becomes readable when the program ends; closed with the block."""
        return self._pidfd

    def ended(self, *, within_seconds: float = 0.0) -> bool:
        """Tell whether the program has ended, waiting at most so long. It does not reap."""
        watch = select.poll()
        watch.register(self._pidfd, select.POLLIN)
        return bool(watch.poll(within_seconds * 1000))

    def returncode(self) -> int | None:
        """Return the exit code, or minus the signal's number, and None while it runs. It does not reap."""
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def stop(self, *, rung_seconds: float) -> None:
        """End the whole process group: TERM, then KILL, each with its deadline. Harmless when it has ended already."""
        for rung in (signal.SIGTERM, signal.SIGKILL):
            if self.ended():
                break
            os.killpg(self.pid, rung)  # not reaped yet, so the number is still ours
            self.ended(within_seconds=rung_seconds)
        os.killpg(self.pid, signal.SIGKILL)  # whatever the leader left behind in its group


def process_started() -> float:
    """Return when this process was started, in seconds since the epoch. Source: proc_pid_stat(5), field 22."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_after_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started_after_boot)


def signal_process(pid: int, number: signal.Signals, *, word: str, has_open: Path) -> None:
    """Signal a process if `word` is in its command line and it has the file open; do nothing to any other process."""
    try:
        pidfd = os.pidfd_open(pid)  # so that the number means the same process while we look
    except (OSError, ValueError):
        return
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        files = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
        if word.encode() in words and has_open.resolve() in files:
            signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return  # it has ended, or is another user's
    finally:
        os.close(pidfd)


def process_status(pid: int) -> str:
    """Return the text that proc_pid_status(5) describes, of a process."""
    return Path(f"/proc/{pid}/status").read_text()


def processor_seconds(pid: int) -> float:
    """Return how long a process has run on a processor, guests of its own included; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_began() -> float:
    """Return when our own process began, in seconds since the epoch. Source: proc_pid_stat(5), starttime."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age_seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_seconds


class Daemon(Process):
    """A program that should run as long as its `with` block."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, command: Sequence[str]) -> None:
        super().__init__(popen)
        self.name = name
        self.log = log
        self.command = f"command: {shlex.join(command)}"
        """A line of evidence: what was run."""
        self._out_of_memory_before = _times_out_of_memory()

    def describe_state(self) -> str:
        """Say in a line how the program ended, or that it still runs."""
        code = self.returncode()
        if code is None:
            return f"{self.name} still runs"
        how = describe_status(code)
        if code == -signal.SIGKILL and _times_out_of_memory() > self._out_of_memory_before:
            how = f"{how}: this host, or the control group that it is in, has run out of memory"
        return f"{self.name} ended ({how})"

    def describe_end(self) -> str:
        """Say how the program ended, what command it was, and its log's last lines."""
        return f"{self.describe_state()}\n{self.command}\n{tail(self.log)}".rstrip()


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_seconds: float,
    stdin: IO[bytes] | None = None,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    allowed_codes: Collection[int] = (0,),
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a command to its end, in a process group that does not outlive it.

    With `log`, both outputs go to that file instead of memory. Raises CommandFailed with argv, status and the last
    lines, CommandTimedOut after `timeout_seconds`, ToolMissing when the program does not exist.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("run: %s", shlex.join(words))
    with contextlib.ExitStack() as stack:
        sink: IO[bytes] | int = stack.enter_context(log.open("ab")) if log else subprocess.PIPE
        popen = _popen(words, stdin=stdin or subprocess.DEVNULL, sink=sink, environment=environment, pass_fds=pass_fds)
        stack.enter_context(_reaped(popen, name=words[0]))
        process = stack.enter_context(_stopped(Process(popen), rung_seconds=_RUN_RUNG_SECONDS))
        out, err = _collect(process, popen, timeout_seconds=timeout_seconds)
        code = process.returncode()
    name = Path(words[0]).name
    if code is None:
        evidence = _evidence(words, "killed", tail(log) if log else err or out)
        raise CommandTimedOut(
            f"{name} did not end within {timeout_seconds:g} s", id="process.timed-out", details=evidence
        )
    if code not in allowed_codes:
        evidence = _evidence(words, describe_status(code), tail(log) if log else err or out)
        raise CommandFailed(f"{name} failed ({describe_status(code)})", id="process.failed", details=evidence)
    return Completed(tuple(words), out, err, code)


def run_in_foreground(argv: Sequence[str], *, stdin: IO[bytes], timeout_seconds: float) -> Completed:
    """Run a command that may ask for a password on the terminal, and may have more rights than we: sudo.

    It stays in our process group, since the terminal stops a reader of another one. Raises as `run` does, but a command
    that we may not end continues after CommandTimedOut.
    """
    words = list(argv)
    logger.debug("run: %s", shlex.join(words))
    if find_tool(words[0]) is None:
        raise _without_package(words[0])
    environment = scrubbed_environment()
    with subprocess.Popen(
        words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as popen:
        try:
            output = popen.communicate(timeout=timeout_seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            _end_if_allowed(popen)
            evidence = _evidence(
                words, "still running when its time was over", (error.stdout or b"").decode(errors="replace")
            )
            raise CommandTimedOut(
                f"{words[0]} did not end within {timeout_seconds:g} s", id="process.timed-out", details=evidence
            ) from error
        except BaseException:  # Ctrl-C, which the command has received as well
            _end_if_allowed(popen)
            raise
    if popen.returncode:
        status = describe_status(popen.returncode)
        evidence = _evidence(words, status, output)
        raise CommandFailed(f"{words[0]} failed ({status})", id="process.failed", details=evidence)
    return Completed(tuple(words), output, "")


def _end_if_allowed(popen: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
        popen.terminate()
        popen.wait(timeout=_RUN_RUNG_SECONDS)
        return
    popen.returncode = popen.returncode or -signal.SIGTERM  # it continues, and leaving the block must not wait for it


@contextlib.contextmanager
def daemon(
    argv: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    log: Path,
    pass_fds: Sequence[int] = (),
    rung_seconds: float = 5.0,
    command: Sequence[str] = (),
) -> Iterator[Daemon]:
    """Run a program for the length of a `with` block; neither it nor its process group outlives the block.

    `command` is what errors show in place of an `argv` that begins with wrappers, which explain nothing.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("daemon %s: %s", name, shlex.join(words))
    with log.open("ab") as sink:
        # Own group: Ctrl-C must reach us alone, so that the guest goes down before its disk does.
        popen = _popen(words, stdin=subprocess.DEVNULL, sink=sink, pass_fds=pass_fds)
    with (
        _reaped(popen, name=name),
        _stopped(Daemon(name, popen, log, command or words), rung_seconds=rung_seconds) as process,
    ):
        yield process


def _times_out_of_memory() -> int:
    """Return how many processes this host has killed because memory ran out. Source: mm/oom_kill.c, OOM_KILL."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def describe_status(code: int) -> str:
    """Put a return code into words: `exit 3`, or a signal's name."""
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name


def tail(log: Path, *, lines: int = 20) -> str:
    """Return a log's last lines, at most 16 KiB of them; empty when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _popen(
    words: list[str],
    *,
    stdin: IO[bytes] | int,
    sink: IO[bytes] | int,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    if find_tool(words[0]) is None:
        raise _without_package(words[0])
    die_with_parent = ["setpriv", "--pdeathsig", "TERM", "--", "sh", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    return subprocess.Popen(
        [*die_with_parent, *words],
        stdin=stdin,
        stdout=sink,
        stderr=sink,
        env=scrubbed_environment(environment),
        pass_fds=tuple(pass_fds),
        process_group=0,
    )


@contextlib.contextmanager
def _reaped(popen: subprocess.Popen[bytes], *, name: str) -> Iterator[None]:
    # Reaping comes last: from then on the number may be that of another process.
    try:
        yield
    finally:
        os.killpg(popen.pid, signal.SIGKILL)
        for pipe in filter(None, (popen.stdout, popen.stderr)):
            pipe.close()
        try:
            popen.wait(timeout=_RUN_RUNG_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("%s (pid %d) survives SIGKILL; the next start sweeps it", name, popen.pid)


@contextlib.contextmanager
def _stopped(process: P, *, rung_seconds: float) -> Iterator[P]:
    try:
        yield process
    finally:
        process.stop(rung_seconds=rung_seconds)
        os.close(process.pidfd)


def _collect(process: Process, popen: subprocess.Popen[bytes], *, timeout_seconds: float) -> tuple[str, str]:
    # Popen.communicate would reap, and would wait for a left-behind child that has the pipes open.
    pipes = [pipe for pipe in (popen.stdout, popen.stderr) if pipe]
    output = {pipe.fileno(): bytearray() for pipe in pipes}
    deadline = time.monotonic() + timeout_seconds
    with selectors.DefaultSelector() as selector:
        for descriptor in (process.pidfd, *output):
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and (ready := selector.select(max(0.0, deadline - time.monotonic()))):
            for descriptor in (key.fd for key, _ in ready):
                if descriptor != process.pidfd and (data := os.read(descriptor, 65536)):
                    output[descriptor] += data
                    continue
                selector.unregister(descriptor)
                if descriptor == process.pidfd:
                    os.killpg(process.pid, signal.SIGKILL)
                    deadline = min(deadline, time.monotonic() + _DRAIN_SECONDS)
    out, err = (output[pipe.fileno()].decode(errors="replace") for pipe in pipes) if pipes else ("", "")
    return out, err


def _evidence(words: list[str], status: str, output: str) -> str:
    return f"command: {shlex.join(words)}\nstatus: {status}\n{output[-4000:].strip()}".rstrip()
