"""`kata-dind webhook certs` on a real API server, with the rights that the chart gives and no others.

The webhook is a small HTTPS server that serves the pair of the Secret, as a replica would, and admits everything.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kata_dind.kube.access import find_access
from kata_dind.kube.client import open_client
from kata_dind.progress import Event, Report, silent
from kata_dind.webhook.authority import read_certificates
from kata_dind.webhook.configuration import Service, service_names
from kata_dind.webhook.keeping import Outcome, Wanted, keep_certificates
from kata_dind.webhook.permissions import configuration_rules, creation_rules, secret_rules
from kata_dind.webhook.rotation import Settings
from tests.kube.client import Client
from tests.kube.needs import needs
from tests.kube.server import READER, ApiServer
from tests.vm.driver import KATA_DIND

pytestmark = needs()

SECRET, SERVICE = "kata-dind-tls", "kata-dind"
SETTINGS = Settings(timedelta(days=90), timedelta(days=30))
NO_DELAY = 0.0


@dataclass
class Installed:
    """A webhook in a namespace of its own, and its operator, who has the chart's rights."""

    api: Client
    server: ApiServer
    namespace: str
    configuration: str
    kubeconfig: Path
    directory: Path

    @property
    def options(self) -> list[str]:
        return [
            *("--namespace", self.namespace, "--secret", SECRET, "--service", SERVICE, "--also", "localhost"),
            *("--configuration", self.configuration, "--kubeconfig", str(self.kubeconfig)),
        ]

    def start(self, *options: str) -> subprocess.Popen[str]:
        argv = [*KATA_DIND, "webhook", "certs", *self.options, *options]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def certs(self, *options: str) -> subprocess.CompletedProcess[str]:
        return finished(self.start(*options))

    def keep(self, settings: Settings = SETTINGS, *, report: Report = silent) -> Outcome:
        """Do the same in this process."""
        names = (*service_names(SERVICE, self.namespace), "localhost")
        wanted = Wanted(SECRET, self.configuration, Service(SERVICE, self.namespace, names), settings)
        with open_client(find_access(kubeconfig=str(self.kubeconfig))) as client:
            return keep_certificates(client, wanted, report=report, settle_seconds=NO_DELAY)

    @property
    def _secret(self) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": self.namespace}}

    def secret(self) -> dict[str, str]:
        data = self.api.read(self._secret)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def change_secret(self, **fields: Any) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/secrets/{SECRET}"
        answer = self.api.request("PATCH", path, fields, kind="application/merge-patch+json")
        assert answer.accepted, answer.message

    def make_secret(self, data: dict[str, str], **fields: Any) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        item = {**self._secret, "type": "kubernetes.io/tls", "data": encoded}
        item["metadata"] = {**item["metadata"], **fields.pop("metadata", {})}
        answer = self.api.create({**item, **fields})
        assert answer.accepted, answer.message

    def bundles(self) -> list[str]:
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self.configuration}"
        answer = self.api.request("GET", path)
        assert answer.accepted, answer.message
        return [base64.b64decode(each["clientConfig"].get("caBundle", "")).decode() for each in answer.body["webhooks"]]

    @property
    def admitted(self) -> dict[str, Any]:
        """An object that the webhook is asked about."""
        metadata = {"generateName": "x-", "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    def install(self, *webhooks: dict[str, Any]) -> None:
        item = {"metadata": {"name": self.configuration}, "webhooks": list(webhooks)}
        path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
        answer = self.api.request("POST", path, item)
        assert answer.accepted, answer.message

    def webhook(self, name: str, port: int = 0) -> dict[str, Any]:
        """A webhook for this namespace alone; on loopback if there is a port, else behind the Service."""
        service = {"service": {"name": SERVICE, "namespace": self.namespace, "path": "/mutate"}}
        return {
            "name": f"{name}.kata-dind.io",
            "clientConfig": {"url": f"https://localhost:{port}/mutate"} if port else service,
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
            ],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 10,
        }


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=180)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def installed(api: Client, api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[Installed]:
    name = f"kata-dind-{namespace}"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    subject = [{"kind": "User", "name": READER, "apiGroup": "rbac.authorization.k8s.io"}]
    inside = f"{rbac}/namespaces/{namespace}"
    for path, rules, kind in (
        (inside, [*creation_rules(), *secret_rules(SECRET)], "Role"),
        (rbac, configuration_rules(name), "ClusterRole"),
    ):
        role = {"metadata": {"name": name}, "rules": rules}
        assert (answer := api.request("POST", f"{path}/{kind.lower()}s", role)).accepted, answer.message
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": subject}
        assert (answer := api.request("POST", f"{path}/{kind.lower()}bindings", binding)).accepted, answer.message
    config = api_server.kubeconfig(tmp_path / "kubeconfig", context="operator", user=READER)
    yield Installed(api, api_server, namespace, name, config, tmp_path)
    api.request("DELETE", f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}")
    for each in (f"{rbac}/clusterroles/{name}", f"{rbac}/clusterrolebindings/{name}"):
        api.request("DELETE", each)


class _Server(http.server.ThreadingHTTPServer):
    """Counts the reviews that it has answered."""

    reviews = 0
    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        # A context that is changed has for a moment the new certificate and the old key, so each pair has its own.
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address


@dataclass
class Replica:
    """A server on loopback with the pair that it was last given."""

    directory: Path
    server: _Server

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def load(self, secret: dict[str, str]) -> None:
        for key in ("tls.crt", "tls.key"):
            (self.directory / key).write_text(secret[key])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "tls.crt", self.directory / "tls.key")
        self.server.context = context


