from __future__ import annotations

import asyncio
import os

import pytest

from kata_dind.backend.vm.descriptors import (
    FILES_PER_SECOND,
    Mark,
    count_descriptors,
    pause_seconds,
)
from kata_dind.host.descriptors import list_descriptors

LIMIT = 20_000


@pytest.mark.parametrize("limit", [2_500, LIMIT, 1_000_000])
@pytest.mark.parametrize("tenths", [0, 5, 7])
def test_between_two_looks_no_guest_uses_up_what_is_left(limit: int, tenths: int) -> None:
    left = limit - limit * tenths // 10

    assert pause_seconds(limit - left, limit) * FILES_PER_SECOND < max(left, 1_001)


def test_a_look_is_never_far_away_and_never_at_once() -> None:
    assert pause_seconds(0, 1_000_000) == 5.0
    assert pause_seconds(1_000, 1_000) == 0.05


def test_a_guest_forgets_beyond_half_of_the_limit() -> None:
    mark = Mark()

    assert [mark.is_passed(count, LIMIT, 0.0) for count in (20, 10_000, 10_001)] == [False, False, True]
    mark.asked(20, 0.0)
    assert [mark.is_passed(count, LIMIT, 0.1) for count in (10_010, 10_011)] == [False, True]


def test_a_guest_that_uses_many_files_is_asked_later_each_time_and_at_last_not_at_all() -> None:
    mark, asked, count = Mark(), [], 0
    while count < LIMIT:
        count += 1
        if mark.is_passed(count, LIMIT, 0.0):
            asked.append(count)
            mark.asked(count, 0.0)

    assert asked[:3] == [10_001, 15_001, 17_501]
    assert len(asked) < 20
    assert not mark.is_passed(LIMIT, LIMIT, 1.0)


def test_what_was_in_use_is_forgotten_after_a_minute() -> None:
    mark = Mark()
    mark.asked(18_000, 100.0)

    assert not mark.is_passed(18_500, LIMIT, 159.0)
    assert mark.is_passed(18_500, LIMIT, 160.0)


def test_descriptors_are_counted() -> None:
    def counts() -> tuple[int, int]:
        return asyncio.run(count_descriptors(os.getpid())), list_descriptors(os.getpid())

    before = counts()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        assert counts() == (before[0] + 5, before[1] + 5)
    finally:
        for fd in opened:
            os.close(fd)


def test_a_process_that_is_gone_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(count_descriptors(1 << 30))
