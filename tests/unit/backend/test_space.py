"""When a guest is told of its host's space: the stages, and that each ends later than it began."""

from __future__ import annotations

import pytest

from kata_dind.backend.vm.space import MIB, Room, next_room, pause_seconds


@pytest.mark.parametrize(
    ("left_mib", "before", "now"),
    [
        (100_000, Room.AMPLE, Room.AMPLE),
        (512, Room.AMPLE, Room.AMPLE),
        (511, Room.AMPLE, Room.LOW),
        (1023, Room.LOW, Room.LOW),
        (1024, Room.LOW, Room.AMPLE),
        (64, Room.LOW, Room.LOW),
        (63, Room.LOW, Room.SHORT),
        (63, Room.AMPLE, Room.SHORT),
        (127, Room.SHORT, Room.SHORT),
        (128, Room.SHORT, Room.LOW),
        (1024, Room.SHORT, Room.AMPLE),
        (8, Room.SHORT, Room.SHORT),
        (7, Room.SHORT, Room.FULL),
        (0, Room.AMPLE, Room.FULL),
        (15, Room.FULL, Room.FULL),
        (16, Room.FULL, Room.SHORT),
        (127, Room.FULL, Room.SHORT),
        (600, Room.FULL, Room.LOW),
        (2000, Room.FULL, Room.AMPLE),
    ],
)
def test_a_stage_begins_at_its_limit_and_ends_at_twice_that(left_mib: int, before: Room, now: Room) -> None:
    assert next_room(left_mib * MIB, before=before) is now


@pytest.mark.parametrize(
    ("left_mib", "seconds"), [(10, 0.2), (64, 0.05), (100, 0.05), (576, 0.25), (1088, 0.5), (100_000, 1.0)]
)
def test_the_less_is_left_the_closer_it_is_looked_at(left_mib: int, seconds: float) -> None:
    assert pause_seconds(left_mib * MIB) == seconds
