"""Lookups of images at real servers: Debian's registry, and one of our own that misbehaves."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kata_dind.pod.model import ImageConfig
from kata_dind.pod.policy import Registry
from kata_dind.registry.client import read_from
from kata_dind.registry.keyring import NO_CREDENTIALS, Credential, Keyring
from kata_dind.registry.lookup import FAILURE_SECONDS, TAG_SECONDS, Lookup
from kata_dind.registry.reach import Server
from kata_dind.registry.remote import remote_image
from kata_dind.registry.transport import Deadline, Session
from kata_dind.registry.unread import Unread
from tests.image.registries import (
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    Answering,
    Reply,
    Request,
    SmallServer,
    config_body,
    descriptor,
    digest_of,
    documents,
    make_layout,
    manifest_body,
    push,
    running_registry,
    small_server,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


@pytest.fixture
def other() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def lookup_at(*hosts: str, **fields: Any) -> Lookup:
    return Lookup(Registry(**{"allowed": hosts, **fields}))


def config_of(lookup: Lookup, reference: str, keyring: Keyring = NO_CREDENTIALS) -> ImageConfig:
    found = lookup.find([reference], keyring)
    assert dict(found.unread) == {}
    return found.configs[reference]


def failure_of(lookup: Lookup, reference: str, keyring: Keyring = NO_CREDENTIALS) -> str:
    found = lookup.find([reference], keyring)
    assert dict(found.configs) == {}
    return found.unread[reference]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with one image that has all that a lookup reads."""
    config = ["entrypoint=/entrypoint.sh", "cmd=--debug", "user=1000:1000", "env=A=b=c", "volume=/var/lib/docker"]
    return make_layout(tmp_path_factory.mktemp("layout"), *config, "label=team=ci")


PUSHED = ImageConfig(
    entrypoint=("/entrypoint.sh",),
    cmd=("--debug",),
    user="1000:1000",
    environment={"A": "b=c"},
    volumes=frozenset({"/var/lib/docker"}),
    architecture="amd64",
    labels={"team": "ci"},
)


@pytest.mark.requires("registry")
@pytest.mark.parametrize("format", ["oci", "v2s2"])
def test_a_real_registry_tells_what_an_image_runs(layout: Path, tmp_path: Path, format: str) -> None:
    with running_registry(tmp_path) as host:
        push(layout, f"{host}/team/dind:1", "--format", format)
        assert config_of(lookup_at(host), f"{host}/team/dind:1") == PUSHED
        assert failure_of(lookup_at(host), f"{host}/team/none:1") == f"{host} does not have it"


@pytest.mark.requires("registry")
def test_a_registry_with_passwords_is_shown_the_ones_for_the_image(layout: Path, tmp_path: Path) -> None:
    with running_registry(tmp_path, with_password=True) as host:
        reference = f"{host}/team/dind:1"
        push(layout, reference, "--dest-creds", f"{USER}:{PASSWORD}")
        lookup = lookup_at(host)
        right, wrong = Credential(USER, PASSWORD), Credential(USER, "wrong")
        assert config_of(lookup, reference, Keyring([(host, wrong), (f"{host}/team", right)])) == PUSHED
        # What was read with credentials is not shown to those who have none, or others.
        assert failure_of(lookup, reference) == f"{host} does not show it without credentials"
        assert (
            failure_of(lookup, reference, Keyring([(host, wrong)])) == f"{host} does not show it with these credentials"
        )


def _with_tokens(image: Answering, realm: str) -> Answering:
    def answer(request: Request) -> Reply:
        if request.headers.get("authorization") == "Bearer good":
            return image(request)
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="ours",scope="registry:*:*"'})

    return answer


