"""Which cluster is reached, and as whom: files as kubectl reads them, and a pod's service account."""

from __future__ import annotations

import base64
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kata_dind.errors import KubernetesError, SpecError
from kata_dind.kube.access import Access, Plugin, User, find_access
from kata_dind.kube.connection import open_connection, proxy_for, tls_context
from kata_dind.webhook.authority import new_authority


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, no proxy, no configuration of the user's own."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def config(name: str, *, current: str = "", cluster: Any = None, **user: Any) -> dict[str, Any]:
    """A file with one cluster, user and context, all of one name."""
    return {
        "current-context": current,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443", **(cluster or {})}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"in-{name}"}}],
    }


def write(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def test_a_file_and_its_current_context(tmp_path: Path) -> None:
    access = find_access(kubeconfig=write(tmp_path / "one", config("a", current="a", token="secret")))
    assert access == Access("the context 'a'", "https://a:6443", "in-a", User(token="secret"))
    assert "secret" not in repr(access)


def test_the_first_file_that_has_a_name_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one", config("a", token="first"))
    two = write(tmp_path / "two", {**config("a", current="a", token="second")})
    three = write(tmp_path / "three", config("b", current="b"))
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path / 'missing'}:{two}:{three}")
    assert find_access().user.token == "first"
    assert find_access(context="b").server == "https://b:6443"


