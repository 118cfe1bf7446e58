"""Saying who we are: plugins, and tokens that end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from kata_dind.errors import KubernetesError
from kata_dind.kube.access import Access, Plugin, User
from kata_dind.kube.credentials import Bearer, Credentials, auth_for, parse_credentials, run_plugin

V1 = "client.authentication.k8s.io/v1"
ACCESS = Access("x", "https://a:6443", "default", User(), authority=b"pem", server_name="api")


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


def test_a_plugin_is_asked_as_kubectl_asks_it(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text(json.dumps({"status": {"token": "t", "expirationTimestamp": "2026-11-30T12:00:00Z"}}))
    command = script(
        tmp_path / "login", f'printf "%s %s %s" "$1" "$PROFILE" "$KUBERNETES_EXEC_INFO" >{tmp_path}/asked\ncat {answer}'
    )
    found = run_plugin(Plugin(V1, (command, "get-token"), {"PROFILE": "ci"}, wants_cluster=True), ACCESS)
    assert found == Credentials("t", ends=datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp())
    word, profile, info = (tmp_path / "asked").read_text().split(" ", 2)
    assert (word, profile) == ("get-token", "ci")
    cluster = {"server": "https://a:6443", "tls-server-name": "api", "certificate-authority-data": "cGVt"}
    assert json.loads(info) == {
        "apiVersion": V1,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": cluster},
    }


def test_a_plugin_that_fails_is_quoted(tmp_path: Path) -> None:
    command = script(tmp_path / "login", "echo expired session >&2; exit 3")
    with pytest.raises(KubernetesError, match="login failed") as caught:
        run_plugin(Plugin(V1, (command,)), ACCESS)
    assert "expired session" in caught.value.details


@pytest.mark.parametrize(
    ("plugin", "said", "hint"),
    [
        (Plugin(V1, ("no-such-plugin",), install_hint="get it there"), "is not installed", "get it there"),
        (Plugin("client.authentication.k8s.io/v9", ("x",)), "is of an unknown version", ""),
        (Plugin(V1, ("x",), wants_terminal=True), "wants a terminal", "interactiveMode"),
    ],
)
def test_a_plugin_that_cannot_be_run(plugin: Plugin, said: str, hint: str) -> None:
    with pytest.raises(KubernetesError, match=said) as caught:
        run_plugin(plugin, ACCESS)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "secret", "[]", '{"status": null}', '{"status": {}}', '{"status": {"token": "", "clientKeyData": "secret"}}'],
)
def test_an_answer_that_is_none_is_not_quoted(text: str) -> None:
    with pytest.raises(KubernetesError) as caught:
        parse_credentials(text, name="login")
    assert "secret" not in str(caught.value) + caught.value.details


def test_a_plugin_may_answer_with_a_certificate() -> None:
    text = json.dumps({"status": {"clientCertificateData": "crt", "clientKeyData": "key"}})
    assert parse_credentials(text, name="login") == Credentials(certificate=b"crt", key=b"key")


class Server:
    """Accepts some tokens, and remembers what it has seen."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = {f"Bearer {each}" for each in accepted}
        self.seen: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        token = request.headers.get("Authorization", "")
        self.seen.append(token)
        return httpx2.Response(200 if token in self.accepted else 401)


def answers(server: Server, auth: httpx2.Auth | None, times: int = 1) -> list[int]:
    with httpx2.Client(transport=httpx2.MockTransport(server), auth=auth) as client:
        return [client.get("https://a/").status_code for _ in range(times)]


def giving(*tokens: Credentials) -> Callable[[], Credentials]:
    rest = list(tokens)
    return lambda: rest.pop(0)


def test_a_token_is_asked_for_once() -> None:
    server = Server("one")
    assert answers(server, Bearer(giving(Credentials("one"))), times=3) == [200, 200, 200]


def test_a_token_that_has_ended_is_renewed_before_it_is_sent() -> None:
    server = Server("two")
    ended = Credentials("one", ends=time.time() + 1)
    assert answers(server, Bearer(giving(Credentials("two")), ended)) == [200]
    assert server.seen == ["Bearer two"]


def test_a_token_that_is_refused_is_renewed_once() -> None:
    server = Server("two")
    assert answers(server, Bearer(giving(Credentials("two")), Credentials("one"))) == [200]
    assert server.seen == ["Bearer one", "Bearer two"]
    server = Server()
    assert answers(server, Bearer(giving(Credentials("two")), Credentials("one"))) == [401]
    assert len(server.seen) == 2


def test_the_same_token_is_not_tried_twice() -> None:
    server = Server()
    assert answers(server, auth_for(Access("x", "https://a", "d", User(token="one")), None)) == [401]
    assert server.seen == ["Bearer one"]


def test_a_token_that_kubelet_has_renewed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    auth = auth_for(Access("x", "https://a", "d", User(token_file=tmp_path / "token")), None)
    assert answers(Server("one"), auth) == [200]
    (tmp_path / "token").write_text("two\n")
    assert answers(Server("two"), auth) == [200]


def test_a_password_and_nothing() -> None:
    server = Server()
    answers(server, auth_for(Access("x", "https://a", "d", User(name="me", password="pw")), None))
    answers(server, auth_for(ACCESS, None))
    assert server.seen == ["Basic bWU6cHc=", ""]


def test_the_end_of_a_token_is_in_any_zone() -> None:
    text = json.dumps({"status": {"token": "t", "expirationTimestamp": "2026-11-30T13:00:00+01:00"}})
    ends = parse_credentials(text, name="login").ends
    assert ends == (datetime(2026, 11, 30, 13, tzinfo=UTC) - timedelta(hours=1)).timestamp()


@pytest.mark.parametrize("token", ["very secret", "very-secret\n", "very-sécret", "very-secret\0"])
def test_a_token_that_no_header_may_have_is_not_quoted(token: str) -> None:
    bearer = Bearer(lambda: Credentials(token))
    with pytest.raises(KubernetesError, match="the token has a space") as caught:
        next(bearer.auth_flow(httpx2.Request("GET", "https://a")))
    assert "very" not in str(caught.value) + caught.value.details
