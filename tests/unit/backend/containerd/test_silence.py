"""What is said and done while containerd does not answer."""

from __future__ import annotations

from kata_dind.backend.containerd.silence import GIVE_UP_SECONDS, LONGEST_PAUSE_SECONDS, UNSURE_SECONDS, Silence
from kata_dind.backend.events import GivenUp, Problem

SAID = "containerd does not answer, while the pod may run on: why"


def test_a_silence_is_told_at_once_then_makes_unsure_and_ends_with_an_answer() -> None:
    silence = Silence()
    assert silence.is_over() is None
    assert silence.goes_on(100.0, "why") == Problem(SAID)
    assert silence.goes_on(101.0, "why") is None
    assert silence.goes_on(100.0 + UNSURE_SECONDS, "why") == Problem(SAID, unsure=True)
    assert silence.goes_on(101.0 + UNSURE_SECONDS, "why") is None
    assert silence.is_over() == Problem("", solved="containerd answers again")
    assert silence.is_over() is None
    assert silence.goes_on(500.0, "why") == Problem(SAID)


def test_a_silence_of_a_day_ends_the_wait() -> None:
    silence = Silence()
    silence.goes_on(0.0, "why")
    assert not isinstance(silence.goes_on(GIVE_UP_SECONDS - 1, "why"), GivenUp)
    assert isinstance(silence.goes_on(GIVE_UP_SECONDS, "why"), GivenUp)


def test_containerd_is_asked_less_and_less_often() -> None:
    silence = Silence()
    assert silence.pause_seconds(50.0, 2.0) == 2.0
    silence.goes_on(0.0, "why")
    pauses = [silence.pause_seconds(float(now), 2.0) for now in (0, 10, 40, 80, 1000, 80_000)]
    assert pauses == [2.0, 2.5, 10.0, 20.0, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    silence.is_over()
    assert silence.pause_seconds(90_000.0, 2.0) == 2.0
