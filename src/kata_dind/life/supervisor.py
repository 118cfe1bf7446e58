"""The process that owns a sandbox started by `up`: `python -m kata_dind.life.supervisor SOCKET`.

Its starter is the process of `up`. The socket, a descriptor, first brings the starter's command line, which tells what
to start early; then a sandbox's directory, with the locks of the sandbox and of its volume, if it has one. The
supervisor keeps them until it ends; the processes that write the volume inherit the volume's lock.

It reports to its starter, one JSON object a line, until the sandbox is ready or has failed; then it is on its own. When
the starter closes the socket before the sandbox is ready, it was killed, and the start is broken off.
"""

from __future__ import annotations

import gc

gc.disable()  # until all is imported: modules are never garbage, and QEMU would start 3 ms later

import functools
import importlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kata_dind.backend import load_backend, load_early
from kata_dind.backend.plan_file import require_plan
from kata_dind.errors import KataDindError
from kata_dind.host.descriptors import raise_descriptor_limit
from kata_dind.host.process import use_small_pages
from kata_dind.life.early import EarlyStart, probable_backend, remember, start_early
from kata_dind.store.sandboxes import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata_dind.progress import Event

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE, _MOST_LOCKS = 8192, 2


class Reporter:
    """Sends events to the starter, until `close`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self._fd

    def event(self, event: Event) -> None:
        """Send one event."""
        self._send({"name": event.name, "message": event.message, "seconds": event.seconds})

    def log(self, message: str) -> None:
        """Send a logged message."""
        self._send({"log": message})

    def error(self, error: BaseException) -> None:
        """Send the error that made the start fail."""
        if isinstance(error, KataDindError):
            self._send(error.as_fields())
        else:
            self._send({"error": "KataDindError", "summary": f"internal error: {type(error).__name__}: {error}",
                        "details": "the supervisor's log has the traceback"})  # fmt: skip

    def close(self) -> None:
        """Close the socket."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _send(self, fields: dict[str, object]) -> None:
        if self._fd < 0:
            return
        try:
            os.write(self._fd, (json.dumps(fields) + "\n").encode())
        except (BrokenPipeError, ConnectionResetError):
            self.close()


class ToldLog(logging.Handler):
    """Sends logged messages to the starter, for `up --verbose`, also those from before there was a sandbox."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._kept: list[str] = []
        self._tell: Callable[[str], None] | None = None
        logging.getLogger("kata_dind").addHandler(self)
        logging.getLogger("kata_dind").setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message, or keep it for later."""
        if self._tell is None:
            self._kept.append(record.getMessage())
        else:
            self._tell(record.getMessage())

    def tell(self, tell: Callable[[str], None]) -> None:
        """Send the messages that were kept, and from here on each new one."""
        kept, self._kept, self._tell = self._kept, [], tell
        for message in kept:
            tell(message)

    def end(self) -> None:
        """Stop sending and keeping messages."""
        logging.getLogger("kata_dind").removeHandler(self)


async def _own(record: Record, reporter: Reporter, handed: Handed, early: EarlyStart | None, words: list[str]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()

    def report(event: Event) -> None:
        if event.name == "ready":
            record.ephemeral.unlink(missing_ok=True)
        reporter.event(event)
        if event.name == "ready":
            let_go()
            remember(words, plan)

    def let_go() -> None:
        if reporter.fd >= 0:
            loop.remove_reader(reporter.fd)
            reporter.close()

    def starter_gone() -> None:
        logger.info("the starter ended before the sandbox was ready")
        let_go()
        owner.request_stop()

    from kata_dind.life.owner import Owner

    plan = require_plan(record.directory)
    backend = load_backend(plan.backend)
    begin = await early.take(plan) if early else None
    # The first lock is the sandbox's, which only we have. The volume's is passed on to the processes that write it.
    begin = begin or functools.partial(backend.begin, plan, locks=handed.locks[1:])
    owner = Owner(record, plan, backend, begin=begin, report=report)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, owner.request_stop)
    loop.add_reader(reporter.fd, starter_gone)  # the end of the starter is an end of file
    try:
        await owner.run()
    except BaseException:
        if reporter.fd >= 0:
            loop.remove_reader(reporter.fd)
        raise


async def _serve(reporter: Reporter, words: list[str], early: EarlyStart | None, log: ToldLog) -> int:
    import asyncio

    if early:
        early.meet()
    try:
        await asyncio.sleep(0)
        importlib.import_module("kata_dind.life.owner")  # while a QEMU that was started early comes up
        handed = await _take_over(reporter.fd)
        if handed is None:
            return 0
        record = Record(handed.directory.name, handed.directory)
        _speak_to(record.owner_log)
        if handed.verbose:
            log.tell(reporter.log)
        else:
            log.end()
        try:
            await _own(record, reporter, handed, early, words)
        except asyncio.CancelledError:
            if record.ephemeral.exists():
                from kata_dind.life.guests import remove_sandbox

                remove_sandbox(record)  # the starter would do it, but may have ended
        except KataDindError as error:
            logger.exception("the sandbox failed")
            reporter.error(error)
            return error.exit_code
        except Exception as error:
            logger.exception("internal error")
            reporter.error(error)
            return 1
        return 0
    finally:
        if early:
            await early.end()
        reporter.close()


def main() -> int:
    """Own the sandbox that is handed over until it ends; return 0 when it was stopped, else the error's exit code."""
    reporter = Reporter(int(sys.argv[1]))
    os.chdir("/")
    use_small_pages()
    raise_descriptor_limit()  # each connection to a guest's port has two
    log = ToldLog()
    words = _hear_words(reporter.fd)
    early = start_early(words)

    import asyncio  # which takes as long as QEMU's start

    load_early(probable_backend(words))
    gc.freeze()
    gc.enable()
    return asyncio.run(_serve(reporter, words, early, log))


def _hear_words(fd: int) -> list[str]:
    """Return the starter's command line, empty where there is none; what follows it is left in the socket."""
    line = b""
    with socket.socket(fileno=os.dup(fd)) as starter:
        while not line.endswith(b"\n"):
            seen = starter.recv(65536, socket.MSG_PEEK)
            if not seen:
                return []
            line += starter.recv(seen.find(b"\n") + 1 or len(seen))
    return [str(word) for word in json.loads(line)["words"]]


class Handed(NamedTuple):
    """The things that a starter hands over."""

    directory: Path
    locks: list[int]
    verbose: bool
    """Whether the starter wants to see what is logged."""


async def _take_over(fd: int) -> Handed | None:
    """Wait for a sandbox; return None when the starter ends without one."""
    import asyncio

    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    await readable.wait()
    loop.remove_reader(fd)
    with socket.socket(fileno=os.dup(fd)) as starter:
        message, locks, _, _ = socket.recv_fds(starter, _LONGEST_MESSAGE, _MOST_LOCKS)
    for descriptor in (fd, *locks):
        os.set_inheritable(descriptor, False)
    if not message:
        return None
    fields = json.loads(message)
    return Handed(Path(fields["directory"]), locks, bool(fields["verbose"]))


def _speak_to(log: Path) -> None:
    """Send all that is printed and logged to a file."""
    with log.open("ab") as sink:
        for fd in (1, 2):
            os.dup2(sink.fileno(), fd)
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("qemu.qmp").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
