"""The image of deploy/image, built inside of a sandbox, without a registry, and run there as the chart runs it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kata_dind.pod.wrapper import DIRECTORY, FILE
from kata_dind.version import __version__
from tests.own_image import build_base, make_context
from tests.vm.driver import SandboxDriver, succeed

# Measured on two busy cores: 290 s until the image is built in an emulated guest, 100 s for all that is asked of it.
pytestmark = [
    pytest.mark.requires("qemu", "virtiofsd", "mmdebstrap"),
    pytest.mark.slow(minutes=10),
    pytest.mark.timeout(2400),
]

Record = Callable[[str, object], None]
"""Writes a measurement into the report of --junit-xml."""

NAME, IMAGE, BUILD = "webhook-image", "kata-dind.io/kata-dind:test", "/srv/build"
BUILD_SECONDS = 1200.0
"""For an emulated guest on a busy machine, in which pip and the compiler of bytecode run."""
READY_SECONDS = 120.0
MOST_BYTES = 160_000_000

PACKAGES = {
    *("_cffi_backend", "_yaml", "annotated_doc", "annotated_types", "anyio", "cryptography", "h11", "httpcore2"),
    *("httptools", "httpx2", "idna", "kata_dind", "orjson", "platformdirs", "prometheus_client", "pydantic"),
    *("pydantic_core", "shellingham", "truststore", "typer", "typing_extensions", "typing_inspection", "uvloop"),
    "yaml",
}
"""All that can be imported beside the standard library."""

PROGRAMS = {"bin/cp", "entrypoint.sh", "usr/bin/python3.13"}

_FACTS = """
import json, os
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
    return ""
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "ids": status["Uid"].split() + status["Gid"].split(), "new privileges": status["NoNewPrivs"] == "0",
    "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "links": os.listdir("/sys/class/net"), "root": refused("/file"), "tmp": refused("/tmp/file"),
}))
"""

_HEALTH = 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:8080/healthz").status)'


@pytest.fixture(scope="module")
def build_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the sandbox is given: a base from distribution packages, and the context of the build."""
    directory = tmp_path_factory.mktemp("webhook-image")
    make_context(directory / "context")
    build_base(directory / "base.tar")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def builder(build_directory: Path, private_directories: Path) -> Iterator[SandboxDriver]:
    """A sandbox that has built the image."""
    succeed("up", NAME, "--size", "4G", "--memory", "1536M", "--share", f"{build_directory}:{BUILD}:ro")
    try:
        sandbox = SandboxDriver(NAME)
        sandbox.succeed(f"docker import {BUILD}/base.tar base:trixie", timeout_seconds=BUILD_SECONDS)
        build = f"docker build --network none --build-arg BASE=base:trixie --tag {IMAGE} --file Containerfile ."
        # Docker before 23 builds with its own builder, unless told otherwise.
        sandbox.succeed(f"cd {BUILD}/context && DOCKER_BUILDKIT=0 {build}", timeout_seconds=BUILD_SECONDS)
        yield sandbox
    finally:
        succeed("rm", "--force", NAME)


@pytest.fixture(scope="module")
def image(builder: SandboxDriver) -> dict[str, Any]:
    """What Docker says of the image."""
    (found,) = json.loads(builder.succeed(f"docker image inspect {IMAGE}"))
    return dict(found)


@pytest.fixture(scope="module")
def files(builder: SandboxDriver, image: dict[str, Any]) -> dict[str, str]:
    """The mode of every file in the image, as tar prints it, by its path; none that Docker itself puts there."""
    export = f"docker create --name files {IMAGE} >&2 && docker export files | tar --list --verbose"
    found = dict(map(_row, builder.succeed(export, "docker rm files >&2").splitlines()))
    docker = ("dev/", "proc/", "sys/", ".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")
    return {path: mode for path, mode in found.items() if not path.startswith(docker)}


def _row(line: str) -> tuple[str, str]:
    row = re.fullmatch(r"(\S{10}) .*? \d\d:\d\d (.+?)(?: -> .*| link to .*)?", line)
    assert row, line
    return row[2].removeprefix("./"), row[1]


def test_it_is_small(image: dict[str, Any], record_property: Record) -> None:
    record_property("unpacked_bytes", image["Size"])
    assert 40_000_000 < image["Size"] <= MOST_BYTES


def test_it_runs_as_nobody_with_kata_dind_as_its_program(image: dict[str, Any]) -> None:
    config = image["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/usr/bin/python3", "-I", "-m", "kata_dind"]
    assert not config["Cmd"]


def test_it_has_the_packages_of_the_webhook_and_no_others(files: dict[str, str]) -> None:
    paths = [re.fullmatch(r"usr/local/lib/python3\.13/dist-packages/([^/]+)", path.rstrip("/")) for path in files]
    names = {path[1].partition(".")[0] for path in paths if path and not path[1].endswith(".dist-info")}
    assert names - {"__pycache__"} == PACKAGES