def test_a_token_is_got_with_the_credentials_and_shown_to_the_registry(server: SmallServer, other: SmallServer) -> None:
    reference = server.serve_image("team/dind", config_body("dockerd"))
    server.answering = _with_tokens(server.answering, f"http://{other.host}/token?x=1")
    other.answering = lambda request: Reply(body=b'{"access_token": "good", "expires_in": 60}')
    lookup = lookup_at(server.host, other.host)
    assert config_of(lookup, reference, Keyring([(server.host, Credential("u", "p"))])).entrypoint == ("dockerd",)
    [asked] = other.asked
    assert parse_qs(urlsplit(asked.path).query) == {
        "x": ["1"],
        "service": ["ours"],
        "scope": ["repository:team/dind:pull"],
    }
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()
    assert all("Basic" not in request.headers.get("authorization", "") for request in server.asked)


def test_a_redirect_takes_no_credentials_along(server: SmallServer, other: SmallServer) -> None:
    config = config_body("dockerd")
    manifest = manifest_body(config)

    def answer(request: Request) -> Reply:
        if "authorization" not in request.headers:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if "/blobs/" in request.path:
            return Reply(307, headers={"Location": f"http://{other.host}/storage?signed=1"})
        return Reply(body=manifest)

    server.answering = answer
    other.answering = lambda request: Reply(body=config)
    keyring = Keyring([(server.host, Credential("u", "secret"))])
    reference = f"{server.host}/team/dind:1"
    assert config_of(lookup_at(server.host, other.host), reference, keyring).entrypoint == ("dockerd",)
    assert [request.path for request in other.asked] == ["/storage?signed=1"]
    assert "authorization" not in other.asked[0].headers


def test_who_was_redirected_to_gets_no_credentials_by_asking_for_them(server: SmallServer, other: SmallServer) -> None:
    server.answering = lambda request: Reply(302, headers={"Location": f"http://{other.host}/"})
    other.answering = lambda request: Reply(
        401, headers={"WWW-Authenticate": f'Bearer realm="http://{other.host}/token"'}
    )
    keyring = Keyring([(server.host, Credential("u", "secret"))])
    said = failure_of(lookup_at(server.host, other.host), f"{server.host}/x:1", keyring)
    assert "does not show it" in said
    assert [request for request in other.asked if "authorization" in request.headers or "token" in request.path] == []


def test_a_redirect_to_an_address_of_this_machine_is_refused(server: SmallServer, other: SmallServer) -> None:
    server.answering = lambda request: Reply(302, headers={"Location": f"http://{other.host}/x"})
    assert "leads to 127.0.0.1, which is not asked" in failure_of(lookup_at(server.host), f"{server.host}/x:1")
    assert other.asked == []


def test_a_redirect_in_a_circle_ends(server: SmallServer) -> None:
    server.answering = lambda request: Reply(302, headers={"Location": request.path})
    assert failure_of(lookup_at(server.host), f"{server.host}/x:1") == "127.0.0.1 redirects again and again"
    assert len(server.asked) == 6


def test_a_name_that_leads_to_this_machine_is_refused_unless_it_is_named(server: SmallServer) -> None:
    reference = server.serve_image("x", config_body("dockerd"))
    port = server.server_address[1]
    by_name = reference.replace("127.0.0.1", "localhost")
    for pattern in ("*", "localhost:*", f"*host:{port}"):
        assert "which is not asked unless the policy names that host" in failure_of(lookup_at(pattern), by_name)
    assert server.asked == []
    assert config_of(lookup_at(f"localhost:{port}/*"), by_name).entrypoint == ("dockerd",)


def test_a_registry_that_is_not_listed_is_not_asked(server: SmallServer) -> None:
    assert "does not allow to ask" in failure_of(lookup_at("quay.io"), server.serve_image("x", config_body("dockerd")))
    assert "does not allow to ask" in failure_of(lookup_at("quay.io"), "169.254.169.254/x")
    assert server.asked == []


