"""The process that owns a sandbox started by `up`: `python -m kata_dind.supervisor DIRECTORY EVENTS_FD LOCK [LOCK]`.

It inherits the locks of the sandbox and of its volume, if it has one, from its starter, and holds them until it ends.
The volume's it hands on to what writes the volume.

It reports to whoever started it, a JSON object a line, until the sandbox is ready or has failed; then it is on its own.
When nobody reads that before the sandbox is ready, the start is broken off: its starter was killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from kata_dind.backend import load_backend
from kata_dind.errors import KataDindError
from kata_dind.host.progress import Event
from kata_dind.owner import Owner
from kata_dind.record import Record

logger = logging.getLogger(__name__)


class Reporter:
    """Sends events to the starter's pipe; `close` lets go of it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The pipe's descriptor, -1 once closed."""
        return self._fd

    def event(self, event: Event) -> None:
        """Send one event."""
        self._send({"name": event.name, "message": event.message, "seconds": event.seconds})

    def error(self, error: BaseException) -> None:
        """Send what made the start fail."""
        if isinstance(error, KataDindError):
            self._send(error.as_fields())
        else:
            self._send({"error": "KataDindError", "summary": f"internal error: {type(error).__name__}: {error}",
                        "details": "the supervisor's log has the traceback"})  # fmt: skip

    def close(self) -> None:
        """Close the pipe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _send(self, fields: dict[str, object]) -> None:
        if self._fd < 0:
            return
        try:
            os.write(self._fd, (json.dumps(fields) + "\n").encode())
        except BrokenPipeError:
            self.close()


async def _own(record: Record, reporter: Reporter, volume_locks: list[int]) -> None:
    loop = asyncio.get_running_loop()

    def report(event: Event) -> None:
        if event.name == "ready":
            record.ephemeral.unlink(missing_ok=True)
        reporter.event(event)
        if event.name == "ready":
            let_go()

    def let_go() -> None:
        if reporter.fd >= 0:
            loop.remove_reader(reporter.fd)
            reporter.close()

    def starter_gone() -> None:
        logger.info("the starter is gone before the sandbox was ready")
        let_go()
        owner.request_stop()

    plan = record.read("plan.json")
    launch = load_backend(str(plan["backend"])).launch(plan["plan"], ephemeral=False, locks=volume_locks)
    owner = Owner(record, launch, report=report)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, owner.request_stop)
    loop.add_reader(reporter.fd, starter_gone)  # a pipe whose reader is gone reports an error, which wakes a reader
    try:
        await owner.run()
    except BaseException:
        if reporter.fd >= 0:
            loop.remove_reader(reporter.fd)
        raise


def main() -> int:
    """Own the sandbox of a directory until it ends; exit code 0 when it was stopped, else the error's."""
    # What we start ourselves inherits only what it is handed.
    locks = [int(lock) for lock in sys.argv[3:]]
    for lock in locks:
        os.set_inheritable(lock, False)
    directory, reporter = Path(sys.argv[1]), Reporter(int(sys.argv[2]))
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("qemu.qmp").setLevel(logging.WARNING)
    record = Record(directory.name, directory)
    try:
        asyncio.run(_own(record, reporter, locks[1:]))
    except asyncio.CancelledError:
        if record.ephemeral.exists():
            record.remove()  # the starter would, but it may be gone
        return 0
    except KataDindError as error:
        logger.exception("the sandbox failed")
        reporter.error(error)
        return error.exit_code
    except Exception as error:
        logger.exception("internal error")
        reporter.error(error)
        return 1
    finally:
        reporter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
