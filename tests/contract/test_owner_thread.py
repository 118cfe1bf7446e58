"""An owner in a thread of this process."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

import pytest

from kata_dind.life.owner_thread import own_in_thread
from kata_dind.progress import silent
from kata_dind.store.sandboxes import Record
from tests.contract.fake_backend import BACKEND, fake_plan


def test_an_end_that_is_interrupted_is_waited_for(tmp_path: Path) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    record = Record("demo", tmp_path)
    plan = fake_plan("stops-slowly", tmp_path)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), own_in_thread(record, plan, BACKEND, report=silent):
            signal.setitimer(signal.ITIMER_REAL, 0.2)  # the end takes 0.5 s
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "guest.log").read_text().splitlines()[-1] == "powered off"
    assert record.read("status.json")["state"] == "stopped"


@pytest.mark.parametrize("thread_exists", [False, True])
def test_an_interrupt_while_the_thread_starts_leaves_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread_exists: bool
) -> None:
    start, begun = threading.Thread.start, []

    def interrupted_start(thread: threading.Thread) -> None:
        if not thread.name.startswith("owner of "):
            start(thread)  # one that the owner needs
            return
        if thread_exists:
            start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    record = Record("demo", tmp_path)
    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with (
        pytest.raises(KeyboardInterrupt),
        own_in_thread(record, fake_plan("stops-slowly", tmp_path), BACKEND, report=silent),
    ):
        pytest.fail("the block was entered")
    (thread,) = begun
    assert thread.name == "owner of demo"
    if thread_exists:
        thread.join(10)
    assert not thread.is_alive()
    assert record.read("status.json").get("state") in ((None, "stopped") if thread_exists else (None,))
