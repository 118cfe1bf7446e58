"""`kata-dind volume`, on volumes that are real but for what a sandbox would write."""

from __future__ import annotations

import json

import pytest

from kata_dind.cli.completion import volume_names
from kata_dind.host.disks import create_disk
from kata_dind.store.sandboxes import create_record
from kata_dind.store.volumes import Volume, list_volumes, use_volume
from kata_dind.vocabulary import DataRootKind
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import FakeSandboxes


@pytest.fixture
def volume(home: object) -> Volume:
    """The volume `db`, as the sandbox `demo` has left it."""
    with use_volume("db", asked=DataRootKind.AUTO) as (volume, _):
        create_disk(volume.directory / "data.img", size_mib=1024)
        volume.note_verdict(sandbox="demo", docker_version="28.5.2", storage="overlay2 on extfs")
    return volume


def test_ls(cli: CommandLine, volume: Volume) -> None:
    create_record("demo").write("spec.json", {"volume": "db"})
    table = cli("volume", "ls").stdout.splitlines()
    assert table[0].split() == ["NAME", "KIND", "SIZE", "DISK", "USED", "BY", "DOCKER"]
    name, kind, size, disk, used_by, docker = table[1].split()
    assert (name, kind, size, used_by, docker) == ("db", "block", "1.0G", "demo", "28.5.2")
    assert disk.endswith("K")
    assert cli("volume", "ls", "-q").stdout == "db\n"
    (row,) = json.loads(cli("volume", "ls", "--json").stdout)
    assert (row["name"], row["used_by"], row["in_use"]) == ("db", ["demo"], False)


def test_inspect(cli: CommandLine, volume: Volume) -> None:
    assert "docker_version: 28.5.2\n" in cli("volume", "inspect", "db").stdout
    assert json.loads(cli("volume", "inspect", "db", "--json").stdout)["filesystem"] == "ext4"
    outcome = cli("volume", "inspect", "other")
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        "kata-dind: there is no volume 'other' (there are: db)\nhint: kata-dind up --volume other\n",
    )


def test_resize(cli: CommandLine, volume: Volume) -> None:
    assert cli("volume", "resize", "db", "2G").exit_code == 0
    assert json.loads(cli("volume", "resize", "db", "3G", "--json").stdout)["size_bytes"] == 3 << 30
    for size, complaint in (("1G", "SIZE: 1024M is less"), ("x", "SIZE: 'x' is not a size"), ("1M", "too small")):
        outcome = cli("volume", "resize", "db", size)
        assert outcome.exit_code == 2
        assert complaint in outcome.stderr
    assert volume.size_bytes == 3 << 30


def test_fsck(cli: CommandLine, volume: Volume) -> None:
    assert cli("volume", "fsck", "db").stdout == "clean\n"
    assert json.loads(cli("volume", "fsck", "db", "--json").stdout) == {"name": "db", "outcome": "clean"}
    with (volume.directory / "data.img").open("r+b") as file:
        file.seek(1024)
        file.write(bytes(1024))
    outcome = cli("volume", "fsck", "db")
    assert outcome.exit_code == 5
    assert "is damaged" in outcome.stderr
    assert f"e2fsck -f -y {volume.directory}/data.img" in outcome.stderr


def test_rm(cli: CommandLine, volume: Volume) -> None:
    assert cli("volume", "rm", "db", "other").exit_code == 2
    record = create_record("demo")
    record.write("spec.json", {"volume": "db"})
    assert cli("volume", "rm", "db").exit_code == 2
    assert [left.name for left in list_volumes()] == ["db"]
    record.remove()
    assert cli("volume", "rm", "db", "db").exit_code == 0
    assert list_volumes() == []


def test_a_volume_is_asked_for_and_completed_by_its_name(
    cli: CommandLine, sandboxes: FakeSandboxes, volume: Volume
) -> None:
    assert cli("up", "--volume", "db").exit_code == 0
    assert sandboxes.specs[-1].volume == "db"
    assert volume_names("d") == ["db"]
    assert volume_names("x") == []
    for words, complaint in (
        (("--volume", "No!"), "--volume: 'No!' is not a name"),
        (("--volume", "db", "--data-root", "memory"), "--volume: 'db' outlives its sandboxes, and --data-root memory"),
    ):
        outcome = cli("up", *words)
        assert outcome.exit_code == 2
        assert complaint in outcome.stderr