def test_the_users_own_file(tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", config("home", current="home"))
    assert find_access().name == "the context 'home'"


def test_a_user_without_a_home_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(KubernetesError, match="neither a kubeconfig nor a pod's service account"):
        find_access()


def test_all_that_a_cluster_can_say(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("from a file")
    cluster = {
        "certificate-authority": "ca.pem",
        "tls-server-name": "api.internal",
        "proxy-url": "http://proxy:3128",
        "insecure-skip-tls-verify": True,
    }
    access = find_access(kubeconfig=write(tmp_path / "one", config("a", current="a", cluster=cluster)))
    assert (access.authority, access.server_name, access.proxy) == (b"from a file", "api.internal", "http://proxy:3128")
    assert access.trusts_all


def test_all_that_a_user_can_say(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./bin/login",
        "args": ["get-token"],
        "env": [{"name": "PROFILE", "value": "ci"}],
        "installHint": "install it\n",
        "provideClusterInfo": True,
        "interactiveMode": "Always",
    }
    user = {
        "exec": plugin,
        "as": "somebody",
        "as-groups": ["some", "bodies"],
        "tokenFile": "token",
        "client-certificate-data": base64.b64encode(b"crt").decode(),
        "client-key-data": base64.b64encode(b"key").decode(),
    }
    found = find_access(kubeconfig=write(tmp_path / "one", config("a", current="a", **user))).user
    assert found.plugin == Plugin(
        "client.authentication.k8s.io/v1",
        (str(tmp_path / "bin/login"), "get-token"),
        {"PROFILE": "ci"},
        "install it",
        wants_cluster=True,
        wants_terminal=True,
    )
    assert (found.certificate, found.key, found.token_file) == (b"crt", b"key", tmp_path / "token")
    assert (found.acts_as, found.acts_as_groups) == ("somebody", ("some", "bodies"))


@pytest.mark.parametrize(
    ("content", "context", "error_id", "said"),
    [
        ({}, "", "kubernetes.no-kubeconfig", "neither a kubeconfig nor a pod's service account"),
        (config("a"), "b", "kubernetes.no-context", "has no context 'b'"),
        (config("a", current="b"), "", "kubernetes.no-context", "has no context 'b'"),
        (
            {**config("a", current="a"), "users": []},
            "",
            "kubernetes.kubeconfig-unusable",
            "names the user 'a', which is not there",
        ),
        (config("a", current="a", cluster={"server": ""}), "", "kubernetes.kubeconfig-unusable", "has no server"),
        (
            config("a", current="a", **{"auth-provider": {"name": "gcp"}}),
            "",
            "kubernetes.kubeconfig-unusable",
            "auth-provider",
        ),
        (
            config("a", current="a", **{"client-key": "missing"}),
            "",
            "kubernetes.kubeconfig-unusable",
            "client-key: ",
        ),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, content: dict[str, Any], context: str, error_id: str, said: str
) -> None:
    if content:
        write(tmp_path / ".kube" / "config", content)
    with pytest.raises(KubernetesError) as caught:
        find_access(context=context)
    assert caught.value.id == error_id
    assert said in caught.value.summary


def test_a_file_that_is_not_yaml_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("users:\n- token: {very secret\n")
    with pytest.raises(KubernetesError) as caught:
        find_access(kubeconfig=str(tmp_path / "bad"))
    assert "is not YAML from line" in caught.value.summary
    assert "secret" not in str(caught.value) + caught.value.details


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    for name in ("token", "namespace", "ca.crt"):
        (directory / name).write_text(f"the {name}\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return directory


def test_in_a_pod_its_service_account_counts(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = find_access(service_account=pod)
    assert access == Access(
        "the pod's cluster", "https://10.0.0.1:443", "the namespace", User(token_file=pod / "token"), b"the ca.crt\n"
    )
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert find_access(service_account=pod).server == "https://[fd00::1]:443"


def test_in_a_pod_a_kubeconfig_counts_more(pod: Path, tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", config("a", current="a"))
    assert find_access(service_account=pod).name == "the context 'a'"


@pytest.mark.parametrize(
    ("server", "variables", "expected"),
    [
        ("https://10.1.2.3:443", {}, ""),
        ("https://10.1.2.3:443", {"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://10.1.2.3:443", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://10.1.2.3:443", {"https_proxy": "http://p", "no_proxy": "localhost,10.0.0.0/8"}, ""),
        ("https://10.1.2.3:443", {"https_proxy": "http://p", "no_proxy": "192.168.0.0/16, 10.1.2.3"}, ""),
        ("https://10.1.2.3:443", {"https_proxy": "http://p", "no_proxy": "10.2.0.0/16"}, "http://p"),
        ("https://[fd00::1]:443", {"https_proxy": "http://p", "no_proxy": "fd00::/8"}, ""),
        ("https://api.example:6443", {"https_proxy": "http://p", "no_proxy": ".example"}, ""),
        ("https://api.example:6443", {"https_proxy": "http://p", "no_proxy": "*"}, ""),
        ("http://127.0.0.1:8001", {"https_proxy": "http://p"}, ""),
    ],
)
def test_the_proxy_on_the_way(
    monkeypatch: pytest.MonkeyPatch, server: str, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(Access("x", server, "default", User())) == expected
    assert proxy_for(Access("x", server, "default", User(), proxy="http://own")) == "http://own"


def test_a_client_certificate_is_used_and_never_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = new_authority(["a"], now=datetime.now(UTC))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    user = User(certificate=pair.certificate.encode(), key=pair.key.encode())
    context = tls_context(Access("x", "https://a", "default", user, authority=pair.certificate.encode()))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("field", ["authority", "certificate"])
def test_a_certificate_that_is_none_is_said(field: str) -> None:
    user = User(certificate=b"x", key=b"y") if field == "certificate" else User()
    access = Access("x", "https://a", "default", user, authority=b"-----BEGIN" if field == "authority" else b"")
    with pytest.raises(KubernetesError) as caught:
        tls_context(access)
    assert caught.value.id == "kubernetes.kubeconfig-unusable"


def test_verification_can_be_given_up() -> None:
    assert tls_context(Access("x", "https://a", "default", User(), trusts_all=True)).verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    "cluster",
    [{"server": "https://a:b"}, {"server": "https://[::1"}, {"proxy-url": "carrier://pigeon"}],
)
def test_what_is_no_address_is_said(tmp_path: Path, cluster: dict[str, str]) -> None:
    access = find_access(kubeconfig=write(tmp_path / "one", config("a", current="a", cluster=cluster)))
    with pytest.raises(KubernetesError, match="the address of the context 'a'") as caught, open_connection(access):
        pass
    assert caught.value.id == "kubernetes.kubeconfig-unusable"


def test_lists_that_are_none_are_left_out(tmp_path: Path) -> None:
    plugin = {"command": "login", "args": 5, "env": 5}
    file = write(tmp_path / "one", config("a", current="a", exec=plugin, **{"as-groups": "one"}))
    user = find_access(kubeconfig=file).user
    assert user.plugin is not None
    assert (user.plugin.argv, user.plugin.environment, user.acts_as_groups) == (("login",), {}, ())


@pytest.mark.parametrize("name", ["missing", "~nobody-of-this-name/config"])
def test_a_file_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(SpecError, match="--kubeconfig: there is no file"):
        find_access(kubeconfig=name)
