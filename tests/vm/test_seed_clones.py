"""Clones: each is a machine of its own, none changes the seed, and a seed that was changed is never restored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kata_dind.sandbox.api import list_sandboxes
from kata_dind.store.seeds import Seed, list_seeds, require_seed
from tests.memory_limit import memory_limit
from tests.vm.driver import SandboxDriver, kata_dind, states, succeed, wait_until
from tests.vm.host_service import http_server

pytestmark = pytest.mark.requires("qemu")

SEED = "small"

# All of it in one program, so that the clones do it in the same instant.
RANDOM = "head -c 32 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid; docker create kata-dind/hello"
NAMES = "cat /run/machine-id; cat /proc/sys/kernel/hostname; cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(autouse=True)
def removed_at_the_end(private_directories: object) -> Iterator[None]:
    yield
    if names := [summary.name for summary in list_sandboxes() if summary.name.startswith("clone-")]:
        succeed("rm", "--force", *names)


@pytest.fixture
def seed(small_seed: str) -> Seed:
    return require_seed(small_seed)


def inspect(name: str) -> dict[str, Any]:
    return dict(json.loads(succeed("inspect", name, "--json")))


def up(name: str, *options: str) -> SandboxDriver:
    succeed("up", name, "--seed", SEED, *options)
    return SandboxDriver(name)


@pytest.mark.parametrize(
    "count",
    [6, pytest.param(50, marks=[pytest.mark.thorough, pytest.mark.slow(minutes=10), pytest.mark.timeout(1800)])],
)
def test_clones_that_draw_lots_in_the_same_instant_never_agree(seed: Seed, count: int) -> None:
    clones = [up(f"clone-{number}") for number in range(count)]
    # Their clocks are the host's, so they begin together, however slowly they are told.
    start = int(time.time()) + 5 + count // 2
    wait = f"[ $(date +%s) -lt {start} ] || exit 99; until [ $(date +%s) -ge {start} ]; do sleep 0.01; done; "
    with ThreadPoolExecutor(count) as pool:
        drawn = [*pool.map(lambda clone: clone.succeed(wait + RANDOM).split(), clones)]
        named = [*pool.map(lambda clone: clone.succeed(NAMES, where="guest").split(), clones)]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == count, values
    for values in zip(*named, strict=True):
        assert len(set(values)) == count, values
    assert [clone.succeed("hostname").strip() for clone in clones[:2]] == ["clone-0", "clone-1"]


@pytest.mark.thorough
def test_a_clone_has_the_hosts_clock_and_keeps_it(seed: Seed) -> None:
    clone = up("clone-0")
    for _ in range(2):
        before = time.time()
        told = float(clone.succeed("date +%s.%N"))
        assert before - 0.5 < told < time.time() + 0.5
        time.sleep(2)


def test_a_clone_says_what_it_came_from_and_what_was_proven(seed: Seed) -> None:
    up("clone-0")
    facts = inspect("clone-0")
    assert facts["start"]["how"] == "restore"
    assert facts["start"]["seed"] == SEED
    assert 0 < facts["start"]["check_seconds"] < 5
    assert facts["data_root"]["proof"]["whiteout"] == "passed"
    assert facts["docker"]["storage"] == seed.facts["verdict"]["storage"]
    assert facts["disk_bytes"] < 2 << 20


@pytest.mark.thorough
def test_a_clone_reaches_a_port_of_the_host_also_after_it_was_saved(seed: Seed) -> None:
    with http_server(b"from the host") as port:
        fetch = ["run", "--rm", "kata-dind/hello", "busybox", "wget", "-q", "-O", "-"]
        asked = ["docker", "clone", "--", *fetch, f"http://host.docker.internal:{port}/"]
        succeed("up", "clone", "--seed", seed.name, "--host-port", str(port))
        try:
            assert SandboxDriver("clone").sandbox.inspect()["start"]["how"] == "restore"
            assert succeed(*asked) == "from the host"
            succeed("stop", "--save", "clone")
            succeed("start", "clone")
            assert SandboxDriver("clone").sandbox.inspect()["start"]["how"] == "resume"
            assert succeed(*asked) == "from the host"
        finally:
            succeed("rm", "--force", "clone")


def test_nothing_that_clones_write_reaches_the_seed(seed: Seed) -> None:
    clone = up("clone-0")
    clone.succeed("head -c 8000000 /dev/urandom >/var/lib/docker/noise && sync && echo 3 >/proc/sys/vm/drop_caches")
    succeed("rm", "--force", "clone-0")
    succeed("seed", "verify", SEED)


@pytest.mark.thorough
def test_a_stopped_clone_starts_again_with_its_disk(seed: Seed) -> None:
    clone = up("clone-0")
    clone.succeed("docker tag kata-dind/hello mine:1 && echo kept >/var/lib/docker/kept && echo kept >/root/kept")
    succeed("stop", "clone-0")
    succeed("start", "clone-0")
    assert clone.succeed("cat /var/lib/docker/kept /root/kept") == "kept\nkept\n"
    assert "mine:1" in clone.succeed("docker image ls --format '{{.Repository}}:{{.Tag}}'")
    facts = inspect("clone-0")
    assert (facts["start"]["how"], facts["start"]["seed"]) == ("boot", SEED)
    # It has the seed's memory, which nobody asked for at `up`.
    assert 512 << 10 < int(clone.succeed("awk '/^MemTotal/ {print $2}' /proc/meminfo", where="guest")) <= 768 << 10


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_a_clone_that_was_killed_starts_again_with_what_was_synced(seed: Seed, victim: str) -> None:
    clone = up("clone-0")
    clone.succeed("echo kept >/var/lib/docker/kept && sync /var/lib/docker/kept")
    os.kill(clone.process_of("qemu-system") if victim == "qemu" else clone.supervisor_pid, signal.SIGKILL)
    wait_until(lambda: states()["clone-0"] == "crashed", what="the end of the clone")
    succeed("start", "clone-0")
    assert clone.succeed("cat /var/lib/docker/kept") == "kept\n"


@pytest.mark.thorough
@pytest.mark.requires("root", "memory-limit")
def test_a_clone_that_the_host_has_no_memory_for_ends_with_that_reason_and_others_live(seed: Seed) -> None:
    clone, other = up("clone-0"), up("clone-1")
    with memory_limit(64) as members:
        members.write_text(str(clone.process_of("qemu-system")))
        kata_dind("exec", "clone-0", "--", "sh", "-c", "head -c 400M /dev/zero >/dev/shm/much")
        wait_until(lambda: states()["clone-0"] == "crashed", what="the end of the clone")
    assert "has run out of memory" in inspect("clone-0")["error"]["summary"]
    assert other.succeed("docker version --format '{{.Server.Version}}'")
    succeed("start", "clone-0")
    assert [states()[name] for name in ("clone-0", "clone-1")] == ["running", "running"]


@pytest.mark.thorough
def test_no_guest_runs_on_a_seed_whose_file_was_cut_short_or_replaced(seed: Seed, tmp_path: Path) -> None:
    for name in ("state", "layer.img"):
        file, kept = seed.directory / name, tmp_path / name
        shutil.copy2(file, kept)
        os.truncate(file, file.stat().st_size // 2)
        refused = kata_dind("up", "clone-0", "--seed", SEED)
        assert refused.returncode == 3, refused.stderr
        assert f"the seed '{SEED}' is damaged: the file {name} has changed since the seed was made" in refused.stderr
        assert "clone-0" not in states()
        shutil.copy2(kept, file)
    succeed("up", "clone-0", "--seed", SEED)  # what holds the same again is fit again
    assert states()["clone-0"] == "running"


@pytest.mark.thorough
def test_the_internal_seed_is_made_anew_when_it_is_damaged(private_directories: object) -> None:
    succeed("up", "clone-0", "--memory", "640M")
    (made,) = {inspect("clone-0")["start"]["seed"]} & {seed.seed_id for seed in list_seeds()}
    succeed("rm", "--force", "clone-0")
    os.truncate(require_seed(made).directory / "state", 1000)
    succeed("up", "clone-0", "--memory", "640M")
    assert inspect("clone-0")["start"]["how"] == "restore"
    succeed("seed", "verify", made)
    succeed("rm", "--force", "clone-0")
    succeed("seed", "rm", made)


@pytest.mark.thorough
def test_a_boot_that_was_asked_for_is_one(private_directories: object) -> None:
    succeed("up", "clone-0", "--cold")
    facts = inspect("clone-0")["start"]
    assert (facts["how"], facts["reason"], facts["seed"]) == ("boot", "as asked", None)


def test_the_same_command_adopts_a_guest_that_was_restored_meanwhile(seed: Seed) -> None:
    adopted = "the guest that was started early is adopted"
    for name in ("clone-0", "clone-1", "clone-2"):
        clone = up(name)
        assert clone.succeed("hostname").strip() == name
        assert inspect(name)["start"]["how"] == "restore"
    log = (clone.sandbox.directory / "supervisor.log").read_text()
    assert adopted in log
    other = up("clone-3", "--timeout", "170")  # another command line, whose end is not known yet
    assert adopted not in (other.sandbox.directory / "supervisor.log").read_text()
    assert sorted(path.name for path in clone.sandbox.directory.parent.iterdir() if path.name.startswith(".")) == []
