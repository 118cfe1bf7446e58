"""The versions of Kubernetes' programs that the tests build: pinned whole, all of one release."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import build_kube

_GO_MOD = (build_kube.VERSIONS / "go.mod").read_text()


def test_go_mod_names_every_program_that_is_built() -> None:
    """Only what a `tool` line asks for has its own dependencies in go.sum."""
    tools = _GO_MOD.partition("tool (")[2].partition(")")[0].split()
    assert {build_kube.package_of(name) for name in build_kube.PROGRAMS} <= {*tools}


def test_every_library_of_the_release_is_of_the_release() -> None:
    replaced = [line.split() for line in _GO_MOD.partition("\nreplace (")[2].splitlines() if "=>" in line]
    wanted = build_kube.version().replace("v1.", "v0.", 1)
    assert len(replaced) > 30
    assert {(old == new, version) for old, _, new, version in replaced} == {(True, wanted)}


def test_a_program_of_the_assets_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("KATA_DIND_CACHE_DIR", str(tmp_path / "cache"))
    assert build_kube.find_program("kubectl") is None
    (tmp_path / "kubectl").touch(mode=0o755)
    assert build_kube.find_program("kubectl") == tmp_path / "kubectl" == build_kube.require_program("kubectl")
