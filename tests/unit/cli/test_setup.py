"""`kata-dind setup`, with stub programs where it would change this host, and an /etc of its own."""

from __future__ import annotations

import json
import os
import platform
import pty
import select
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest

from kata_dind.setup.packages import apt_packages
from tests.unit.cli.conftest import CommandLine
from tests.unit.setup.conftest import Stubs, stubs

__all__ = ["stubs"]

_ALL = apt_packages("debian", "12", machine=platform.machine())


@pytest.fixture
def debian(stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian 12 that lacks zstd and umoci until apt-get has been called; the file with what it has."""
    installed = tmp_path / "installed"
    installed.write_text("".join(f"installed {name}\n" for name in _ALL if name not in ("umoci", "zstd")))
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (tmp_path / "tun").touch()
    monkeypatch.setattr("kata_dind.setup.facts._ETC", tmp_path)
    monkeypatch.setattr("kata_dind.setup.facts.TUN_DEVICE", tmp_path / "tun")
    stubs.add("dpkg-query", f"cat {installed}")
    stubs.add("apt-get", f"echo 'installed umoci\ninstalled zstd' >>{installed}")
    return installed


_PLAN = """\
packages: to do: install umoci, zstd
    kata-dind runs QEMU, and builds the guest's disks with the distribution's programs.
    apt-get update -qq
    env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y \
--no-install-recommends -- umoci zstd
"""
_REST = """\
subordinate-ids: nothing to do: root needs none
user-namespaces: nothing to do: root may make them
tun-device: nothing to do: root may open /dev/net/tun
"""
_NOT_READY = "kata-dind: this host is not ready for kata-dind, which needs: packages\nhint: kata-dind setup --yes\n"


_SETUP = """
import sys
from pathlib import Path
from kata_dind.entry import main
from kata_dind.setup import facts
facts._ETC = Path(sys.argv[1])
facts.TUN_DEVICE = Path(sys.argv[1], "tun")
sys.argv[1:] = ["setup", *sys.argv[2:]]
main()
"""


def changes(stubs: Stubs) -> list[str]:
    return [call for call in stubs.calls if not call.startswith("dpkg-query")]


@pytest.mark.requires("root")
def test_without_a_terminal_it_shows_the_plan_and_does_nothing(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    outcome = cli("setup")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (3, _PLAN + _REST, _NOT_READY)
    assert changes(stubs) == []


@pytest.mark.requires("root")
def test_with_yes_it_shows_the_plan_and_does_it_once(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    outcome = cli("setup", "--yes")
    assert (outcome.exit_code, outcome.stdout) == (0, _PLAN + _REST + "This host is ready.\n")
    assert outcome.stderr == "kata-dind: packages: install umoci, zstd\n"
    done = changes(stubs)
    assert [call.split()[:2] for call in done] == [["apt-get", "update"], ["apt-get", "-o"]]
    outcome = cli("setup", "--yes")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.endswith("This host is ready.\n")
    assert changes(stubs) == done


@pytest.mark.requires("root")
def test_quiet_says_what_is_changed_and_else_nothing(cli: CommandLine, debian: Path) -> None:
    outcome = cli("setup", "--yes", "--quiet")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, _PLAN, "")
    outcome = cli("setup", "--yes", "--quiet")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "")


@pytest.mark.requires("root")
def test_verbose_shows_each_program(cli: CommandLine, debian: Path, caplog: pytest.LogCaptureFixture) -> None:
    cli("setup", "--yes", "--verbose")
    assert "run: apt-get update -qq" in caplog.messages


@pytest.mark.requires("root")
def test_json_lists_the_steps(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    outcome = cli("setup", "--json")
    assert outcome.exit_code == json.loads(outcome.stderr)["exit_code"] == 3
    steps = json.loads(outcome.stdout)
    assert [(step["step"], step["needed"], step["needs_root"], step["done"]) for step in steps] == [
        ("packages", True, True, False),
        ("subordinate-ids", False, False, False),
        ("user-namespaces", False, False, False),
        ("tun-device", False, False, False),
    ]
    assert changes(stubs) == []
    outcome = cli("setup", "--json", "--yes")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert [step["done"] for step in json.loads(outcome.stdout)] == [True, False, False, False]


@pytest.mark.requires("root")
def test_a_failure_is_one_line_and_the_evidence(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    stubs.add("apt-get", "echo 'E: no network' >&2; exit 100")
    outcome = cli("setup", "--yes", "--quiet")
    assert (outcome.exit_code, outcome.stdout) == (3, _PLAN)
    assert outcome.stderr == (
        "kata-dind: packages: it was not possible to install umoci, zstd: apt-get failed (exit 100)\n"
        "command: apt-get update -qq\nstatus: exit 100\nE: no network\n"
    )


@pytest.mark.requires("root")
def test_what_is_missing_afterwards_is_said(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    stubs.add("apt-get")
    outcome = cli("setup", "--yes", "--quiet")
    assert outcome.exit_code == 3
    assert outcome.stderr == "kata-dind: this host is not ready for kata-dind, which needs: packages\n"


@pytest.mark.requires("root")
@pytest.mark.parametrize(("answer", "exit_code"), [("y", 0), ("n", 3), ("", 3), ("yes", 0)])
def test_on_a_terminal_it_asks(debian: Path, stubs: Stubs, answer: str, exit_code: int) -> None:
    ours, theirs = pty.openpty()
    try:
        with Popen(
            [sys.executable, "-c", _SETUP, str(debian.parent)], stdin=theirs, stdout=PIPE, stderr=theirs
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            assert process.stdout
            assert process.stdout.read().decode().startswith(_PLAN + _REST)
        said = ""
        while (
            "Do this now? [y/N] " not in said and select.select([ours], [], [], 5)[0]
        ):  # a terminal gives it in pieces
            said += os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Do this now? [y/N] " in said
    assert process.returncode == exit_code
    assert bool(changes(stubs)) == (exit_code == 0)


@pytest.mark.requires("root")
def test_a_host_without_udev_gets_its_device(cli: CommandLine, debian: Path, stubs: Stubs) -> None:
    debian.write_text("".join(f"installed {name}\n" for name in _ALL))
    (device := debian.parent / "tun").unlink()
    stubs.add("mknod", f"touch {device}")
    outcome = cli("setup", "--yes", "--quiet")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert changes(stubs) == ["mknod -m 0666 /dev/net/tun c 10 200"]
    assert outcome.stdout == (
        "tun-device: to do: make /dev/net/tun, as udev does\n"
        "    A guest's network goes through /dev/net/tun, "
        "which without udev, as in a container, may be root's or missing.\n"
        "    mkdir -p /dev/net\n    mknod -m 0666 /dev/net/tun c 10 200\n"
    )


def test_another_distribution_is_told_the_programs(
    cli: CommandLine, stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text("ID=fedora\nVERSION_ID=43\n")
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"{os.geteuid()}:100000:65536\n")
    monkeypatch.setattr("kata_dind.setup.facts._ETC", tmp_path)
    monkeypatch.setattr("kata_dind.setup.facts._PLACES_OF_PROGRAMS", ())
    monkeypatch.setattr("kata_dind.host.process._SBIN", "")
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[0])
    outcome = cli("setup", "--yes")
    assert outcome.exit_code == 3
    assert "mkfs.erofs (in Debian's package erofs-utils)" in outcome.stdout
    assert "kata-dind: this host is not ready for kata-dind, which needs: packages" in outcome.stderr
    assert stubs.calls == []


@pytest.mark.requires("root")
def test_a_signal_ends_what_is_being_done(debian: Path, stubs: Stubs) -> None:
    stubs.add("apt-get", "exec sleep 60")
    with Popen(
        [sys.executable, "-c", _SETUP, str(debian.parent), "--yes"], stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    ) as it:
        deadline = time.monotonic() + 20
        while not changes(stubs):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        it.terminate()
        assert it.stderr
        assert it.stderr.read().decode().endswith("kata-dind: ended by SIGTERM\n")
    assert it.returncode == 143
    assert len(changes(stubs)) == 1
