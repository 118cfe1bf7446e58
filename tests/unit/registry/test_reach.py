"""Which registries and addresses may be asked; where an image lies; what a registry wants to see first."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.policy import Registry
from kata_dind.registry.challenge import Challenge, parse_challenge
from kata_dind.registry.reach import Reach, Server
from kata_dind.registry.remote import RemoteImage, remote_image, without_port


def image_of(reference: str) -> RemoteImage:
    image = remote_image(reference)
    assert image is not None
    return image


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ("docker", RemoteImage("docker.io", "library/docker", "latest")),
        ("docker:27-dind", RemoteImage("docker.io", "library/docker", "27-dind")),
        ("team/x", RemoteImage("docker.io", "team/x", "latest")),
        ("index.docker.io/docker:1", RemoteImage("docker.io", "library/docker", "1")),
        ("R.example:5000/a/b:1", RemoteImage("r.example:5000", "a/b", "1")),
        ("localhost/x", RemoteImage("localhost", "x", "latest")),
        (f"r.example/x:1@sha256:{'a' * 64}", RemoteImage("r.example", "x", f"sha256:{'a' * 64}")),
        ("[fd00::1]:5000/x", RemoteImage("[fd00::1]:5000", "x", "latest")),
        ("", None),
        ("UPPER", None),
        ("r.example/../x", None),
        ("r.example/x?y", None),
        ("r.example/x y", None),
        (f"x@sha1:{'a' * 40}", None),
        (f"x@sha256:{'A' * 64}", None),
    ],
)
def test_where_an_image_lies(reference: str, image: RemoteImage | None) -> None:
    assert remote_image(reference) == image


@pytest.mark.parametrize(
    ("host", "bare"), [("a:1", "a"), ("a", "a"), ("[::1]:5", "::1"), ("[::1]", "::1"), ("127.0.0.1:5", "127.0.0.1")]
)
def test_a_host_without_its_port(host: str, bare: str) -> None:
    assert without_port(host) == bare


@pytest.mark.parametrize(
    ("reference", "may"),
    [
        ("docker", True),
        ("quay.io/x", True),
        ("eu.gcr.io/x", True),
        ("europe-docker.pkg.dev/a/b/c", True),
        ("quay.io:444/x", False),
        ("quay.io.evil.example/x", False),
        ("evilquay.io/x", False),
        ("169.254.169.254/latest/meta-data", False),
        ("kubernetes.default.svc/x", False),
        ("localhost:5000/x", False),
        ("[::1]:5000/x", False),
    ],
)
def test_by_default_only_well_known_registries_may_be_asked(reference: str, may: bool) -> None:
    assert (Reach(Registry()).refusal(image_of(reference)) == "") is may


def test_a_pattern_with_a_slash_is_about_the_repository() -> None:
    reach = Reach(Registry(allowed=("r.example/team/*", "docker.io/library/docker")))
    allowed = ["r.example/team/x", "r.example/team/a/b", "docker"]
    refused = ["r.example/other/x", "r.example/teams/x", "busybox"]
    assert [each for each in [*allowed, *refused] if not reach.refusal(image_of(each))] == allowed


SPECIAL = ("127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "168.63.129.16")
HIDDEN = ("::ffff:127.0.0.1", "64:ff9b::169.254.169.254", "2002:7f00:1::", "fd00:ec2::254", "100.100.100.200")
TRANSLATED = ("::169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b:1::a9fe:a9fe", "fec0::1")
PRIVATE = ("10.0.0.1", "192.168.1.1", "172.16.0.1", "fd12::1", "::ffff:10.0.0.1", "100.64.0.1")


@pytest.mark.parametrize("address", [*SPECIAL, *HIDDEN, *TRANSLATED])
@pytest.mark.parametrize("pattern", ["*", "*.example", "r?.example"])
def test_addresses_that_nobody_means_need_a_name_not_a_pattern(address: str, pattern: str) -> None:
    image = image_of("r1.example/x")
    found = ipaddress.ip_address(address)
    reach = Reach(Registry(allowed=(pattern,)))
    assert "not asked unless the policy names that host" in reach.refused_address("r1.example", found, image=image)
    for registry in (Registry(allowed=("r1.example/*",)), Registry(allowed=("*",), insecure=("r1.example",))):
        assert Reach(registry).refused_address("r1.example", found, image=image) == ""


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_more_than_a_pattern_for_all(address: str) -> None:
    image = image_of("r1.example/x")
    found = ipaddress.ip_address(address)
    for pattern, is_refused in (("*", True), ("*.*", True), ("*.example", False), ("r1.example", False)):
        reach = Reach(Registry(allowed=(pattern,)))
        # Also of the server that gives the registry's tokens.
        for host in ("r1.example", "auth.example"):
            said = reach.refused_address(host, found, image=image)
            assert bool(said) is is_refused, (pattern, host, said)


@given(st.ip_addresses())
def test_any_address_is_judged(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    said = Reach(Registry(allowed=("*",))).refused_address("r.example", address, image=image_of("r.example/x"))
    meant = getattr(address, "sixtofour", None) or address
    assert bool(said) or meant.is_global or meant.is_reserved


def test_http_is_for_this_machine_and_what_the_policy_names() -> None:
    reach = Reach(Registry(insecure=("r.example:5000",), mirrors=("http://m.example", "https://s.example")))
    plain = ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "r.example:5000", "m.example"]
    others = ["r.example", "s.example", "localhost.example", "128.0.0.1", "quay.io"]
    assert [host for host in [*plain, *others] if reach.is_plain(host)] == plain


def test_mirrors_stand_before_docker_hub_alone() -> None:
    reach = Reach(Registry(mirrors=("http://m.example:80", "https://s.example")))
    assert list(reach.servers(image_of("docker"))) == [
        Server("m.example:80", is_plain=True, is_mirror=True),
        Server("s.example", is_plain=False, is_mirror=True),
        Server("registry-1.docker.io", is_plain=False),
    ]
    assert [server.url for server in reach.servers(image_of("quay.io/x"))] == ["https://quay.io"]


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x:pull"',
            Challenge("bearer", "https://auth.docker.io/token", "registry.docker.io"),
        ),
        ("bearer realm=https://a.example/t", Challenge("bearer", "https://a.example/t")),
        ('Basic realm="x, Bearer y", Bearer realm="https://a.example"', Challenge("bearer", "https://a.example")),
        ('Bearer realm="https://a.example", Basic realm="x"', Challenge("bearer", "https://a.example")),
        ('Basic realm="x"', Challenge("basic")),
        ("Basic", Challenge("basic")),
        ('Bearer service="x"', None),
        ("Negotiate", None),
        ("", None),
        ("Bearer " + "a" * 10_000, None),
    ],
)
def test_a_challenge_is_read(header: str, challenge: Challenge | None) -> None:
    assert parse_challenge(header) == challenge


@given(st.text(st.sampled_from('BearBsic realm="\\,= x'), max_size=200))
def test_any_header_is_read(header: str) -> None:
    found = parse_challenge(header)
    assert found is None or found.scheme in ("basic", "bearer")
