"""Programs in containers that watch shared files see what this host changes in them."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.vm.driver import START_SECONDS, SandboxDriver, succeed

pytestmark = pytest.mark.requires("qemu", "virtiofsd", "usr-python")

NAME = "watched"
LATEST_SECONDS = 2.0
PYTHON = ["/mnt/usr:/usr:ro", "/mnt/usr/lib:/lib:ro", "/mnt/usr/lib64:/lib64:ro"]
"""This host's programs, for containers of an image that has none."""

READER = """
import ctypes, os, re, struct
libc = ctypes.CDLL(None)
watch, places, many = libc.inotify_init(), {}, set()
names = {2: "MODIFY", 4: "ATTRIB", 8: "CLOSE_WRITE", 0x100: "CREATE"}

def add(top):
    for place, _, _ in os.walk(top):
        places[libc.inotify_add_watch(watch, place.encode(), 0x10e)] = place

def content(path):
    try:
        return open(path).read() if os.path.isfile(path) else "-"
    except FileNotFoundError:
        return "-"

add("/app")
print("watching", flush=True)
while data := os.read(watch, 65536):
    while data:
        number, mask, _, length = struct.unpack_from("iIII", data)
        path = os.path.join(places[number], data[16 : 16 + length].rstrip(b"\\0").decode()).rstrip("/")
        data = data[16 + length :]
        if re.match("/app/many/[0-9]+/[0-9]+$", path):
            many.add(path)
            if len(many) == 10000:
                print("many", flush=True)
            continue
        if mask & 4 and os.path.isdir(path):
            add(path)
        print(" ".join(name for bit, name in names.items() if mask & bit), path, content(path), flush=True)
"""


class Reader:
    """A container that tells what inotify reports, and what a file has in it then."""

    def __init__(self, sandbox: SandboxDriver, name: str) -> None:
        self._sandbox = sandbox
        self._name = name
        self.seen = 0

    @contextlib.contextmanager
    def container(self) -> Iterator[docker.models.containers.Container]:
        with contextlib.closing(connect(self._sandbox)) as client:
            yield client.containers.get(self._name)

    def wait_for(self, pattern: str, *, seconds: float = START_SECONDS) -> float:
        """Wait until a line has come that matches; return after how many seconds."""
        began = time.monotonic()
        with self.container() as container:
            while time.monotonic() < began + seconds:
                text = container.logs().decode()
                if found := re.search(pattern, text[self.seen :]):
                    self.seen += found.end()
                    return time.monotonic() - began
                time.sleep(0.05)
        raise AssertionError(f"{pattern!r} is not in {text[self.seen :]!r}, after {text[: self.seen]!r}")


def connect(sandbox: SandboxDriver) -> docker.DockerClient:
    return docker.DockerClient(base_url=sandbox.docker_host, timeout=int(START_SECONDS))


def start_reader(sandbox: SandboxDriver, shared: Path, name: str = "reader") -> Reader:
    """Start a reader of a share, whose image comes into the sandbox with the first use of its name."""
    succeed("docker", sandbox.name, "--", "image", "inspect", "kata-dind/hello")
    with contextlib.closing(connect(sandbox)) as client:
        client.containers.run(
            "kata-dind/hello", ["-c", READER], entrypoint="/usr/bin/python3", name=name, detach=True,
            volumes=[*PYTHON, f"{shared}:/app:ro"],
        )  # fmt: skip
    reader = Reader(sandbox, name)
    reader.wait_for("watching\n")
    return reader


