from __future__ import annotations

import os

import pytest

from kata_dind.backend.vm.descriptors import count_descriptors, next_mark, pause_seconds


@pytest.mark.parametrize("limit", [256, 4096, 20_000, 1_000_000])
def test_between_two_looks_no_guest_uses_up_what_is_left(limit: int) -> None:
    half = limit // 2

    assert pause_seconds(half, limit) * 20_000 < max(limit - half, 1_001)


def test_a_look_is_never_far_away_and_never_at_once() -> None:
    assert pause_seconds(0, 1_000_000) == 5.0
    assert pause_seconds(1_000, 1_000) == 0.05


def test_a_guest_forgets_at_half_of_the_limit() -> None:
    assert next_mark(20, 20_000) == 10_010


def test_a_guest_that_uses_many_files_is_asked_again_later_each_time() -> None:
    marks = [next_mark(count, 20_000) for count in (12_000, 16_000, 18_000)]

    assert marks == [16_000, 18_000, 19_000]


def test_descriptors_are_counted() -> None:
    before = count_descriptors(os.getpid())
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        assert count_descriptors(os.getpid()) == before + 5
    finally:
        for fd in opened:
            os.close(fd)
