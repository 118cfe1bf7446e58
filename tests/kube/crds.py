"""Kinds of others that the chart makes objects of: their definitions, from the modules that have them.

crds/go.mod has their versions. The operators themselves don't run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kata_dind.manifest import parse_yaml
from scripts.go_modules import module_directory

VERSIONS = Path(__file__).parent / "crds"
_FILES = {
    "github.com/cert-manager/cert-manager": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}
MODULES = tuple(_FILES)


def definitions() -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions."""
    found: list[dict[str, Any]] = []
    for module, names in _FILES.items():
        directory = module_directory(module, versions=VERSIONS)
        for name in names:
            found += parse_yaml((directory / name).read_text(encoding="utf-8"), name=name)
    return [item for item in found if item]
