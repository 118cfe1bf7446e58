"""The messages of CRI are of the versions that scripts/cri/go.mod names."""

from __future__ import annotations

from kata_dind.backend.containerd import stubs
from scripts import generate_cri


def test_they_are_of_these_versions() -> None:
    assert stubs.__doc__ is not None
    assert generate_cri.versions() in stubs.__doc__
