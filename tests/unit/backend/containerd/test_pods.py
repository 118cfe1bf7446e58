"""What is said of a pod that can't be ended."""

from __future__ import annotations

import pytest

from kata_dind.backend.containerd.pods import _not_ended
from kata_dind.errors import ContainerdError


@pytest.mark.parametrize(
    ("id", "summary", "hint"),
    [
        (
            "containerd.timed-out",
            "the pod of 'demo' can't be ended: its shim does not answer",
            "kill the process of containerd-shim that has `-id abc` among its words, and try again",
        ),
        (
            "containerd.failed",
            "the pod of 'demo' can't be ended: containerd can't tidy up after it",
            "try the same again; if it stays so, restart containerd, which leaves other pods running",
        ),
    ],
)
def test_only_a_shim_that_is_silent_is_to_be_killed(id: str, summary: str, hint: str) -> None:
    error = _not_ended(ContainerdError("it failed", id=id, details="remove netns: busy"), "abc", name="demo")
    assert (error.id, error.summary, error.hint) == ("containerd.pod-does-not-end", summary, hint)
    assert error.details == "it failed\nremove netns: busy"
