"""The chart, as Helm sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kata_dind.host.process import Completed, run
from kata_dind.manifest import parse_yaml
from scripts import build_helm
from scripts.generate_chart import CHART

Values = Mapping[str, Any]


def needs_helm() -> list[pytest.MarkDecorator]:
    """Return the marks of a module whose tests use Helm."""
    return [
        pytest.mark.requires("helm"),
        pytest.mark.thorough if build_helm.find_helm() else pytest.mark.slow(minutes=10),
        pytest.mark.timeout(1800),  # the first one builds it
    ]


def helm(
    *words: str | os.PathLike[str], home: Path, allowed_codes: Sequence[int] = (0,), **variables: str
) -> Completed:
    """Run Helm, which keeps what it keeps in a directory of the test's own."""
    homes = {name: str(home) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    argv = [build_helm.require_helm(), *words]
    return run(argv, timeout_seconds=120, environment={**homes, **variables}, allowed_codes=allowed_codes)


def with_values(values: Values, home: Path) -> list[str]:
    """Return the option for values, which are written to a file; YAML is JSON, too."""
    path = home / "values.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return [f"--values={path}"]


def rendered(values: Values, *more: str, home: Path, namespace: str = "kata-dind") -> list[dict[str, Any]]:
    """Return the objects that a release of the chart has, without its tests."""
    words = [
        "template",
        "kata-dind",
        str(CHART),
        f"--namespace={namespace}",
        "--skip-tests",
        "--kube-version=1.37.0",
        *more,
    ]
    text = helm(*words, *with_values(values, home), home=home).stdout
    return [item for item in parse_yaml(text, name="helm template") if item]
