from __future__ import annotations

import pytest

from kata_dind.pod.model import Finding, Severity
from kata_dind.webhook.remarks import LONGEST_WARNING, MOST_WARNINGS, refusal, warnings


def test_a_warning_begins_with_our_name() -> None:
    assert warnings(["one.", "two.", "one."]) == ["kata-dind: one.", "kata-dind: two."]


def test_a_long_warning_goes_on_in_the_next() -> None:
    words = [f"word{number}" for number in range(120)]
    found = warnings([" ".join(words)])
    assert len(found) > 2
    assert all(len(each) <= LONGEST_WARNING for each in found)
    assert all(each.startswith("kata-dind: …") for each in found[1:])
    joined = " ".join(each.removeprefix("kata-dind: ").strip("…") for each in found)
    assert joined.split() == words


def test_a_word_without_an_end_is_cut_somewhere() -> None:
    found = warnings(["x" * 1000])
    assert all(len(each) <= LONGEST_WARNING for each in found)
    assert sum(each.count("x") for each in found) == 1000


@pytest.mark.parametrize("length", range(230, 265))
def test_no_length_is_cut_wrongly(length: int) -> None:
    [*found] = warnings(["y" * length])
    assert all(len(each) <= LONGEST_WARNING for each in found)
    assert sum(each.count("y") for each in found) == length


def test_all_warnings_together_are_within_the_limit() -> None:
    found = warnings(f"{number} {'x ' * 100}" for number in range(100))
    assert 3000 < sum(map(len, found)) <= MOST_WARNINGS


def test_what_a_header_can_not_carry_is_replaced() -> None:
    assert warnings(["a\nb\0c\x1b[31m"]) == ["kata-dind: a\ufffdb\ufffdc\ufffd[31m"]


def test_a_refusal_tells_why_and_what_to_do() -> None:
    finding = Finding("guard.host-docker", Severity.WARNING, "The hostPath is open.", hint="Close it.")
    assert refusal([finding]) == "The policy of kata-dind refuses this pod. The hostPath is open. Close it."
    assert len(refusal([Finding("pod.x", Severity.ERROR, "x" * 9999)])) == 2048
