"""The contract suite over the containerd backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kata_dind.sandbox.api import Sandbox
from kata_dind.spec import SandboxSpec
from tests.containerd.sandboxes import Sandboxes
from tests.contract.test_every_backend import (
    Subject,
    test_a_guest_of_our_own_that_dies_is_told_at_the_end,
    test_a_guest_that_dies_is_a_crash_with_evidence_that_starts_again,
    test_a_guest_that_dies_without_an_owner_is_a_crash,
    test_a_life,
    test_a_sandbox_of_our_own_leaves_nothing,
    test_a_signal_to_the_owner_ends_the_guest_in_order_or_leaves_it_running,
    test_a_state_is_saved_where_the_backend_can_keep_one_and_else_refused,
    test_an_owner_that_dies_takes_its_guest_along_or_leaves_it_running,
    test_the_logs_are_those_that_the_backend_names,
    test_what_runs_without_an_owner_is_served_again_as_it_was_or_stopped_or_removed,
)

pytestmark = pytest.mark.requires("containerd", "mmdebstrap")

__all__ = [
    "test_a_guest_of_our_own_that_dies_is_told_at_the_end",
    "test_a_guest_that_dies_is_a_crash_with_evidence_that_starts_again",
    "test_a_guest_that_dies_without_an_owner_is_a_crash",
    "test_a_life",
    "test_a_sandbox_of_our_own_leaves_nothing",
    "test_a_signal_to_the_owner_ends_the_guest_in_order_or_leaves_it_running",
    "test_a_state_is_saved_where_the_backend_can_keep_one_and_else_refused",
    "test_an_owner_that_dies_takes_its_guest_along_or_leaves_it_running",
    "test_the_logs_are_those_that_the_backend_names",
    "test_what_runs_without_an_owner_is_served_again_as_it_was_or_stopped_or_removed",
]


class ContainerdSubject:
    """The real containerd backend, on a handler that runs runc."""

    outlives_owner = True
    can_suspend = False

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def spec(self) -> SandboxSpec:
        return self._sandboxes.spec()

    def kill_guest(self, sandbox: Sandbox) -> None:
        self._sandboxes.kill_pod(sandbox)


@pytest.fixture
def subject(sandboxes: Sandboxes) -> Iterator[Subject]:
    yield ContainerdSubject(sandboxes)


@pytest.fixture
def lasting(subject: Subject) -> Subject:
    return subject
