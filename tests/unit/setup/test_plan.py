from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.setup.packages import Program
from kata_dind.setup.plan import Facts, Step, plan

READY = Facts(
    distribution="ubuntu",
    user="alice",
    uid=1000,
    missing_packages=(),
    missing_programs=(),
    subuid="alice:100000:65536\n",
    subgid="alice:100000:65536\n",
    restricts_namespaces=True,
    unshare=Path("/home/alice/.local/share/pipx/venvs/kata-dind/bin/kata-dind-unshare"),
    unshare_is_allowed=True,
    has_tun=True,
    may_open_tun=True,
)
ROOT = dataclasses.replace(READY, user="root", uid=0, subuid="", subgid="", unshare_is_allowed=False)


def commands(facts: Facts) -> list[str]:
    return [command.as_shell(as_root=facts.is_root) for step in plan(facts) for command in step.commands]


def step_of(facts: Facts, name: str) -> Step:
    [step] = [step for step in plan(facts) if step.name == name]
    return step


def test_a_ready_host_needs_nothing() -> None:
    steps = plan(READY)
    assert [(step.name, step.needed, step.commands) for step in steps] == [
        ("packages", False, ()),
        ("subordinate-ids", False, ()),
        ("user-namespaces", False, ()),
        ("tun-device", False, ()),
    ]
    assert [step.what for step in steps] == [
        "all of them are installed",
        "alice has them",
        "/home/alice/.local/share/pipx/venvs/kata-dind/bin/kata-dind-unshare may make them",
        "alice may open /dev/net/tun",
    ]


def test_all_that_an_ordinary_user_of_ubuntu_may_need() -> None:
    facts = dataclasses.replace(
        READY, missing_packages=("qemu-utils", "umoci"), subuid="", subgid="", unshare_is_allowed=False,
        may_open_tun=False,
    )  # fmt: skip
    assert all(step.needed for step in plan(facts))
    assert "\n".join(commands(facts)) == (
        "sudo apt-get update -qq\n"
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y"
        " --no-install-recommends -- qemu-utils umoci\n"
        "sudo touch /etc/subuid /etc/subgid\n"
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice\n"
        "sudo install -m 0755 /usr/bin/unshare"
        " /home/alice/.local/share/pipx/venvs/kata-dind/bin/kata-dind-unshare\n"
        "printf %s 'abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        "profile kata-dind-unshare-64b10a7f"
        ' "/home/alice/.local/share/pipx/venvs/kata-dind/bin/kata-dind-unshare" flags=(unconfined) {\n'
        "  userns,\n"
        "}\n"
        "' | sudo tee /etc/apparmor.d/kata-dind-unshare-64b10a7f >/dev/null\n"
        "sudo apparmor_parser -r /etc/apparmor.d/kata-dind-unshare-64b10a7f\n"
        "sudo chmod 0666 /dev/net/tun"
    )


def test_root_needs_packages_and_no_sudo() -> None:
    assert [step.needed for step in plan(ROOT)] == [False, False, False, False]
    facts = dataclasses.replace(ROOT, missing_packages=("zstd",))
    assert [step.needed for step in plan(facts)] == [True, False, False, False]
    assert commands(facts)[0] == "apt-get update -qq"


def test_no_namespaces_are_restricted_without_apparmor() -> None:
    facts = dataclasses.replace(READY, restricts_namespaces=False, unshare_is_allowed=False)
    assert not step_of(facts, "user-namespaces").needed


def test_each_copy_of_unshare_has_a_profile_of_its_own() -> None:
    facts = [
        dataclasses.replace(READY, unshare=Path(path), unshare_is_allowed=False)
        for path in ("/a/unshare", "/b/unshare")
    ]
    one, other = (step_of(each, "user-namespaces").commands[1].argv for each in facts)
    assert one != other


def test_another_distribution_is_told_the_programs_that_are_missing() -> None:
    missing = (
        Program("mkfs.erofs", "erofs-utils"),
        Program("umoci", "umoci", only_for="kata-dind image pull"),
    )
    step = step_of(dataclasses.replace(READY, distribution="fedora", missing_programs=missing), "packages")
    assert (step.needed, step.commands) == (True, ())
    assert step.what == (
        "please install mkfs.erofs (in Debian's package erofs-utils);"
        " umoci, needed only for kata-dind image pull, is missing"
    )


def test_a_program_that_few_need_does_not_make_a_host_unfit() -> None:
    missing = (Program("umoci", "umoci", only_for="kata-dind image pull"),)
    step = step_of(dataclasses.replace(READY, distribution="fedora", missing_programs=missing), "packages")
    assert not step.needed
    assert "umoci, needed only for kata-dind image pull, is missing" in step.what


@pytest.mark.parametrize(
    ("subuid", "subgid", "flags"),
    [
        ("1000:100000:65536\n", "alice:100000:65536\n", ()),
        ("bob:100000:65536\n", "alice:165536:65536\n", ("--add-subuids", "231072-296607")),
        ("alice:100000:65536\n", "# alice\n", ("--add-subgids", "165536-231071")),
        ("alicea:1:2\n", "x\n", ("--add-subuids", "100000-165535", "--add-subgids", "100000-165535")),
        ("", "bob:2000000:65536", ("--add-subuids", "2065536-2131071", "--add-subgids", "2065536-2131071")),
    ],
)
def test_ids_are_given_where_they_are_missing_and_free(subuid: str, subgid: str, flags: tuple[str, ...]) -> None:
    step = step_of(dataclasses.replace(READY, subuid=subuid, subgid=subgid), "subordinate-ids")
    assert step.needed == bool(flags)
    if flags:
        assert step.commands[-1].argv == ("usermod", *flags, "alice")


@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 2**20))))
def test_given_ids_belong_to_no_other_user(taken: list[tuple[int, int]]) -> None:
    text = "".join(f"bob:{first}:{count}\n" for first, count in taken)
    argv = step_of(dataclasses.replace(READY, subuid=text, subgid=""), "subordinate-ids").commands[-1].argv
    given_first, given_last = map(int, argv[2].split("-"))
    assert given_last - given_first == 65535
    assert all(first + count <= given_first or first > given_last for first, count in taken)


def test_fields_of_a_step() -> None:
    facts = dataclasses.replace(READY, subgid="")
    assert step_of(facts, "subordinate-ids").as_fields(as_root=False) == {
        "step": "subordinate-ids",
        "needed": True,
        "what": "give alice the ids 165536-231071",
        "why": "An image has files of many users; an ordinary user owns them through subordinate ids, see subuid(5).",
        "needs_root": True,
        "commands": [
            "sudo touch /etc/subuid /etc/subgid",
            "sudo usermod --add-subgids 165536-231071 alice",
        ],
    }