def _index(*platforms: tuple[str, str, bytes]) -> bytes:
    manifests = [
        descriptor(body, MANIFEST, platform={"os": system, "architecture": architecture})
        for system, architecture, body in platforms
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


def test_an_index_leads_to_the_image_of_the_architecture(server: SmallServer) -> None:
    configs = {name: config_body(name) for name in ("amd64", "arm64", "riscv64")}
    manifests = {name: manifest_body(config) for name, config in configs.items()}
    index = _index(
        ("windows", "amd64", b"{}"),
        ("unknown", "unknown", b"{}"),
        *(("linux", name, manifests[name]) for name in ("riscv64", "arm64", "amd64")),
    )
    known = {"manifests/1": index, "manifests/2": _index(("linux", "riscv64", manifests["riscv64"]))}
    known |= {f"manifests/{digest_of(body)}": body for body in (index, *manifests.values())}
    known |= {f"blobs/{digest_of(body)}": body for body in configs.values()}
    server.answering = documents("x", known)
    assert config_of(lookup_at(server.host), f"{server.host}/x:1").entrypoint == ("amd64",)
    assert config_of(lookup_at(server.host, architecture="arm64"), f"{server.host}/x:1").entrypoint == ("arm64",)
    assert config_of(lookup_at(server.host), f"{server.host}/x:2").entrypoint == ("riscv64",)
    with_arm = lookup_at(server.host, architecture="arm64")
    assert failure_of(with_arm, f"{server.host}/x:2") == "it has no image for linux/arm64"
    assert config_of(with_arm, f"{server.host}/x@{digest_of(index)}").entrypoint == ("arm64",)


_GOOD = config_body("dockerd")
_BAD_MANIFESTS: dict[str, tuple[bytes, str]] = {
    "garbage": (b"<html>", "its manifest is not JSON"),
    "empty": (b"", "its manifest is not JSON"),
    "list": (b"[]", "its manifest is not a JSON object"),
    "deep": (b"[" * 100_000, "its manifest is not JSON"),
    "schema1": (b'{"schemaVersion": 1}', "its manifest is of Docker's old schema 1, which is not read"),
    "both": (
        json.dumps({"manifests": [], "config": {}, "layers": []}).encode(),
        "its manifest is an index and an image at once",
    ),
    "artifact": (
        json.dumps({"mediaType": MANIFEST, "config": descriptor(_GOOD, "application/vnd.cncf.helm.config")}).encode(),
        "it is an artifact, not an image with a configuration",
    ),
    "without-digest": (
        json.dumps({"config": {**descriptor(_GOOD, "x"), "mediaType": _GOOD.decode()}}).encode(),
        "it is an artifact, not an image with a configuration",
    ),
    "bad-digest": (
        manifest_body(_GOOD).replace(b"sha256:", b"../256:"),
        "its manifest names no digest and size that can be checked",
    ),
    "huge-config": (
        manifest_body(_GOOD).replace(f'"size": {len(_GOOD)}'.encode(), b'"size": 99999999'),
        "it has a document of 99999999 bytes, and 8 MiB is the most that is read",
    ),
    "wrong-size": (
        manifest_body(_GOOD).replace(f'"size": {len(_GOOD)}'.encode(), b'"size": 9'),
        "its configuration is not as long as its manifest says",
    ),
    "windows": (_index(("windows", "amd64", b"{}")), "it has no image for Linux"),
}


@pytest.mark.parametrize("name", _BAD_MANIFESTS)
def test_a_manifest_that_is_not_right_is_a_clause(server: SmallServer, name: str) -> None:
    body, clause = _BAD_MANIFESTS[name]
    server.answering = documents("x", {"manifests/1": body, f"blobs/{digest_of(_GOOD)}": _GOOD})
    assert failure_of(lookup_at(server.host), f"{server.host}/x:1") == clause


def test_a_document_with_another_digest_is_refused(server: SmallServer) -> None:
    manifest, false = manifest_body(_GOOD), _GOOD.replace(b"dockerd", b"another")
    known = {"manifests/1": manifest, f"blobs/{digest_of(_GOOD)}": false, f"manifests/{digest_of(b'')}": manifest}
    server.answering = documents("x", known)
    lookup = lookup_at(server.host)
    assert failure_of(lookup, f"{server.host}/x:1").startswith("its configuration does not have the digest")
    assert failure_of(lookup, f"{server.host}/x@{digest_of(b'')}").startswith("its manifest does not have the digest")


@pytest.mark.parametrize("promised", [5 << 20, None])
def test_a_huge_manifest_is_not_read(server: SmallServer, promised: int | None) -> None:
    server.answering = lambda request: Reply(body=b" " * (5 << 20), promised=promised)
    said = failure_of(lookup_at(server.host), f"{server.host}/x:1")
    assert said == "its registry sends more than the 4096 KiB that are read"


def test_an_answer_that_breaks_off_is_a_clause(server: SmallServer) -> None:
    server.answering = lambda request: Reply(body=b"{}", promised=100, headers={"Connection": "close"})
    lookup = lookup_at(server.host, timeout_seconds=1)
    assert failure_of(lookup, f"{server.host}/x:1").startswith("127.0.0.1 d")


@pytest.mark.parametrize(
    "reply",
    [Reply(before_seconds=30), Reply(body=b"{" * 1000, seconds_per_byte=0.05)],
    ids=["silent", "a byte now and then"],
)
def test_a_slow_registry_is_given_up_at_the_deadline(server: SmallServer, reply: Reply) -> None:
    server.answering = lambda request: reply
    lookup = lookup_at(server.host, timeout_seconds=0.4)
    begun = time.monotonic()
    assert failure_of(lookup, f"{server.host}/x:1").endswith("did not answer in full in 0.4 s")
    assert time.monotonic() - begun < 10
    _wait_for_threads()
    # Nothing else of this registry is asked for in a while.
    assert failure_of(lookup, f"{server.host}/y:1").endswith("did not answer in full in 0.4 s")
    assert len(server.asked) == 1


def test_a_name_server_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, asked = threading.Event(), []

    def hang(*of: object, **__: object) -> list[Any]:
        asked.append(of)
        ending.wait(timeout=30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    lookup = lookup_at("registry.example", timeout_seconds=0.3)
    assert failure_of(lookup, "registry.example/x:1") == "its registry did not answer in full in 0.3 s"
    for reference in ("registry.example/x:1", "registry.example/y:1"):
        assert failure_of(lookup, reference) == "registry.example does not answer"
    assert len(asked) == 1
    ending.set()
    _wait_for_threads()


def test_headers_that_never_end_are_given_up_at_the_deadline() -> None:
    ending = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ending.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        assert failure_of(lookup_at(host, timeout_seconds=0.4), f"{host}/x:1").endswith("in full in 0.4 s")
        _wait_for_threads()
        ending.set()
        thread.join()


def test_what_is_no_http_is_a_clause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        assert failure_of(lookup_at(host), f"{host}/x:1") == "127.0.0.1 does not speak HTTP as it should"
        thread.join()
    assert "can't be asked" in failure_of(lookup_at(host), f"{host}/x:1")


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "has been asked too often"), (500, "answers with the status 500"), (204, "answers with the status 204")],
)
def test_other_statuses_are_clauses(server: SmallServer, status: int, said: str) -> None:
    server.answering = lambda request: Reply(status)
    assert failure_of(lookup_at(server.host), f"{server.host}/x:1") == f"{server.host} {said}"


