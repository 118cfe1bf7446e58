"""What a sandbox costs that nobody uses; a hundred of them wait on one host."""

from __future__ import annotations

import pytest

from tests.vm.driver import SandboxDriver

_SECONDS = 10

_SWITCHES = "cat /proc/$(pgrep -o containerd)/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }'"


@pytest.mark.thorough
def test_a_containerd_that_has_nothing_to_do_sleeps(sandbox: SandboxDriver) -> None:
    before, after = (int(number) for number in sandbox.succeed(f"{_SWITCHES}; sleep {_SECONDS}; {_SWITCHES}").split())
    # Less than once a second; as dockerd starts it by itself, a dozen times and more.
    assert (after - before) / _SECONDS < 5
