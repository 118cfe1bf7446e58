"""What is asked for beside a seed with a name: what the seed has is fine, what it can't have is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.driver import SandboxDriver, kata_dind, states, succeed

pytestmark = [pytest.mark.requires("qemu"), pytest.mark.thorough]  # for them a seed of their own is made

SEED = "four"


@pytest.fixture(scope="module")
def seed(private_directories: object) -> Iterator[str]:
    """A seed whose processors, memory and network are none of the defaults."""
    succeed("seed", "build", SEED, "--cpus", "4", "--memory", "1G", "--network", "none")
    try:
        yield SEED
    finally:
        kata_dind("seed", "rm", SEED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpus", "2"], "--cpus: a clone of the seed 'four', which has 4, can't have 2; leave out --cpus"),
        (
            ["--memory", "512M"],
            "--memory: a clone of the seed 'four', which has 1024M, can't have '512M'; leave out --memory",
        ),
        (
            ["--host-port", "5432"],
            "--host-port: 5432 can't be reached without a network, and the seed 'four' has none; leave it out",
        ),
        (["--network", "nat"], "--network: 'nat' is not what the seed 'four' has ('none'); leave it out"),
    ],
)
def test_a_default_that_is_asked_for_is_a_wish_like_any_other(seed: str, options: list[str], message: str) -> None:
    refused = kata_dind("up", "wisher", "--seed", seed, *options)
    kata_dind("rm", "--force", "wisher")
    assert (refused.returncode, refused.stderr) == (2, f"kata-dind: {message}\n")
    assert "wisher" not in states()


def test_the_default_memory_is_plugged_in_when_it_is_asked_for_and_stays(seed: str) -> None:
    succeed("up", "wisher", "--seed", seed, "--memory", "2G", "--cpus", "4", "--network", "none")
    try:
        wisher = SandboxDriver("wisher")
        assert wisher.sandbox.inspect()["start"]["how"] == "restore"
        for _ in range(2):
            assert 1800 < int(wisher.succeed("free -m").splitlines()[1].split()[1]) <= 2048
            assert wisher.succeed("nproc") == "4\n"
            succeed("stop", "wisher")
            succeed("start", "wisher")
        assert wisher.sandbox.spec["network"] == "none"
    finally:
        succeed("rm", "--force", "wisher")


def test_without_a_wish_the_machine_is_the_seeds(seed: str) -> None:
    succeed("up", "wisher", "--seed", seed)
    try:
        wisher = SandboxDriver("wisher")
        assert wisher.succeed("nproc") == "4\n"
        assert 800 < int(wisher.succeed("free -m").splitlines()[1].split()[1]) <= 1024
    finally:
        succeed("rm", "--force", "wisher")