class _Admits(http.server.BaseHTTPRequestHandler):
    """One connection for each review, so that each has a handshake of its own."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = {"uid": review["request"]["uid"], "allowed": True}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        assert isinstance(self.server, _Server)
        self.server.reviews += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Replica]:
    with _Server(("127.0.0.1", 0), _Admits) as server:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Replica(directory, server)
        finally:
            server.shutdown()
            thread.join()


def handshake(bundle: str, pair: dict[str, str], name: str, directory: Path) -> str:
    """Make a TLS connection in which the client trusts the bundle alone; return the protocol's version."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for key in ("tls.crt", "tls.key"):
        (directory / key).write_text(pair[key])
    server.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(cadata=bundle)
    one, other = socket.socketpair()
    with one, other:
        answer = threading.Thread(target=lambda: _accept(server, other))
        answer.start()
        try:
            with client.wrap_socket(one, server_hostname=name) as connection:
                return str(connection.version())
        finally:
            answer.join(timeout=30)


def _accept(context: ssl.SSLContext, end: socket.socket) -> None:
    with contextlib.suppress(ssl.SSLError, OSError), context.wrap_socket(end, server_side=True) as connection:
        connection.recv(1)


def test_from_nothing_and_again(installed: Installed) -> None:
    installed.install(installed.webhook("pods"), installed.webhook("more"))
    checked = installed.certs("--check", "--json")
    assert checked.returncode == 1, checked.stderr
    assert [each["step"] for each in json.loads(checked.stdout)["steps"]] == ["authority", "certificate", "trust"]

    first = installed.certs("--json")
    assert first.returncode == 0, first.stderr
    fields = json.loads(first.stdout)
    assert fields["changed"]
    assert all(step["done"] for step in fields["steps"])
    secret, bundles = installed.secret(), installed.bundles()
    assert set(secret) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert bundles == [secret["ca.crt"]] * 2
    assert handshake(bundles[0], secret, f"{SERVICE}.{installed.namespace}.svc", installed.directory)

    second = installed.certs()
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("nothing to do: the certificate of kata-dind.")
    assert second.stdout.count("\n") == 1
    assert second.stderr == ""
    assert (installed.secret(), installed.bundles()) == (secret, bundles)
    assert installed.certs("--check").returncode == 0
    for key in ("ca.key", "tls.key"):
        assert secret[key] not in first.stdout + first.stderr


