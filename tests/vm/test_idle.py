"""What a sandbox costs that nobody uses; a hundred of them wait on one host."""

from __future__ import annotations

import pytest

from tests.vm.driver import SandboxDriver

_SECONDS, _TRIES = 10, 12

_SWITCHES = "cat /proc/$(pgrep -o containerd)/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }'"


@pytest.mark.thorough
def test_a_containerd_that_has_nothing_to_do_sleeps(sandbox: SandboxDriver) -> None:
    # Less than once a second; as dockerd starts it by itself, a dozen times and more, for as long as it lives. After
    # work such as a test before this one, Go's runtime gives memory back to the kernel for a while, bit by bit.
    rates = []
    for _ in range(_TRIES):
        before, after = sandbox.succeed(f"{_SWITCHES}; sleep {_SECONDS}; {_SWITCHES}").split()
        rates.append((int(after) - int(before)) / _SECONDS)
        if rates[-1] < 5:
            return
    pytest.fail(f"containerd woke up so many times a second: {rates}")
