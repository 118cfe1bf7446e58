"""When a guest is told of its host's space: the stages, and that each ends later than it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_dind.backend.vm.space import MIB, SpaceStage, next_stage
from kata_dind.backend.vm.space_watch import AGAIN_SECONDS, Retries, describe_problem, pause_seconds


@pytest.mark.parametrize(
    ("left_mib", "before", "now"),
    [
        (100_000, SpaceStage.AMPLE, SpaceStage.AMPLE),
        (1024, SpaceStage.AMPLE, SpaceStage.AMPLE),
        (1023, SpaceStage.AMPLE, SpaceStage.LOW),
        (2047, SpaceStage.LOW, SpaceStage.LOW),
        (2048, SpaceStage.LOW, SpaceStage.AMPLE),
        (64, SpaceStage.LOW, SpaceStage.LOW),
        (63, SpaceStage.LOW, SpaceStage.SHORT),
        (63, SpaceStage.AMPLE, SpaceStage.SHORT),
        (127, SpaceStage.SHORT, SpaceStage.SHORT),
        (128, SpaceStage.SHORT, SpaceStage.LOW),
        (2048, SpaceStage.SHORT, SpaceStage.AMPLE),
        (8, SpaceStage.SHORT, SpaceStage.SHORT),
        (7, SpaceStage.SHORT, SpaceStage.FULL),
        (0, SpaceStage.AMPLE, SpaceStage.FULL),
        (15, SpaceStage.FULL, SpaceStage.FULL),
        (16, SpaceStage.FULL, SpaceStage.SHORT),
        (127, SpaceStage.FULL, SpaceStage.SHORT),
        (600, SpaceStage.FULL, SpaceStage.LOW),
        (2048, SpaceStage.FULL, SpaceStage.AMPLE),
    ],
)
def test_a_stage_begins_at_its_limit_and_ends_at_twice_that(left_mib: int, before: SpaceStage, now: SpaceStage) -> None:
    assert next_stage(left_mib * MIB, before=before) is now


@pytest.mark.parametrize(
    ("left_mib", "seconds"), [(10, 0.2), (64, 0.05), (100, 0.05), (576, 0.25), (1088, 0.5), (100_000, 1.0)]
)
def test_the_less_is_left_the_closer_it_is_looked_at(left_mib: int, seconds: float) -> None:
    assert pause_seconds(left_mib * MIB) == seconds


# --- writes that are refused although there is space


def waits_of(retries: Retries, *, attempts: int, now: float = 1000.0) -> list[float]:
    """How long a guest stands still before each attempt, where every write is refused 0.1 s after it."""
    waits = []
    for _ in range(attempts):
        paused_at = now
        while not retries.is_due(now):
            now += 0.5
        waits.append(now - paused_at)
        retries.unpaused(now)
        retries.runs(now + 0.05)
        now += 0.1
    return waits


def test_a_first_pause_ends_at_once_and_the_next_ones_later_and_later() -> None:
    retries = Retries()
    assert waits_of(retries, attempts=8) == [0, 2, 4, 8, 16, 30, 30, 30]
    assert retries.wait_seconds == 30


def test_a_pause_long_after_the_last_one_ended_is_a_new_one() -> None:
    retries = Retries()
    assert waits_of(retries, attempts=3) == [0, 2, 4]
    assert waits_of(retries, attempts=3, now=2000.0) == [0, 2, 4]


def test_writes_that_succeed_for_a_while_end_it() -> None:
    retries = Retries()
    waits_of(retries, attempts=2)
    retries.is_due(2000.0)
    retries.unpaused(2000.0)
    assert waits_of(retries, attempts=1, now=2001.0) == [2]
    retries.unpaused(3000.0)
    retries.runs(3000.0 + AGAIN_SECONDS - 0.1)
    assert retries.wait_seconds > 0
    retries.runs(3000.0 + AGAIN_SECONDS)
    assert retries.wait_seconds == 0


@pytest.mark.parametrize(
    ("stage", "refused", "message"),
    [
        (SpaceStage.AMPLE, False, ""),
        (SpaceStage.LOW, False, ""),
        (
            SpaceStage.SHORT,
            False,
            "the file system of /state has 40 MiB left; until there is more, the guest's writes fail with "
            "'no space left on device'",
        ),
        (SpaceStage.FULL, True, "the file system of /state is full; the guest is paused until there is space"),
        (
            SpaceStage.AMPLE,
            True,
            "the host has no space for the guest's writes, although the file system of /state shows 40 MiB free, as "
            "with a quota; the guest is paused and tries again at least every 30 s",
        ),
    ],
)
def test_each_stage_has_its_message(stage: SpaceStage, refused: bool, message: str) -> None:
    assert describe_problem(stage, Path("/state"), 40 * MIB, refused=refused) == message