@contextlib.contextmanager
def watched_sandbox(name: str, shared: Path) -> Iterator[SandboxDriver]:
    succeed("up", name, "--watch", "--share", str(shared), "--share", "/usr:/mnt/usr:ro")
    try:
        yield SandboxDriver(name)
    finally:
        succeed("rm", "--force", name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.mktemp("watched") / "app"
    (shared / "sub").mkdir(parents=True)
    (shared / "file").write_text("first")
    for number in range(100):
        (shared / "many" / f"{number}").mkdir(parents=True)
    return shared


@pytest.fixture(scope="module")
def watched(shared: Path, private_directories: Path) -> Iterator[SandboxDriver]:
    with watched_sandbox(NAME, shared) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def reader(watched: SandboxDriver, shared: Path) -> Reader:
    return start_reader(watched, shared)


def test_a_change_is_reported_soon_with_the_new_content_and_changes_nothing(reader: Reader, shared: Path) -> None:
    took = []
    for number in range(4):
        (shared / "file").write_text(f"{number} " + "x" * number)
        before = (shared / "file").stat()
        took.append(reader.wait_for(f"MODIFY /app/file {number} x*\n(.*\n)*CLOSE_WRITE /app/file {number} x*\n"))
        assert (shared / "file").stat().st_mtime_ns == before.st_mtime_ns
        assert (shared / "file").stat().st_ctime_ns == before.st_ctime_ns
    assert min(took) < LATEST_SECONDS, took


def test_a_file_that_is_replaced_is_read_anew(reader: Reader, shared: Path) -> None:
    # Within the second for which the guest believes what it knows of a name.
    for text in ("replaced", "replaced again, and longer"):
        (shared / "new").write_text(text)
        (shared / "new").rename(shared / "file")
        reader.wait_for(f"MODIFY /app/file {text}\n")
    (shared / "file").unlink()
    reader.wait_for("ATTRIB /app -\n")
    with reader.container() as container:
        assert container.exec_run(["/bin/busybox", "test", "-e", "/app/file"]).exit_code == 1


def test_new_files_and_directories_are_reported_by_their_directory(reader: Reader, shared: Path) -> None:
    (shared / "sub" / "new").write_text("made")
    reader.wait_for("MODIFY /app/sub/new made\n")
    (shared / "deep" / "deeper").mkdir(parents=True)
    reader.wait_for("ATTRIB /app -\n")
    time.sleep(0.5)
    (shared / "deep" / "deeper" / "file").write_text("below")
    reader.wait_for("MODIFY /app/deep/deeper/file below\n")
    (shared / "program").write_text("#!/bin/sh\n")
    (shared / "program").chmod(0o755)
    reader.wait_for("ATTRIB /app/program #!/bin/sh\n")


@pytest.mark.thorough
def test_ten_thousand_changes_at_once(reader: Reader, shared: Path) -> None:
    for number in range(100):
        for name in range(100):
            (shared / "many" / f"{number}" / f"{name}").write_text("y")
    reader.wait_for("many\n", seconds=10 * START_SECONDS)
    (shared / "file").write_text("after all these")
    reader.wait_for("MODIFY /app/file after all these\n")


def test_it_is_in_the_spec_and_the_warnings_name_the_share_that_is_read_only(watched: SandboxDriver) -> None:
    inspection = json.loads(succeed("inspect", NAME, "--json"))
    assert inspection["spec"]["watch"] is True
    assert [warning for warning in inspection["warnings"] if warning.startswith("--watch: ")] == [
        "--watch: containers are not told of changes in '/usr', since its share is read-only; share it without :ro, "
        "and mount it read-only in containers: docker run -v /mnt/usr:/PLACE:ro"
    ]


@pytest.mark.thorough
def test_shares_that_come_later_are_watched_and_it_is_kept_over_a_stop(shared: Path, tmp_path: Path) -> None:
    (later := tmp_path / "later").mkdir()
    (later / "file").write_text("first")
    with watched_sandbox("later", shared) as sandbox:
        succeed("share", "add", sandbox.name, str(later))
        reader = start_reader(sandbox, later)
        (later / "file").write_text("second")
        reader.wait_for("MODIFY /app/file second\n")
        with reader.container() as container:
            container.kill()
        succeed("share", "rm", sandbox.name, str(later))
        succeed("share", "add", sandbox.name, str(later))
        # Nothing of the watch stands in the way of a save.
        (later / "file").write_text("third")
        succeed("stop", "--save", sandbox.name)
        succeed("start", sandbox.name)
        with reader.container() as container:
            reader.seen = len(container.logs())
            container.start()
        reader.wait_for("watching\n")
        (later / "file").write_text("fourth")
        reader.wait_for("MODIFY /app/file fourth\n")
        succeed("share", "watch", sandbox.name, "--off")
        (later / "file").write_text("nobody is told")
        succeed("share", "watch", sandbox.name)
        (later / "file").write_text("fifth")
        reader.wait_for("MODIFY /app/file fifth\n")
        with reader.container() as container:
            assert b"nobody is told" not in container.logs()
