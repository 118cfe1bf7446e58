"""Which files of the host a request asks for, and which of them it may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kata_dind.life.binds import (
    Found,
    Refused,
    Shared,
    asked_sources,
    followed,
    judge,
    may_bind,
    refusal,
    shares_of,
)

SHARES = [Shared("/home/u/src", "/home/u/src"), Shared("/data/in", "/in"), Shared("/home/u/note", "/note")]


def on_host(*paths: str) -> Callable[[str], Found]:
    return lambda path: Found.SOMETHING if path in paths else Found.NOTHING


def no_link(path: str) -> None:
    return None


def judged(source: str, *on: str, links: dict[str, str] | None = None) -> tuple[str, str]:
    answer, path = judge(source, SHARES, on_host=on_host(*on), link=(links or {}).get)
    return str(answer), path


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("POST", "/containers/create", True),
        ("POST", "/v1.47/containers/create", True),
        ("POST", "/v1.24/volumes/create", True),
        ("GET", "/containers/create", False),
        ("POST", "/containers/create/", False),
        ("POST", "/networks/create", False),
        ("POST", "/v1.47/containers/abc/start", False),
        ("POST", "/x/containers/create", False),
    ],
)
def test_which_requests_are_looked_at(method: str, path: str, may: bool) -> None:
    assert may_bind(method, path) is may


@pytest.mark.parametrize(
    ("bind", "source"),
    [
        ("/a:/b", "/a"),
        ("/a:/b:ro", "/a"),
        ("/a:/b:ro,z,rprivate", "/a"),
        ("//a/./b/../c//:/b", "/a/c"),
        ("/:/host:ro", "/"),
        ("/a", None),  # an anonymous volume's place
        ("name:/b", None),
        ("name:/b:ro", None),
        ("./a:/b", None),  # dockerd takes it for a bad volume's name
        ("~/a:/b", None),
        ("/a:ro", None),  # dockerd refuses these
        ("/a:/b:ro:x", None),
        (":/b", None),
        ("", None),
        (r"C:\Users\u:/b", None),
        ("C:/Users/u:/b", None),
        ("/a b:/b", "/a b"),
    ],
)
def test_binds_are_read_as_dockerd_reads_them(bind: str, source: str | None) -> None:
    body = json.dumps({"Image": "x", "HostConfig": {"Binds": [bind]}}).encode()
    assert asked_sources("/v1.47/containers/create", body) == ([] if source is None else [source])


def mount(**fields: Any) -> bytes:
    return json.dumps({"HostConfig": {"Mounts": [fields]}}).encode()


LOCAL_BIND = {"type": "none", "o": "rw,bind", "device": "/data/x"}


@pytest.mark.parametrize(
    ("path", "body", "sources"),
    [
        ("containers", mount(Type="bind", Source="/a/", Target="/b"), ["/a"]),
        ("containers", mount(Type="bind", Source="a", Target="/b"), []),
        ("containers", mount(Type="tmpfs", Target="/b"), []),
        ("containers", mount(Type="volume", Source="/a", Target="/b"), []),
        ("containers", mount(Type="volume", VolumeOptions={"DriverConfig": {"Options": LOCAL_BIND}}), ["/data/x"]),
        (
            "containers",
            mount(Type="volume", VolumeOptions={"DriverConfig": {"Name": "nfs", "Options": LOCAL_BIND}}),
            [],
        ),
        # As Go's encoding/json, which dockerd uses, has it.
        ("containers", b'{"hostconfig": {"BINDS": ["/a:/b", "/a:/c"]}}', ["/a"]),
        ("containers", b'{"HostConfig": null}', []),
        ("containers", b'{"HostConfig": {"Binds": "/a:/b", "Mounts": [1, null]}}', []),
        ("containers", b"[]", []),
        ("containers", b"not JSON", []),
        ("containers", b"[" * 100_000, []),
        ("volumes", json.dumps({"Name": "v", "DriverOpts": LOCAL_BIND}).encode(), ["/data/x"]),
        ("volumes", json.dumps({"Driver": "local", "DriverOpts": {**LOCAL_BIND, "o": "rbind"}}).encode(), ["/data/x"]),
        ("volumes", json.dumps({"Driver": "other", "DriverOpts": LOCAL_BIND}).encode(), []),
        (
            "volumes",
            json.dumps({"DriverOpts": {"type": "nfs", "o": "addr=x,rebind", "device": ":/x"}}).encode(),
            [],
        ),
        ("volumes", json.dumps({"DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}).encode(), []),
        ("volumes", b"{}", []),
    ],
)
def test_what_a_request_asks_for(path: str, body: bytes, sources: list[str]) -> None:
    assert asked_sources(f"/v1.47/{path}/create", body) == sources


@pytest.mark.parametrize(
    "source",
    ["/home/u/src", "/home/u/src/app", "/in/x", "/note", "/home/u/src/not-there-yet",
     "/var/run/docker.sock", "/run/docker.sock", "/dev/kvm", "/sys/fs/cgroup", "/lib/modules", "/etc/localtime", "/",
     "/var/lib/docker/volumes"],
)  # fmt: skip
def test_what_is_shared_or_the_guests_own_is_allowed(source: str) -> None:
    assert judged(source, source) == ("allowed", source)


@pytest.mark.parametrize("source", ["/home/u/src2", "/home/u", "/data/in", "/etc/passwd", "/tmp", "/note/x/../../etc"])
def test_what_only_the_host_has_is_not_taken_for_the_guests(source: str) -> None:
    assert judged(source, source, "/etc")[0] == "not-shared"


@pytest.mark.parametrize("source", ["/srv/models", "/run/user/1000/docker.sock", "/var/run/x"])
def test_the_guest_is_asked_about_the_rest(source: str) -> None:
    on = [source] if source.startswith(("/run", "/var/run")) else []
    assert judged(source, *on) == ("ask-guest", source)


@pytest.mark.parametrize(
    ("source", "links", "answer", "leads_to"),
    [
        ("/home/u/src/link/x", {"/home/u/src/link": "app"}, "allowed", "/home/u/src/app/x"),
        ("/home/u/src/link", {"/home/u/src/link": "../other"}, "not-shared", "/home/u/other"),
        ("/home/u/src/link", {"/home/u/src/link": "/in/y"}, "allowed", "/in/y"),
        ("/home/u/src/link", {"/home/u/src/link": "/home/u/other"}, "not-shared", "/home/u/other"),
        ("/home/u/src/link", {"/home/u/src/link": "/dev/null"}, "allowed", "/dev/null"),
        # In the guest this share is elsewhere, and so are those below it.
        ("/in/link", {"/data/in/link": "/data/in/x"}, "not-shared", "/data/in/x"),
        ("/in/link", {"/data/in/link": "x"}, "allowed", "/in/x"),
        # The share itself may be a link: virtiofsd has bound what it leads to.
        ("/in", {"/data/in": "/elsewhere"}, "allowed", "/in"),
    ],
)
def test_links_in_shares_are_followed_as_the_guest_does(
    source: str, links: dict[str, str], answer: str, leads_to: str
) -> None:
    assert judged(source, "/home/u/other", "/data/in/x", links=links) == (answer, leads_to)


def test_a_loop_of_links_ends() -> None:
    assert followed("/in/loop", SHARES, {"/data/in/loop": "loop"}.get) == "/in/loop"


def test_a_refusal_has_the_line_to_run() -> None:
    lines = refusal("dev", [
        Refused("/home/u/my app", "/home/u/my app", Found.SOMETHING),
        Refused("/home/u/src/link", "/home/u/other", Found.SOMETHING),
        Refused("/tmp", "/tmp", Found.SOMETHING),
        Refused("/no/where", "/no/where", Found.NOTHING),
        Refused("/tmp/agent", "/tmp/agent", Found.SOCKET),
    ]).splitlines()  # fmt: skip
    assert lines == [
        "bind source path is not shared with the sandbox 'dev': /home/u/my app; "
        "run: kata-dind share add dev '/home/u/my app'",
        "bind source path is not shared with the sandbox 'dev': /home/u/src/link leads to /home/u/other; "
        "run: kata-dind share add dev /home/u/other",
        "bind source path is not shared: /tmp can't have the same path in the sandbox 'dev'; "
        "run: kata-dind share add dev /tmp:/mnt/host/tmp, and bind /mnt/host/tmp instead",
        "bind source path does not exist: /no/where exists neither on this host nor in the sandbox 'dev'; "
        "make it, then run: kata-dind share add dev /no/where",
        "bind source path is a socket: /tmp/agent is a socket of this host, and the sandbox 'dev' can't reach those; "
        "share its files, or reach its service over the network",
    ]


def test_the_shares_are_those_of_the_record() -> None:
    assert shares_of({"shares": [{"host_path": "/a", "guest_path": "/b", "read_only": True}]}) == [Shared("/a", "/b")]
    assert shares_of({}) == []
