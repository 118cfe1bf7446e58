from __future__ import annotations

import pytest

from kata_dind.backend.events import Usable
from kata_dind.backend.plan import StartKind
from kata_dind.backend.vm.events import guest_events


@pytest.mark.parametrize(("ports", "publishes"), [({}, False), ({"ports": 0}, False), ({"ports": 2}, True)])
def test_a_guest_that_ran_before_says_whether_it_has_ports(ports: dict[str, int], publishes: bool) -> None:
    usable, _ = guest_events({"event": "renewed", "check_seconds": 0.5, **ports}, StartKind.RESUME)
    assert usable == Usable({}, 0.5, publishes)
