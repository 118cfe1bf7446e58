"""What every test on an API server needs: two programs, of which one may have to be built."""

from __future__ import annotations

import pytest

from scripts import build_kube


def needs(*programs: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a module whose tests use an API server, and these programs of Kubernetes."""
    used = ("kube-apiserver", *programs)
    built = all(build_kube.find_program(name) for name in used)
    return [
        pytest.mark.requires("etcd", "openssl", *used),
        pytest.mark.thorough if built else pytest.mark.slow(minutes=20),
        pytest.mark.timeout(3600),  # the first one builds them
    ]