def test_it_has_no_other_programs_and_nothing_that_gives_rights(files: dict[str, str]) -> None:
    executable = {path for path, mode in files.items() if mode[0] == "-" and "x" in mode}
    of_python = ("usr/lib/python3.13/", "usr/local/lib/python3.13/")
    libraries = {path for path in executable if re.search(r"\.so(\.|$)", path) or path.startswith(of_python)}
    assert executable - libraries == PROGRAMS
    assert {path for path, mode in files.items() if mode[0] == "-" and set("sS") & set(mode)} == set()
    assert {path for path, mode in files.items() if mode[8] == "w" and mode[0] != "l"} == {"tmp/"}


def test_it_has_no_tests_compilers_or_sources_of_modules(files: dict[str, str]) -> None:
    unused = re.compile(r"(^|/)(tests?|pip|setuptools|ensurepip|idlelib|tkinter|include|share)/|\.(c|h|pyx|pxd|pyi|a)$")
    assert [path for path in files if unused.search(path)] == []


def test_every_module_is_compiled(files: dict[str, str]) -> None:
    """Nobody may write into the image, so that a module would be compiled again at each start."""
    modules = [path for path in files if path.endswith(".py") and "/python3.13/" in path]
    assert len(modules) > 500
    missing = [path for path in modules if _compiled(path) not in files]
    assert missing == []


def _compiled(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/__pycache__/{name.removesuffix('.py')}.cpython-313.pyc"


def test_it_brings_the_entrypoint_into_a_pod(builder: SandboxDriver, image: dict[str, Any]) -> None:
    """The init container of a repaired pod, with the policy's `deliveryImage`."""
    builder.succeed("mkdir /srv/delivered")
    copy = f"/bin/cp /{FILE} {DIRECTORY}/{FILE}"
    program, arguments = copy.split(" ", 1)
    run = f"docker run --rm --network none --user 0 --volume /srv/delivered:{DIRECTORY}"
    builder.succeed(f"{run} --entrypoint {program} {IMAGE} {arguments}")
    builder.succeed(f"test -x /srv/delivered/{FILE}")
    delivered = builder.succeed(f"cat /srv/delivered/{FILE}")
    assert delivered == succeed("entrypoint")


def test_it_serves_without_rights_a_network_or_a_file_to_write(
    builder: SandboxDriver, image: dict[str, Any], record_property: Record
) -> None:
    run = "docker run --read-only --cap-drop ALL --security-opt no-new-privileges"
    tls = "/etc/kata-dind/tls"
    builder.succeed("mkdir /srv/tls && chown 65532 /srv/tls")
    certs = f"webhook certs --service kata-dind --namespace kata-dind --also localhost --output {tls}"
    made = builder.succeed(f"{run} --rm --network none --volume /srv/tls:{tls} {IMAGE} {certs}")
    assert made.startswith("the certificate of kata-dind.kata-dind.svc ends on ")

    mounted = f"--memory 192m --volume /srv/tls:{tls}:ro"
    serve = f"webhook serve --http-listen 127.0.0.1:8080 --cert {tls}/tls.crt --key {tls}/tls.key"
    builder.succeed(f"{run} --detach --name webhook --network none {mounted} {IMAGE} {serve}")
    python = "docker exec webhook /usr/bin/python3 -I -c"
    assert builder.wait_until_succeeds(f"{python} '{_HEALTH}'", timeout_seconds=READY_SECONDS) == "200\n"
    assert json.loads(builder.succeed(f"{python} '{_FACTS}'")) == {
        "ids": ["65532"] * 8,
        "new privileges": False,
        "capabilities": [0] * 4,
        "links": ["lo"],
        "root": "Read-only file system",
        "tmp": "Read-only file system",
    }
    check = f"webhook check https://localhost:8443 --ca {tls}/ca.crt"
    said = builder.succeed(f"{run} --rm --network container:webhook --volume /srv/tls:{tls}:ro {IMAGE} {check}")
    assert said == "It is ready, and repairs a pod that runs Docker in the RuntimeClass kata.\n"

    assert builder.succeed("docker stop --time 60 webhook") == "webhook\n"
    (container,) = json.loads(builder.succeed("docker container inspect webhook"))
    assert container["State"]["ExitCode"] == 0
    events = [json.loads(line) for line in builder.succeed("docker logs webhook 2>&1").splitlines()]
    by_name = {event["event"]: event for event in events}
    assert by_name["review"]["decision"] == "repaired"
    ready = by_name["ready"]
    assert ready["version"] == __version__
    started, answered = (_time(text) for text in (container["State"]["StartedAt"], ready["time"]))
    seconds = (answered - started).total_seconds()
    record_property("start_to_ready_seconds", seconds)
    assert 0 < seconds < READY_SECONDS


def _time(text: str) -> datetime:
    # Docker has nanoseconds.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))
