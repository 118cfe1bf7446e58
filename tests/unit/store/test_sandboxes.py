from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_dind.errors import HostError, SandboxError, SpecError
from kata_dind.store.sandboxes import Record, create_record, list_records, record_of, sandboxes_directory

OWN = """
import sys
from pathlib import Path
from kata_dind.store.sandboxes import Record
with Record("x", Path(sys.argv[1])).owned():
    print("owned", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the sandbox `demo`."""
    record = create_record("demo")
    argv = [sys.executable, "-c", OWN, str(record.directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        try:
            yield process
        finally:
            process.kill()


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


# --- names


def test_a_record_is_a_private_directory_named_as_the_sandbox(state: Path) -> None:
    record = create_record("demo")
    assert record.directory == state / "sandboxes" / "demo"
    assert record.directory.stat().st_mode & 0o777 == 0o700
    assert (record.endpoint.name, record.control.name) == ("docker.sock", "control.sock")


def test_a_name_is_taken_once() -> None:
    create_record("demo")
    with pytest.raises(SpecError, match="there is a sandbox 'demo' already") as caught:
        create_record("demo")
    assert "kata-dind start demo" in caught.value.hint


def test_of_many_who_take_a_name_at_once_one_gets_it() -> None:
    results: list[bool] = []

    def take() -> None:
        try:
            create_record("demo")
        except SpecError:
            results.append(False)
        else:
            results.append(True)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_looking_at_a_name_makes_nothing(state: Path) -> None:
    assert not record_of("demo").directory.exists()
    assert [*sandboxes_directory().iterdir()] == []


@pytest.mark.parametrize("socket_name", ["docker.sock", "control.sock", "virtiofsd.sock"])
def test_a_path_that_is_accepted_is_short_enough_for_every_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, socket_name: str
) -> None:
    accepted = 0
    for length in range(1, 100 - len(str(tmp_path))):
        monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / ("s" * length)))
        try:
            record = create_record("demo")
        except HostError as error:
            assert "too long for a socket" in error.summary
            assert "KATA_DIND_STATE_DIR" in error.hint
            assert not record_of_length(tmp_path, length).exists()
            break
        bind(record.directory / socket_name)
        accepted += 1
    else:
        pytest.fail("no path was too long")
    assert accepted


def record_of_length(tmp_path: Path, length: int) -> Path:
    return tmp_path / ("s" * length) / "sandboxes" / "demo"


# --- the lock


def test_a_fresh_record_has_no_owner() -> None:
    record = create_record("demo")
    assert not record.is_owned()
    with record.owned():
        assert record.is_owned()
    assert not record.is_owned()


def test_a_record_has_one_owner(owner: subprocess.Popen[str]) -> None:
    record = record_of("demo")
    assert record.is_owned()
    with (
        pytest.raises(SandboxError, match="the sandbox 'demo' is running or starting already"),
        record.owned(timeout_seconds=0),
    ):
        pass


def test_an_owner_that_is_killed_owns_nothing(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    record = record_of("demo")
    assert not record.is_owned()
    with record.owned():
        pass


def test_looks_at_the_lock_do_not_keep_an_owner_out() -> None:
    record = create_record("demo")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            record.is_owned()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            with record.owned():
                pass
    finally:
        stop.set()
        thread.join()


# --- the files


def test_what_is_written_can_be_read_and_leaves_nothing_beside_it() -> None:
    record = create_record("demo")
    record.write("status.json", {"state": "running", "ünicode": [1, None]})
    record.write("status.json", {"state": "stopped"})
    assert record.read("status.json") == {"state": "stopped"}
    assert [path.name for path in record.directory.iterdir()] == ["status.json"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"null", b"\xff\xfe"])
def test_what_cannot_be_read_is_empty(content: bytes | None) -> None:
    record = create_record("demo")
    if content is not None:
        (record.directory / "status.json").write_bytes(content)
    assert record.read("status.json") == {}


def test_readers_never_see_half_a_file() -> None:
    record = create_record("demo")
    record.write("status.json", {"fill": "x" * 100_000, "end": True})
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            record.write("status.json", {"fill": "y" * 100_000, "end": True})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(record.read("status.json").get("end") for _ in range(200))
    finally:
        stop.set()
        thread.join()


# --- the end


def test_removing_leaves_nothing() -> None:
    record = create_record("demo")
    record.write("plan.json", {})
    (record.directory / "shared").mkdir()
    bind(record.endpoint)
    record.remove()
    assert [*sandboxes_directory().iterdir()] == []
    create_record("demo")


def test_removing_what_is_gone_says_so() -> None:
    record = create_record("demo")
    record.remove()
    with pytest.raises(FileNotFoundError):
        record.remove()


def test_a_removal_that_was_killed_half_way_is_not_listed_and_is_finished() -> None:
    doomed = sandboxes_directory() / ".removed-demo-1"
    (doomed / "shared").mkdir(parents=True)
    create_record("other")
    assert [record.name for record in list_records()] == ["other"]
    assert not doomed.exists()


def test_a_list_beside_a_removal_disturbs_neither() -> None:
    stop = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        while not stop.is_set():
            seen.update(record.name for record in list_records())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(100):
            record = create_record("demo")
            for number in range(20):
                (record.directory / f"file{number}").touch()
            record.remove()
    finally:
        stop.set()
        thread.join()
    assert seen <= {"demo"}


def test_records_are_listed_by_name_and_files_are_not() -> None:
    for name in ("b", "a"):
        create_record(name)
    (sandboxes_directory() / "note.txt").touch()
    assert [record.name for record in list_records()] == ["a", "b"]


def test_sockets_that_a_killed_owner_left_are_swept(owner: subprocess.Popen[str]) -> None:
    record = record_of("demo")
    (record.directory / "kept.sock").write_text("a file of that name")
    bind(record.endpoint)
    assert list_records() == [record]
    assert record.endpoint.exists()
    owner.kill()
    owner.wait()
    list_records()
    assert not record.endpoint.exists()
    assert (record.directory / "kept.sock").exists()


def test_what_is_written_is_json_for_people_to_read() -> None:
    record = create_record("demo")
    record.write("plan.json", {"a": 1})
    text = (record.directory / "plan.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": 1}
    assert Record("demo", record.directory) == record
    assert os.access(record.directory / "plan.json", os.R_OK)
