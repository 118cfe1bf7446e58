"""The versions of Docker 29 that the tests build: pinned whole, and said by the programs."""

from __future__ import annotations

from scripts import build_dind29


def test_go_mod_names_every_program_that_is_built() -> None:
    """Only what a `tool` line asks for has its own dependencies in go.sum."""
    text = (build_dind29.VERSIONS / "go.mod").read_text()
    tools = text.partition("tool (")[2].partition(")")[0].split()
    assert sorted(tools) == sorted(build_dind29.PACKAGES)


def test_every_module_that_is_built_has_its_sum() -> None:
    sums = (build_dind29.VERSIONS / "go.sum").read_text()
    for package in build_dind29.PACKAGES:
        module = package.partition("/cmd/")[0]
        assert f"{module} {build_dind29.version_of(module)} h1:" in sums


def test_dockerd_says_that_it_is_29() -> None:
    assert build_dind29.docker_version().startswith("29.")
