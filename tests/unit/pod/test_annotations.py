from __future__ import annotations

from typing import Any

import pytest

from kata_dind.pod.annotations import NOTHING, read_wishes
from kata_dind.pod.model import Severity
from kata_dind.vocabulary import DataRootKind
from tests.unit.pod.pods import container, pod

GIB = 1 << 30


def wishes_of(**annotations: Any) -> Any:
    named = {"kata-dind.io/" + name.replace("_", "-"): value for name, value in annotations.items()}
    return read_wishes(pod(container("docker:dind", "dind"), annotations=named))


@pytest.mark.parametrize("value", ["true", "on", "yes", "enabled", "True", "YES", " on "])
def test_a_repair_is_asked_for(value: str) -> None:
    wishes, findings = wishes_of(repair=value)
    assert (wishes.repair, findings) == (True, ())


@pytest.mark.parametrize("value", ["false", "off", "no", "disabled", "OFF"])
def test_a_repair_is_refused(value: str) -> None:
    wishes, findings = wishes_of(repair=value)
    assert (wishes.repair, findings) == (False, ())


@pytest.mark.parametrize(
    "value", ["", "1", "0", "maybe", "true false", "$(true)", "tru", "\ud800", "y" * 10_000, True, 1, None, []]
)
def test_anything_else_leaves_the_pod_alone(value: object) -> None:
    wishes, findings = wishes_of(repair=value)
    assert wishes.repair is False
    assert [(finding.id, finding.severity) for finding in findings] == [("annotation.repair", Severity.WARNING)]
    assert len(findings[0].message) < 300
    assert findings[0].pointer == ("metadata", "annotations", "kata-dind.io/repair")


@pytest.mark.parametrize("value", ["memory", "loop", "block", "virtiofs", "auto", "Loop"])
def test_a_kind(value: str) -> None:
    wishes, findings = wishes_of(data_root=value)
    assert (wishes.kind, findings) == (DataRootKind(value.lower()), ())


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("20Gi", 20 * GIB),
        ("20G", 20 * 10**9),
        ("1.5Ti", 1536 * GIB),
        ("64Mi", 64 << 20),
        ("64Ti", 64 << 40),
        ("1e10", 10**10),
        ("107374182400", 100 * GIB),
    ],
)
def test_a_size(value: str, size_bytes: int) -> None:
    wishes, findings = wishes_of(size=value)
    assert (wishes.size_bytes, findings) == (size_bytes, ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "1e9Gi"),
        ("size", "20 Gi"),
        ("size", "20GB"),
        ("size", "-20Gi"),
        ("size", "0"),
        ("size", "1Ki"),
        ("size", "65Ti"),
        ("size", "1e99"),
        ("size", "9" * 5000),
        ("size", "20Gi; rm -rf /"),
        ("size", "$(reboot)"),
        ("size", "20Gi\n"[:4] + "\x00"),
        ("size", 20),
        ("data_root", "disk"),
        ("data_root", ""),
        ("data_root", "loop;reboot"),
        ("data_root", "/var/lib/../docker"),
        ("container", "other"),
        ("container", "Dind"),
        ("container", "dind;reboot"),
        ("container", "../dind"),
        ("container", "d" * 64),
        ("container", ["dind"]),
        ("sise", "20Gi"),
    ],
)
def test_what_is_wrong_is_said_and_not_used(name: str, value: object) -> None:
    wishes, findings = wishes_of(**{name: value})
    assert (wishes.kind, wishes.size_bytes, wishes.container) == (None, None, "")
    known = name.replace("_", "-") if name != "sise" else "unknown"
    assert [(finding.id, finding.severity) for finding in findings] == [(f"annotation.{known}", Severity.WARNING)]
    assert len(findings[0].message) < 300
    assert "\n" not in findings[0].message
    assert "\0" not in findings[0].message


def test_a_container() -> None:
    assert wishes_of(container="dind")[0].container == "dind"


def test_annotations_of_others_are_nothing() -> None:
    assert read_wishes(pod(container("x"), annotations={"a/kata-dind.io/repair": "true", "kata": "1"})) == (NOTHING, ())
    broken: object
    for broken in (None, [], "kata-dind.io/repair", {1: 2}, {"kata-dind.io/repaired": "loop 0.1"}):
        wishes, findings = read_wishes({"metadata": {"annotations": broken}})
        assert (wishes.repair, findings) == (None, ())
    assert read_wishes({"metadata": []})[0] == NOTHING
