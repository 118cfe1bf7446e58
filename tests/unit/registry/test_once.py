"""Values that are got once and remembered."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from kata_dind.registry.once import FOREVER, Busy, Once

SECONDS = 10


def once(*, most_at_once: int = 4, most_kept: int = 4, now: list[float] | None = None) -> Once[str, str]:
    moment = now or [0.0]
    return Once(most_at_once=most_at_once, most_kept=most_kept, clock=lambda: moment[0])


def begin(values: Once[str, str], key: str, value: str = "", *, holds_seconds: float = FOREVER) -> str:
    return values.begin(key, lambda: (value or key, holds_seconds)).result(timeout=SECONDS)


def test_a_value_holds_for_as_long_as_was_said() -> None:
    now = [0.0]
    values = once(now=now)
    assert values.find("a") is None
    assert begin(values, "a", "first", holds_seconds=5) == "first"
    assert begin(values, "a", "second") == "first"
    now[0] = 5
    assert values.find("a") is None
    assert begin(values, "a", "second") == "second"
    now[0] = 1e9
    known = values.find("a")
    assert known is not None and known.result() == "second"


def test_what_is_under_way_is_not_begun_again_and_takes_one_place() -> None:
    values, opened, begun = once(most_at_once=1), threading.Event(), []

    def get() -> tuple[str, float]:
        begun.append(1)
        assert opened.wait(timeout=SECONDS)
        return "a", FOREVER

    futures: list[Future[str]] = [values.begin("a", get) for _ in range(20)]
    assert values.find("a") is futures[0]
    with pytest.raises(Busy):
        values.begin("b", get)
    opened.set()
    assert {future.result(timeout=SECONDS) for future in futures} == {"a"}
    assert begun == [1]
    assert begin(values, "b") == "b", "its place is free again"


def test_the_one_that_was_not_used_for_the_longest_time_is_forgotten() -> None:
    values = once(most_kept=2)
    begin(values, "a")
    begin(values, "b")
    assert values.find("a")
    begin(values, "c")
    assert (values.find("b"), bool(values.find("a")), bool(values.find("c"))) == (None, True, True)


def test_what_is_under_way_is_not_forgotten() -> None:
    values, opened = once(most_kept=1), threading.Event()
    waiting = values.begin("a", lambda: (str(opened.wait(timeout=SECONDS)), FOREVER))
    begin(values, "b")
    assert values.find("a") is waiting
    opened.set()
    assert waiting.result(timeout=SECONDS) == "True"
