"""An owner in a thread of this process."""

from __future__ import annotations

import signal
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
