from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from kata_dind.errors import ImageError
from kata_dind.host.directories import cache_directory
from kata_dind.image import store
from kata_dind.image.store import DindImage

_NO_LOAD = "pydantic rich asyncio docker qemu typer platformdirs kata_dind.image.workspace kata_dind.host.process"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DIND_CACHE_DIR", str(tmp_path / "cache"))
    return cache_directory()


def _add(cache: Path, reference: str, content: str, *, command: tuple[str, ...] = ("dockerd",)) -> DindImage:
    directory = cache / "build"
    directory.mkdir()
    (directory / "disk.erofs").write_text(content)
    record = DindImage(
        reference=reference,
        image_id="",
        disk=directory,
        entrypoint=(),
        command=command,
        environment=("PATH=/bin",),
        docker_version="28.5.2",
        created="2026-01-01T00:00:00Z",
        size_bytes=0,
        origin="a test",
    )
    image = store.add_image(directory, record, cache=cache)
    for leftover in directory.glob("*"):
        leftover.unlink()
    if directory.exists():
        directory.rmdir()
    return image


def test_an_empty_cache_has_no_images(cache: Path) -> None:
    assert store.list_images() == []
    assert store.find_image("dind:trixie") is None


def test_an_image_reads_back_as_it_was_added(cache: Path) -> None:
    image = _add(cache, "dind:trixie", "content")
    assert store.list_images() == [image]
    assert image.size_bytes == 7
    assert image.disk.read_text() == "content"
    assert image.disk == cache / "images" / image.image_id / "disk.erofs"


def test_images_are_found_by_reference_and_by_the_beginning_of_their_id(cache: Path) -> None:
    image = _add(cache, "docker:latest", "content")
    assert store.find_image("docker:latest") == store.find_image("docker") == image
    assert store.find_image(image.image_id[:4]) == image
    assert store.find_image(image.image_id[:3]) is None
    assert store.find_image("") is None


def test_an_unknown_image_names_the_known_ones_and_a_way_to_it(cache: Path) -> None:
    _add(cache, "dind:trixie", "content")
    with pytest.raises(ImageError, match=r"no image dind:forky; known are: dind:trixie") as caught:
        store.require_image("dind:forky")
    assert caught.value.hint == "kata-dind image build --suite forky"


def test_equal_content_is_stored_once_under_two_references(cache: Path) -> None:
    first, second = _add(cache, "a:1", "content"), _add(cache, "b:1", "content")
    assert first.image_id == second.image_id
    assert [image.reference for image in store.list_images()] == ["a:1", "b:1"]
    assert len(list((cache / "images").iterdir())) == 1


def test_another_command_is_another_image(cache: Path) -> None:
    first, second = _add(cache, "a:1", "content"), _add(cache, "b:1", "content", command=("sh",))
    assert first.image_id != second.image_id
    assert [image.command for image in store.list_images()] == [("dockerd",), ("sh",)]


def test_moving_a_reference_keeps_the_older_image_until_it_is_removed(cache: Path) -> None:
    old, new = _add(cache, "dind:trixie", "old"), _add(cache, "dind:trixie", "new")
    assert store.find_image("dind:trixie") == new
    assert store.list_images() == [new, dataclasses.replace(old, reference="")]
    assert old.disk.read_text() == "old"
    store.remove_image(old.image_id)
    assert store.list_images() == [new]


def test_removing_a_reference_leaves_the_image_to_the_others(cache: Path) -> None:
    _add(cache, "a:1", "content")
    kept = _add(cache, "b:latest", "content")
    store.remove_image("a:1")
    assert store.list_images() == [kept]
    store.remove_image("b")
    assert store.list_images() == []
    assert list((cache / "images").iterdir()) == []


def test_removing_an_id_removes_all_its_references(cache: Path) -> None:
    image = _add(cache, "a:1", "content")
    _add(cache, "b:1", "content")
    store.remove_image(image.image_id)
    assert store.list_images() == []


def test_an_image_in_use_is_not_removed(cache: Path) -> None:
    image = _add(cache, "a:1", "content")
    with store.use_image(image), store.use_image(image):
        with pytest.raises(ImageError, match="in use by a running sandbox"):
            store.remove_image("a:1")
        assert store.find_image("a:1") == image
    store.remove_image("a:1")
    with pytest.raises(ImageError, match="the image a:1 has been removed"), store.use_image(image):
        raise AssertionError


def test_half_a_removed_image_is_not_listed_and_does_no_harm(cache: Path) -> None:
    image = _add(cache, "a:1", "content")
    (image.disk.parent / "image.json").unlink()
    assert store.list_images() == []
    assert _add(cache, "a:1", "content") == image
    assert store.list_images() == [image]
    assert [path.name for path in (cache / "images").iterdir()] == [image.image_id]


def test_a_removal_that_was_killed_is_finished_by_the_next_look(cache: Path) -> None:
    image = _add(cache, "a:1", "content")
    kept = _add(cache, "b:1", "other")
    image.disk.parent.rename(cache / "images" / f".removed-{image.image_id}-0")
    assert store.list_images() == [kept]
    assert [path.name for path in (cache / "images").iterdir()] == [kept.image_id]


def test_references_may_be_as_long_as_docker_allows(cache: Path) -> None:
    reference = "registry.test:5000/" + "a/" * 100 + "b:" + "t" * 128
    _add(cache, reference, "content")
    assert [image.reference for image in store.list_images()] == [reference]


def test_a_reference_knows_when_it_was_given(cache: Path) -> None:
    image = _add(cache, "a:1", "content")
    assert store.image_since("a:1", since=0.0) == image
    assert store.image_since("a:1", since=4e9) is None
    assert store.image_since("b:1", since=0.0) is None


def test_listing_loads_only_what_is_quick() -> None:
    code = f"import sys, kata_dind.image.store; print(*[m for m in '{_NO_LOAD}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
