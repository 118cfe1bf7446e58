"""What a sandbox costs that nobody uses; a hundred of them wait on one host."""

from __future__ import annotations

import itertools

import pytest

from tests.vm.driver import SandboxDriver

_SECONDS, _TRIES = 10, 3

_SWITCHES = "cat /proc/$(pgrep -o containerd)/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }'"


@pytest.mark.thorough
def test_a_containerd_that_has_nothing_to_do_sleeps(sandbox: SandboxDriver) -> None:
    pauses = f"; sleep {_SECONDS}; ".join([_SWITCHES] * (_TRIES + 1))
    counts = [int(number) for number in sandbox.succeed(pauses).split()]
    # Less than once a second; as dockerd starts it by itself, a dozen times and more, in each of the pauses. In one of
    # them it may clean up after the test before this one.
    assert min(after - before for before, after in itertools.pairwise(counts)) / _SECONDS < 5
