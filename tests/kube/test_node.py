"""A node whose kubelet can't run says so, with kubelet's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

from tests import requirements
from tests.kube.needs import needs
from tests.kube.node import NodeNotReady, start_node

pytestmark = needs("kubelet")


def test_a_kubelet_that_cant_run_is_told(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, private_directories: Path
) -> None:
    directory = private_directories / "broken"
    directory.mkdir(mode=0o711)
    with pytest.raises(NodeNotReady) as raised, start_node(directory, settings={"syncFrequency": "soon"}):
        pytest.fail("a node with a broken kubelet is ready")
    reason = str(raised.value)
    assert reason.startswith("kubelet ended (exit 1)")
    assert "soon" in reason
    monkeypatch.setattr(request.config.option, "require", [])
    with pytest.raises(Skipped, match=r"^requires kubelet: kubelet ended "):
        requirements.refuse(request.config, "kubelet", reason)
    monkeypatch.setattr(request.config.option, "require", ["kubelet"])
    with pytest.raises(Failed, match=r"^--require=kubelet: kubelet ended "):
        requirements.refuse(request.config, "kubelet", reason)