def test_a_hundred_threads_make_one_request(server: SmallServer) -> None:
    reference = server.serve_image("x", config_body("dockerd"))
    image = server.answering

    def slowly(request: Request) -> Reply:
        time.sleep(0.2)
        return image(request)

    server.answering = slowly
    lookup = lookup_at(server.host, timeout_seconds=20)
    ready = threading.Barrier(100)

    def find() -> ImageConfig:
        ready.wait(timeout=20)
        return config_of(lookup, reference)

    with ThreadPoolExecutor(100) as pool:
        found = [future.result(timeout=60) for future in [pool.submit(find) for _ in range(100)]]
    assert {config.entrypoint for config in found} == {("dockerd",)}
    assert len(server.asked) == 2, "a manifest and a configuration"


def test_answers_are_remembered_for_as_long_as_they_hold(server: SmallServer) -> None:
    now = [1000.0]
    reference = server.serve_image("x", config_body("one"))
    lookup = Lookup(Registry(allowed=(server.host,)), clock=lambda: now[0])
    assert config_of(lookup, reference).entrypoint == ("one",)
    server.serve_image("x", config_body("two"))
    assert config_of(lookup, reference).entrypoint == ("one",)
    now[0] += TAG_SECONDS + 1
    assert config_of(lookup, reference).entrypoint == ("two",)
    missing = f"{server.host}/none:1"
    assert "does not have it" in failure_of(lookup, missing)
    server.serve_image("none", config_body("three"))
    assert "does not have it" in failure_of(lookup, missing)
    now[0] += FAILURE_SECONDS + 1
    assert config_of(lookup, missing).entrypoint == ("three",)


