from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import SeedUnfit, SpecError
from kata_dind.host.process import find_tool, run
from kata_dind.seeding.archive import read_facts, unpack_files, write_archive
from kata_dind.store.marks import damaged_file
from kata_dind.store.seeds import FORMAT, new_seed_directory
from tests.unit.store.conftest import MakeSeed

pytestmark = pytest.mark.skipif(not find_tool("zstd"), reason="zstd is not installed")


def read_archive(file: Path, directory: Path) -> dict[str, Any]:
    """Read all of an archive."""
    facts = read_facts(file, directory)
    unpack_files(file, directory, facts)
    return facts


GOOD: dict[str, Any] = {"format": FORMAT, "children": [], "files": {"memory": {"size_bytes": 1, "sha256": "x"}}}


def pack(tmp_path: Path, facts: object, *members: tarfile.TarInfo) -> Path:
    """Write an archive as a stranger might."""
    plain, file = tmp_path / "foreign.tar", tmp_path / "foreign.seed"
    with tarfile.open(plain, "w") as tar:
        record = tarfile.TarInfo("seed.json")
        content = json.dumps(facts).encode()
        record.size = len(content)
        tar.addfile(record, io.BytesIO(content))
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    run(["zstd", "-q", "-f", plain, "-o", file], timeout_seconds=20)
    return file


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def test_what_was_written_is_read_without_what_is_made_anew(make_seed: MakeSeed, tmp_path: Path) -> None:
    seed, file = make_seed(), tmp_path / "a:b, c.seed"
    write_archive(seed, file)
    assert [path.name for path in tmp_path.glob("*part*")] == []
    assert file.stat().st_size < 1 << 16
    with new_seed_directory() as directory:
        facts = read_archive(file, directory)
        assert sorted(path.name for path in directory.iterdir()) == ["in-use.lock", "layer.img", "memory"]
        assert sorted(facts["files"]) == ["layer.img", "memory"]
        assert facts["name"] == "web"
        assert damaged_file(directory, facts["files"]) is None
        assert (directory / "layer.img").stat().st_blocks * 512 < 1 << 20


def test_a_file_that_cannot_be_written_leaves_nothing(make_seed: MakeSeed, tmp_path: Path) -> None:
    seed = make_seed()
    (tmp_path / "taken").mkdir()
    for file in (tmp_path / "absent" / "file", tmp_path / "taken"):
        with pytest.raises(SpecError, match=r"FILE: .* cannot be written"):
            write_archive(seed, file)
    assert list(tmp_path.rglob("*.part")) == []


def test_a_truncated_file_is_refused_at_any_length(make_seed: MakeSeed, tmp_path: Path) -> None:
    seed, file = make_seed(memory=bytes(range(256)) * 4096), tmp_path / "web.seed"
    write_archive(seed, file)
    whole = file.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with (
            pytest.raises(SpecError, match="is not a seed that `kata-dind seed export` has written"),
            new_seed_directory() as directory,
        ):
            read_archive(file, directory)


def test_damage_is_found_by_the_hash(make_seed: MakeSeed, tmp_path: Path) -> None:
    seed, file = make_seed(), tmp_path / "web.seed"
    (seed.directory / "memory").write_bytes(b"mEmory")
    write_archive(seed, file)
    with (
        pytest.raises(SeedUnfit, match="is damaged: the file memory in it is not as it was exported"),
        new_seed_directory() as directory,
    ):
        read_archive(file, directory)


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {},
        {**GOOD, "files": ["memory"]},
        {**GOOD, "children": None},
        {**GOOD, "files": {"memory": {}}},
        {**GOOD, "files": {"../memory": {"size_bytes": 0, "sha256": ""}}},
        {**GOOD, "files": {"/etc/x": {"size_bytes": 0, "sha256": ""}}},
        {**GOOD, "files": {"seed.json": {"size_bytes": 0, "sha256": ""}}},
        {**GOOD, "files": {"in-use.lock": {"size_bytes": 0, "sha256": ""}}},
    ],
    ids=str,
)
def test_a_record_that_we_have_not_written_is_refused(facts: object, tmp_path: Path) -> None:
    file = pack(tmp_path, facts, member("memory"))
    with pytest.raises(SpecError, match="is not a seed"), new_seed_directory() as directory:
        read_archive(file, directory)


@pytest.mark.parametrize(
    "members",
    [
        [member("memory", kind=tarfile.SYMTYPE, link="/etc/passwd")],
        [member("memory", kind=tarfile.SYMTYPE, link="../../secret"), member("memory/x", size=1)],
        [member("memory", kind=tarfile.LNKTYPE, link="in-use.lock")],
        [member("memory", kind=tarfile.DIRTYPE), member("memory/in", size=1)],
        [member("memory", kind=tarfile.FIFOTYPE)],
        [member("../memory", size=1)],
        [],
    ],
    ids=["link", "way out", "hard link", "directory", "pipe", "above", "absent"],
)
def test_only_plain_files_of_the_seed_are_taken(members: list[tarfile.TarInfo], tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    file = pack(tmp_path, GOOD, *members)
    with pytest.raises(SpecError, match="is not a seed"), new_seed_directory() as directory:
        read_archive(file, directory)
    assert [*(tmp_path / "secret").iterdir()] == []
    assert sorted(path.name for path in (tmp_path / "state" / "seeds").iterdir()) == []


def test_what_else_is_in_the_file_is_left_there(tmp_path: Path) -> None:
    mark = {"size_bytes": 0, "sha256": hashlib.sha256(bytes(8)).hexdigest()}
    file = pack(tmp_path, {**GOOD, "files": {"memory": mark}}, member("memory"), member("other"), member("../above"))
    with new_seed_directory() as directory:
        read_archive(file, directory)
        assert sorted(path.name for path in directory.iterdir()) == ["in-use.lock", "memory"]
        assert not (directory.parent / "above").exists()


def test_another_version_says_so(tmp_path: Path) -> None:
    file = pack(tmp_path, {**GOOD, "format": FORMAT + 1})
    with (
        pytest.raises(SeedUnfit, match="was exported by another version of kata-dind"),
        new_seed_directory() as directory,
    ):
        read_archive(file, directory)
