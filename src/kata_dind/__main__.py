"""Where signals become an exception, and errors exit codes; nothing below exits.

The first INT, TERM or HUP raises `Interrupted`, and the code that it interrupts takes down what it has set up. Further
signals are ignored, since every step of that ends by itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import typer

from kata_dind.cli.app import KUBECTL_PLUGIN, PROGRAM, build_command
from kata_dind.cli.failure import named_as_given, print_error, say, usage_error
from kata_dind.cli.session import Session
from kata_dind.errors import HostError, KataDindError, SpecError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COMPLETION_VARIABLE = "_KATA_DIND_COMPLETE"


class Interrupted(KeyboardInterrupt):
    """A signal asks us to end. It is a KeyboardInterrupt, since asyncio lets that through."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def main() -> int:
    """Run the command line and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format=f"{PROGRAM}: %(message)s")
    program = f"kubectl {PROGRAM}" if sys.argv[0].rpartition("/")[2] == KUBECTL_PLUGIN else PROGRAM
    return execute(sys.argv[1:], session=Session(program=program))


def execute(argv: Sequence[str], *, session: Session) -> int:
    """Run a command line for a session and return its exit code. Answers and errors are printed, nothing is raised."""
    received: list[signal.Signals] = []
    with _signals_raise(received):
        exit_code = _exit_code(argv, session=session)
    return 128 + received[0] if received else exit_code


def _exit_code(argv: Sequence[str], *, session: Session) -> int:
    try:
        _invoke(argv, session=session)
        return 0
    except typer.Exit as ended:
        return ended.exit_code
    except KeyboardInterrupt as interrupted:
        if not session.quiet:
            say(f"{PROGRAM}: ended by {str(interrupted) or 'SIGINT'}")
        return 128 + signal.SIGINT
    except typer.TyperException as error:
        # The parser may have stopped before it reached --json.
        return _report(session, usage_error(error, session), as_json=session.json or "--json" in argv)
    except SpecError as error:
        return _report(session, named_as_given(error, session), as_json=session.json)
    except KataDindError as error:
        return _report(session, error, as_json=session.json)
    except Exception as bug:  # noqa: BLE001 - the outermost border, which must leave a trace
        if isinstance(bug, BrokenPipeError) and _stdout_is_broken():
            _discard_stdout()
            return 128 + signal.SIGPIPE
        if isinstance(bug, OSError) and bug.errno in (errno.ENOSPC, errno.EDQUOT):
            _discard_stdout()
            return _report(
                session, HostError(f"no space is left{_place(bug)}", id="host.file-system-full"), as_json=session.json
            )
        return _report(
            session, _bug(bug, verb=session.context.command_path if session.context else ""), as_json=session.json
        )


def _invoke(argv: Sequence[str], *, session: Session) -> None:
    completes = os.environ.get(_COMPLETION_VARIABLE)
    command = build_command(only="" if completes else next(iter(argv), ""))
    if completes:
        command.main(list(argv), prog_name=PROGRAM, obj=session)
    # Not through main(): it would turn our Interrupted and a closed stdout into exit codes of its own.
    with command.make_context(session.program, list(argv), obj=session) as context:
        command.invoke(context)
    if sys.stdout is not None:
        sys.stdout.flush()


def _report(session: Session, error: KataDindError, *, as_json: bool) -> int:
    print_error(error, session, as_json=as_json)
    return error.exit_code


def _stdout_is_broken() -> bool:
    """Tell whether the reader of our stdout is gone; a BrokenPipeError may also come from a sandbox's socket."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _place(error: OSError) -> str:
    return f" for {error.filename}" if error.filename else " where the answer is written"


def _discard_stdout() -> None:
    """Let the interpreter's own last flush succeed."""
    with open(os.devnull, "wb") as sink:  # noqa: PTH123 - a device, not a path of ours
        os.dup2(sink.fileno(), 1)


def _bug(bug: Exception, *, verb: str) -> KataDindError:
    """Write the traceback to a file in the state directory; return an error that names the file."""
    from kata_dind import __version__
    from kata_dind.host.directories import state_directory

    # Without the arguments: they may contain a secret, and users attach such files to issues.
    evidence = "".join(traceback.format_exception(bug))
    text = f"kata-dind {__version__}, {verb or 'no command'}, Python {sys.version}\n{evidence}"
    summary = f"this is a bug of kata-dind: {type(bug).__name__}: {bug}".partition("\n")[0]
    try:
        directory = state_directory() / "bugs"
        directory.mkdir(mode=0o700, exist_ok=True)
        log = directory / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
        log.write_text(text, errors="backslashreplace")
    except (OSError, HostError):
        return KataDindError(summary, id="process.bug", details=text)
    return KataDindError(f"{summary}; the traceback is in {log}", id="process.bug")


@contextlib.contextmanager
def _signals_raise(received: list[signal.Signals]) -> Iterator[None]:
    """Turn the first signal into an exception for the length of the block, and append it to `received`.

    Later signals meet a handler that does nothing, and not SIG_IGN, which the programs that we start would inherit. A
    signal that is ignored when we start, as under nohup, stays ignored.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(signal.Signals(number))
            raise Interrupted(received[0])

    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number, handler in previous.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])


if __name__ == "__main__":
    sys.exit(main())
