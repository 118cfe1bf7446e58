"""What is said of a start that failed and of its pod."""

from __future__ import annotations

from kata_dind.backend.containerd.start import note_of_end
from kata_dind.errors import AbnormalShutdown, ContainerdError


def test_a_pod_whose_dockerd_was_cut_off_is_not_said_to_be_there() -> None:
    assert note_of_end(AbnormalShutdown("dockerd was cut off", id="containerd.cut-off")) == "dockerd was cut off"
    lasting = ContainerdError("the pod can't be ended", id="containerd.pod-does-not-end")
    assert note_of_end(lasting) == "its pod is still there: the pod can't be ended"