def test_a_dry_run_changes_nothing(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    done = installed.certs("--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "to do: authority: there is none",
        "to do: certificate: there is none",
        "to do: trust: the new authority is not trusted yet",
    ]
    assert installed.bundles() == [""]
    assert installed.certs("--check").returncode == 1


def test_twenty_at_once_make_one_of_each(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    done = [finished(each) for each in [installed.start("--json") for _ in range(20)]]
    assert [each.stderr for each in done if each.returncode != 0] == []
    secret = installed.secret()
    assert installed.bundles() == [secret["ca.crt"]]
    assert len(read_certificates(secret["ca.crt"])) == 1
    made = [step["step"] for each in done for step in json.loads(each.stdout)["steps"]]
    assert made.count("authority") == 1
    assert made.count("certificate") == 1
    assert {json.loads(each.stdout)["certificate"]["sha256"] for each in done} == {
        read_certificates(secret["tls.crt"])[0].fingerprint
    }


def test_a_certificate_is_renewed_and_the_authority_stays(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    installed.keep()
    before, bundles = installed.secret(), installed.bundles()
    events: list[Event] = []
    outcome = installed.keep(Settings(timedelta(days=200), timedelta(days=100)), report=events.append)
    assert [str(step.kind) for step in outcome.done] == ["certificate"]
    assert [event.name for event in events] == ["certificate"]
    after = installed.secret()
    assert after["tls.crt"] != before["tls.crt"]
    assert (after["ca.crt"], after["ca.key"]) == (before["ca.crt"], before["ca.key"])
    assert installed.bundles() == bundles


def test_no_admission_fails_while_an_authority_is_replaced(installed: Installed) -> None:
    """The replica serves the Secret's pair of each moment, and at the end the first again: each must be believed."""
    with serving(installed.directory) as replica:
        installed.install(installed.webhook("pods", replica.port))
        installed.keep()
        first = installed.secret()
        replica.load(first)
        admissions = Admissions(installed)
        # The API server hears of a configuration a moment after it has stored it.
        installed.api.wait_until(
            lambda: installed.api.create(installed.admitted).accepted and replica.server.reviews > 0
        )
        with admissions.running():
            installed.change_secret(data={"ca.key": None})

            def renew(event: Event | None = None) -> None:
                replica.load(installed.secret())
                admissions.wait_for(10)

            outcome = installed.keep(report=renew)
            assert [str(step.kind) for step in outcome.done] == ["authority", "trust", "certificate"]
            renew()
            replica.load(first)  # a replica that kubelet has not reached yet
            admissions.wait_for(20)
        assert admissions.refused == []
    second = installed.secret()
    assert second["tls.crt"] != first["tls.crt"]
    assert second["ca.crt"].endswith(first["ca.crt"])
    assert installed.bundles() == [second["ca.crt"]]


@dataclass
class Admissions:
    """Creates objects that the webhook has to admit, one after the other."""

    installed: Installed

    def __post_init__(self) -> None:
        self.refused: list[str] = []
        self.count = 0
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def wait_for(self, more: int) -> None:
        goal, deadline = self.count + more, time.monotonic() + 60
        while self.count < goal:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _go_on(self) -> None:
        with self.installed.server.client() as api:
            while not self._stop.is_set():
                answer = api.create(self.installed.admitted)
                if not answer.accepted:
                    self.refused.append(answer.message)
                self.count += 1


def test_a_lost_bundle_comes_back(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    installed.keep()
    bundles = installed.bundles()
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{installed.configuration}"
    patch = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    assert installed.api.request("PATCH", path, patch, kind="application/json-patch+json").accepted
    outcome = installed.keep()
    assert [str(step.kind) for step in outcome.done] == ["trust"]
    assert installed.bundles() == bundles


def test_an_empty_secret_of_the_chart_is_filled(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    installed.make_secret({}, type="Opaque", metadata={"labels": {"app.kubernetes.io/managed-by": "Helm"}})
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{installed.namespace}/roles/{installed.configuration}"
    fewer = {"rules": secret_rules(SECRET)}  # it has no right to create Secrets then
    assert installed.api.request("PATCH", role, fewer, kind="application/merge-patch+json").accepted
    assert installed.certs().returncode == 0
    assert set(installed.secret()) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert installed.certs("--check").returncode == 0


def test_secrets_of_others_are_left_alone(installed: Installed) -> None:
    installed.install(installed.webhook("pods"))
    content = {"tls.crt": "theirs", "tls.key": "theirs"}
    installed.make_secret(content, metadata={"annotations": {"cert-manager.io/certificate-name": "webhook"}})
    done = installed.certs()
    assert done.returncode == 6
    assert "is made by cert-manager, which renews it, so it is left alone" in done.stderr
    installed.change_secret(metadata={"annotations": {"cert-manager.io/certificate-name": None}})
    done = installed.certs()
    assert done.returncode == 6
    assert "has content that kata-dind has not made" in done.stderr
    assert f"kubectl --namespace {installed.namespace} delete secret {SECRET}" in done.stderr
    assert installed.secret() == content
    assert installed.bundles() == [""]


def test_without_a_configuration_the_secret_is_made_and_the_rest_is_said(installed: Installed) -> None:
    done = installed.certs()
    assert done.returncode == 6
    assert f"the MutatingWebhookConfiguration '{installed.configuration}' does not exist" in done.stderr
    assert "kata-dind webhook manifest" in done.stderr
    installed.install(installed.webhook("pods"))
    again = installed.certs("--json")
    assert again.returncode == 0, again.stderr
    assert [step["step"] for step in json.loads(again.stdout)["steps"]] == ["trust"]


def may(user: Client, verb: str, resource: str, **attributes: str) -> bool:
    group = "" if resource == "secrets" else "admissionregistration.k8s.io"
    asked = {"verb": verb, "resource": resource, "group": group, **attributes}
    review = {"spec": {"resourceAttributes": asked}}
    answer = user.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer.accepted, answer.message
    return bool(answer.body["status"]["allowed"])


@pytest.mark.parametrize(
    ("resource", "verb", "what"),
    [
        ("secrets", "get", "the Secret 'kata-dind-tls' in the namespace"),
        ("secrets", "create", "the Secret 'kata-dind-tls' in the namespace"),
        ("secrets", "patch", "the Secret 'kata-dind-tls' in the namespace"),
        ("mutatingwebhookconfigurations", "get", "the MutatingWebhookConfiguration"),
        ("mutatingwebhookconfigurations", "patch", "the MutatingWebhookConfiguration"),
    ],
)
def test_each_right_is_needed_and_its_lack_is_told(installed: Installed, resource: str, verb: str, what: str) -> None:
    installed.install(installed.webhook("pods"))
    if (resource, verb) == ("secrets", "patch"):
        installed.make_secret({}, type="Opaque")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    if resource == "secrets":
        path, rules = f"{rbac}/namespaces/{installed.namespace}/roles", [*creation_rules(), *secret_rules(SECRET)]
    else:
        path, rules = f"{rbac}/clusterroles", configuration_rules(installed.configuration)
    less = [{**rule, "verbs": [each for each in rule["verbs"] if each != verb]} for rule in rules]
    patch = {"rules": [rule for rule in less if rule["verbs"]]}
    answer = installed.api.request(
        "PATCH", f"{path}/{installed.configuration}", patch, kind="application/merge-patch+json"
    )
    assert answer.accepted, answer.message

    named = {} if verb == "create" else {"name": SECRET if resource == "secrets" else installed.configuration}
    with installed.server.client(READER) as reader:
        # The authorizer watches roles, and hears of it a moment later.
        reader.wait_until(lambda: not may(reader, verb, resource, namespace=installed.namespace, **named))
    done = installed.certs()
    assert done.returncode == 6
    assert f"not allowed to {verb} {what}" in done.stderr
    assert f"kubectl auth can-i {verb} {resource}" in done.stderr


def test_credentials_that_the_server_does_not_know(installed: Installed) -> None:
    config = json.loads(installed.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = "unknown"
    installed.kubeconfig.write_text(json.dumps(config))
    done = installed.certs()
    assert done.returncode == 6
    assert "the context 'operator' does not accept our credentials" in done.stderr


def test_a_server_whose_certificate_is_not_trusted(installed: Installed) -> None:
    config = json.loads(installed.kubeconfig.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    installed.kubeconfig.write_text(json.dumps(config))
    done = installed.certs()
    assert done.returncode == 6
    assert "is not one that the context 'operator' trusts" in done.stderr


def test_a_token_from_a_credential_plugin(installed: Installed) -> None:
    config = json.loads(installed.kubeconfig.read_text())
    token = config["users"][0]["user"].pop("token")
    plugin = installed.directory / "plugin"
    answer = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": token}}
    plugin.write_text(
        f"#!/bin/sh\n[ \"$1\" = get-token ] && [ -n \"$KUBERNETES_EXEC_INFO\" ] && printf '%s' '{json.dumps(answer)}'\n"
    )
    plugin.chmod(0o700)
    config["users"][0]["user"]["exec"] = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin",
        "args": ["get-token"],
        "interactiveMode": "IfAvailable",
    }
    installed.kubeconfig.write_text(json.dumps(config))
    installed.install(installed.webhook("pods"))
    done = installed.certs("--verbose")
    assert done.returncode == 0, done.stderr
    assert token not in done.stderr


def test_the_service_account_of_a_pod(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads(installed.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    mounted = installed.directory / "serviceaccount"
    mounted.mkdir()
    (mounted / "token").write_text(config["users"][0]["user"]["token"])
    (mounted / "namespace").write_text(installed.namespace)
    (mounted / "ca.crt").write_bytes(Path(cluster["certificate-authority"]).read_bytes())
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    access = find_access(service_account=mounted)
    assert access.namespace == installed.namespace
    with open_client(access) as client:
        assert client.get_raw("/version")["major"] == "1"