def test_a_mirror_is_asked_before_docker_hub_and_gets_no_credentials(server: SmallServer) -> None:
    server.serve_image("library/docker", config_body("dockerd-entrypoint.sh"))
    lookup = lookup_at("docker.io", mirrors=(f"http://{server.host}",))
    keyring = Keyring([("https://index.docker.io/v1/", Credential("u", "p"))])
    assert config_of(lookup, "docker:1", keyring).entrypoint == ("dockerd-entrypoint.sh",)
    assert [request for request in server.asked if "authorization" in request.headers] == []


def test_a_mirror_that_hangs_leaves_time_for_the_next(server: SmallServer, other: SmallServer) -> None:
    server.answering = lambda request: Reply(before_seconds=30)
    other.serve_image("library/docker", config_body("dockerd-entrypoint.sh"))
    mirrors = (f"http://{server.host}", f"http://{other.host}")
    lookup = lookup_at("docker.io", mirrors=mirrors, timeout_seconds=1)
    assert config_of(lookup, "docker:1").entrypoint == ("dockerd-entrypoint.sh",)


@pytest.mark.requires("openssl")
def test_a_certificate_that_nobody_has_signed_is_refused(server: SmallServer, tmp_path: Path) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    made += ["-addext", "subjectAltName=DNS:localhost"]
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", *made, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    reference = server.serve_image("x", config_body("dockerd"))
    by_name = reference.replace("127.0.0.1", "localhost")

    def said(trusted: ssl.SSLContext, reference: str) -> str:
        image = remote_image(reference)
        assert image is not None
        own = Server(image.registry, is_plain=False)
        with Session(
            Deadline(5), tls=lambda: trusted, refused_address=lambda *_: "", is_plain=lambda host: False
        ) as session:
            try:
                return read_from(own, image, session, credentials=(), architecture="").entrypoint[0]
            except Unread as failure:
                return failure.because

    ours = ssl.create_default_context(cafile=str(certificate))
    assert said(ours, by_name) == "dockerd"
    assert said(ours, reference).startswith("the certificate of 127.0.0.1 is not valid here")
    assert said(ssl.create_default_context(), by_name).startswith("the certificate of localhost is not valid here")
    # A server with TLS is not asked without it, not even where it redirects to that.
    server.answering = lambda request: Reply(302, headers={"Location": "http://localhost/x"})
    assert said(ours, by_name) == "localhost would be asked without TLS, which the policy does not allow"


def _wait_for_threads() -> None:
    """Wait until no lookup is under way: each ends at its deadline, too."""
    deadline = time.monotonic() + 10
    while any(thread.name == "kata-dind-lookup" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
