"""What a sandbox costs that nobody uses; a hundred of them wait on one host."""

from __future__ import annotations

import pytest

from tests.vm.driver import SandboxDriver

_SECONDS = 10

_SWITCHES = "cat /proc/$(pgrep -o {name})/task/*/status | awk '/^voluntary/ {{ n += $2 }} END {{ print n }}'"


@pytest.mark.parametrize("name", ["dockerd", "containerd"])
def test_a_daemon_that_has_nothing_to_do_sleeps(sandbox: SandboxDriver, name: str) -> None:
    count = _SWITCHES.format(name=name)
    before, after = (int(number) for number in sandbox.succeed(f"{count}; sleep {_SECONDS}; {count}").split())
    # containerd as dockerd starts it wakes up some fifty times a second.
    assert (after - before) / _SECONDS < 20
