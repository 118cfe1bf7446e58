from __future__ import annotations

import io

import pytest

from kata_dind.cli.output import Progress, human_duration, human_size
from kata_dind.cli.session import Session
from kata_dind.progress import Event


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1536, "1.5K"),
        (312 << 20, "312M"),
        (20 << 30, "20G"),
        (3 << 40, "3.0T"),
    ],
)
def test_human_size(size_bytes: int | None, text: str) -> None:
    assert human_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (200000, "2d")]
)
def test_human_duration(seconds: float | None, text: str) -> None:
    assert human_duration(seconds) == text


def shown(session: Session, stream: io.StringIO) -> str:
    progress = Progress(session, stream=stream)
    progress.report(Event("boot", "booting [x]"))
    progress.report(Event("warning", "no KVM"))
    progress.report(Event("boot", "booted", 3.21))
    progress.report(Event("ready", "ready after 3.2 s", 3.21))
    progress.pause()
    return stream.getvalue()


def test_progress_elsewhere_is_plain_lines() -> None:
    expected = "kata-dind: booting [x]\nkata-dind: no KVM\nkata-dind: booted (3.2 s)\nkata-dind: ready after 3.2 s\n"
    assert shown(Session(), io.StringIO()) == expected
    assert shown(Session(verbose=True), Terminal()) == expected


def test_progress_that_nobody_asked_for() -> None:
    assert shown(Session(json=True), Terminal()) == ""


def test_a_warning_is_no_progress() -> None:
    assert shown(Session(quiet=True), io.StringIO()) == "kata-dind: no KVM\n"


def test_progress_on_a_terminal_moves_and_leaves_warnings() -> None:
    text = shown(Session(), Terminal())
    assert "booting [x]" in text
    assert "kata-dind: no KVM\n" in text
    assert "\r" in text
    assert text.endswith(("\x1b[?25h", "\x1b[2K"))
