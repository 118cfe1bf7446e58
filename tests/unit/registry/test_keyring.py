"""Which credentials an image gets: kubelet's rules, and what pull secrets and config.json hold."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from kata_dind.registry.docker_config import config_path, keyring_for
from kata_dind.registry.keyring import Credential, Keyring, entries_of_config, entries_of_secret, fingerprint
from kata_dind.registry.remote import remote_image


def users_for(reference: str, *places: str) -> list[str]:
    """Return the users that an image gets of a keyring with one for each place, named as the place."""
    image = remote_image(reference)
    assert image is not None
    return [each.user for each in Keyring([(place, Credential(place, "p")) for place in places]).credentials_for(image)]


HUB = "https://index.docker.io/v1/"


# After TestURLsMatch and TestDockerKeyringForGlob of Kubernetes' keyring_test.go.
@pytest.mark.parametrize(
    ("place", "reference", "is_for"),
    [
        ("https://hello.kubernetes.io", "hello.kubernetes.io/foo/bar", True),
        ("https://*.docker.io", "prefix.docker.io/foo", True),
        ("https://prefix.*.io", "prefix.docker.io/foo", True),
        ("https://*.*.io", "prefix.docker.io/foo", True),
        ("https://*kubernetes.io", "prefixkubernetes.io/foo", True),
        ("https://prefix.??????.io", "prefix.docker.io/foo", True),
        ("https://*.docker.io/path", "prefix.docker.io/path/image", True),
        ("*.docker.io:8888", "prefix.docker.io:8888/foo", True),
        ("https://registry.example/v2/", "registry.example/foo", True),
        ("http://registry.example/v1/team", "registry.example/team/foo", True),
        ("registry.example/team", "registry.example/teams/foo", True),
        ("*.docker.io", "foo.bar.docker.io/x", False),
        ("https://docker.io", "prefix.docker.io/x", False),
        ("*.docker.io:5555", "prefix.docker.io/x", False),
        ("*.docker.io", "prefix.docker.io:5555/x", False),
        ("*", "registry.example/x", False),
        ("*", "localhost/x", True),
        ("registry.example/team", "registry.example/other/team", False),
        ("registry.example/team/deep", "registry.example/team", False),
        (HUB, "docker", True),
        (HUB, "docker.io/team/x:1", True),
        (HUB, "index.docker.io/team/x", True),
        ("docker.io", "library/docker", True),
        ("docker.io/team", "team/x", True),
        ("docker.io/team", "docker", False),
        (HUB, "quay.io/docker", False),
    ],
)
def test_a_place_is_for_an_image_as_kubelet_has_it(place: str, reference: str, is_for: bool) -> None:
    assert users_for(reference, place) == ([place] if is_for else [])


def test_the_more_specific_place_is_tried_first() -> None:
    places = ("registry.example", "*.example", "registry.example/team/deep", "registry.example/team")
    assert users_for("registry.example/team/deep/x", *places) == [places[2], places[3], places[0], places[1]]


def secret(kind: str, key: str, content: Any, *, plain: bool = False) -> dict[str, Any]:
    text = json.dumps(content)
    values = {"stringData": {key: text}} if plain else {"data": {key: base64.b64encode(text.encode()).decode()}}
    return {"kind": "Secret", "type": kind, **values}


AUTH = base64.b64encode(b"user:pass:word").decode()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("kind", "key", "content"),
    [
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", {"auths": {"r.example": {"auth": AUTH}}}),
        ("kubernetes.io/dockercfg", ".dockercfg", {"r.example": {"auth": AUTH, "email": "x"}}),
        (
            "kubernetes.io/dockerconfigjson",
            ".dockerconfigjson",
            {"auths": {"r.example": {"username": "user", "password": "pass:word"}}},
        ),
    ],
)
def test_a_pull_secret_of_either_type_is_read(kind: str, key: str, content: Any, plain: bool) -> None:
    assert list(entries_of_secret(secret(kind, key, content, plain=plain))) == [
        ("r.example", Credential("user", "pass:word"))
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"type": "Opaque", "data": {".dockerconfigjson": AUTH}},
        {"type": "kubernetes.io/dockerconfigjson"},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "%%%"}},
        {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": 7}},
        {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "[" * 100_000}},
        {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": '{"auths": {"x": {}}}'}},
        {
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": '{"auths": {"x": {"auth": "eA=="}}}'},
        },
        {"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": '["x"]'}},
    ],
)
def test_what_is_no_pull_secret_has_no_credentials(data: dict[str, Any]) -> None:
    assert list(entries_of_secret(data)) == []


def test_a_password_is_in_no_representation_and_in_no_fingerprint() -> None:
    credential = Credential("user", "geheim")
    assert "geheim" not in repr(credential) + repr(Keyring([("x", credential)]))
    assert b"geheim" not in fingerprint([credential])
    assert fingerprint([credential]) != fingerprint([Credential("user", "other")])


def test_keyrings_are_joined() -> None:
    image = remote_image("r.example/x")
    assert image is not None
    first, second = (Keyring([("r.example", Credential(user, "p"))]) for user in ("one", "two"))
    assert [each.user for each in first.and_those_of(second).credentials_for(image)] == ["one", "two"]


def helper(directory: Path, name: str, answer: str, code: int = 0) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(
        f"#!/bin/sh\nread -r place || :\necho \"$1 $place\" >>{directory}/asked\nprintf %s '{answer}'\nexit {code}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_helpers_are_asked_as_docker_asks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    helper(tmp_path, "one", '{"ServerURL": "r.example", "Username": "u", "Secret": "s"}')
    helper(tmp_path, "all", '{"Username": "hub", "Secret": "t"}')
    helper(tmp_path, "sulks", "credentials not found", code=1)
    config = {
        "auths": {"old.example": {"auth": AUTH}},
        "credsStore": "all",
        "credHelpers": {"r.example": "one", "no.example": "missing", "bad.example": "../evil", "dumb.example": "sulks"},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    references = ["r.example/x", "docker", "no.example/x", "bad.example/x", "dumb.example/x"]
    keyring = keyring_for(references, path)
    found = {}
    for reference in [*references, "old.example/x"]:
        image = remote_image(reference)
        assert image is not None
        found[reference] = [(each.user, each.password) for each in keyring.credentials_for(image)]
    assert found == {
        "r.example/x": [("u", "s")],
        "docker": [("hub", "t")],
        "no.example/x": [],
        "bad.example/x": [],
        "dumb.example/x": [],
        "old.example/x": [("user", "pass:word")],
    }
    assert sorted((tmp_path / "asked").read_text().splitlines()) == [
        "get dumb.example",
        f"get {HUB}",
        "get r.example",
    ]


def test_the_configuration_is_where_docker_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert config_path() == tmp_path / "config.json"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config_path() == Path("/home/somebody/.docker/config.json")
    assert list(entries_of_config({"auths": "nonsense"})) == []
