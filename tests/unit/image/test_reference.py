from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.image.reference import parse_reference

_DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "spelling", "source"),
    [
        ("docker", "docker:latest", "docker://docker:latest"),
        ("docker:28-dind", "docker:28-dind", "docker://docker:28-dind"),
        ("docker://docker:28-dind", "docker:28-dind", "docker://docker:28-dind"),
        ("my_org/a--b/c.d:V1", "my_org/a--b/c.d:V1", "docker://my_org/a--b/c.d:V1"),
        ("localhost:5000/dind", "localhost:5000/dind:latest", "docker://localhost:5000/dind:latest"),
        ("[::1]:5000/dind:x", "[::1]:5000/dind:x", "docker://[::1]:5000/dind:x"),
        (f"docker@{_DIGEST}", f"docker@{_DIGEST}", f"docker://docker@{_DIGEST}"),
        (f"r.test:5/a:t@{_DIGEST}", f"r.test:5/a:t@{_DIGEST}", f"docker://r.test:5/a@{_DIGEST}"),
    ],
)
def test_registry_references(text: str, spelling: str, source: str) -> None:
    reference = parse_reference(text, relative_to=Path("/"))
    assert (reference.text, reference.source) == (spelling, source)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:5000/a", True),
        ("127.8.8.8/a", True),
        ("localhost/a", True),
        ("[::1]:5000/a", True),
        ("localhost.test/a", False),
        ("128.0.0.1:5000/a", False),
        ("docker", False),
        ("localhost", False),
    ],
)
def test_registries_on_this_machine_are_known(text: str, loopback: bool) -> None:
    assert parse_reference(text, relative_to=Path("/")).is_loopback is loopback


def test_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "saved.tar").touch()
    layout = parse_reference("oci:layout:v1", relative_to=tmp_path)
    assert layout.text == layout.source == f"oci:{tmp_path}/layout:v1"
    archive = parse_reference("docker-archive:saved.tar", relative_to=tmp_path)
    assert archive.source == f"docker-archive:{tmp_path}/saved.tar"
    assert parse_reference(f"docker-archive:{tmp_path}/saved.tar:a/b:c", relative_to=Path("/")).source.endswith(
        ":a/b:c"
    )


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Docker", "docker:", "docker:28 dind", "docker/", "/docker", "a//b", "docker@sha256:12", "dé",
        "--help", "oci:", "oci:missing", "docker-archive:", "docker-archive:.", "http://docker", "Host/name", "a:b:c",
    ],
)  # fmt: skip
def test_anything_but_a_reference_is_refused_with_the_allowed_forms(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^REFERENCE: "):
        parse_reference(text, relative_to=tmp_path)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_a_spec_error(text: str) -> None:
    try:
        reference = parse_reference(text, relative_to=Path("/nonexistent"))
    except SpecError:
        return
    assert reference.source.startswith("docker://")
    assert parse_reference(reference.text, relative_to=Path("/")) == reference
