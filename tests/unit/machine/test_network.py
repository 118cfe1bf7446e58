from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from kata_dind.errors import PermissionMissing
from kata_dind.machine.argv import GUEST_ADDRESS, GUEST_GATEWAY, GUEST_NETWORK
from kata_dind.machine.network import (
    LINK_LOCAL,
    OUTER_DNS,
    OUTER_NETWORK,
    require_tun_device,
    routing_rules,
    slirp4netns_argv,
)


def test_the_argv_of_slirp4netns() -> None:
    assert slirp4netns_argv(4242, ready_fd=5, exit_fd=6) == [
        "slirp4netns",
        "--configure",
        "--mtu=65520",
        "--cidr=198.18.0.0/24",
        "--disable-host-loopback",
        "--enable-seccomp",
        "--ready-fd=5",
        "--exit-fd=6",
        "4242",
        "tap0",
    ]


def test_only_dns_of_the_resolver_and_nothing_link_local_is_open() -> None:
    assert routing_rules(allow_link_local=False) == [
        "rule add pref 100 to 198.18.0.3 ipproto udp dport 53 lookup main",
        "rule add pref 101 to 198.18.0.3 ipproto tcp dport 53 lookup main",
        "rule add pref 102 to 198.18.0.3 type unreachable",
        "link set lo up",
        "route add unreachable 169.254.0.0/16",
    ]


def test_link_local_addresses_open_when_they_are_asked_for() -> None:
    closed, opened = (routing_rules(allow_link_local=allowed) for allowed in (False, True))
    assert [rule for rule in closed if rule not in opened] == [f"route add unreachable {LINK_LOCAL}"]
    assert [rule for rule in opened if rule not in closed] == []


def test_the_rules_fit_in_the_one_line_that_hands_them_over() -> None:
    for rule in routing_rules(allow_link_local=False):
        assert not {";", "\n", "\\"} & set(rule)


def test_the_addresses_lie_in_networks_that_no_real_one_uses_and_do_not_overlap() -> None:
    benchmarks = ipaddress.IPv4Network("198.18.0.0/15")
    inner, outer = ipaddress.IPv4Network(GUEST_NETWORK), ipaddress.IPv4Network(OUTER_NETWORK)
    assert inner.subnet_of(benchmarks)
    assert outer.subnet_of(benchmarks)
    assert not inner.overlaps(outer)
    assert ipaddress.ip_interface(GUEST_ADDRESS).network == inner
    assert ipaddress.ip_address(GUEST_GATEWAY) in inner
    assert ipaddress.ip_address(OUTER_DNS) in outer


def test_a_device_that_is_missing_or_closed_is_told_before_anything_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (closed := tmp_path / "closed").touch(mode=0o000)
    monkeypatch.setattr("kata_dind.machine.network._TUN_DEVICE", closed)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may open it
    with pytest.raises(PermissionMissing, match=r"this user may not open .*/closed, through which"):
        require_tun_device()
    monkeypatch.setattr("kata_dind.machine.network._TUN_DEVICE", tmp_path / "tun")
    with pytest.raises(PermissionMissing, match=r"this user has no .*/tun, through which") as caught:
        require_tun_device()
    assert caught.value.hint == "kata-dind setup, or --network none"
