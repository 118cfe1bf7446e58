"""Secrets and configurations as they come: which are ours to change, and what a change is."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from kata_dind.__main__ import execute
from kata_dind.cli.session import Session
from kata_dind.errors import KubernetesError
from kata_dind.webhook.authority import Pair, new_authority, new_certificate, read_certificates
from kata_dind.webhook.configuration import Service, changed_configuration, read_configuration, service_names
from kata_dind.webhook.permissions import configuration_rules, secret_rules
from kata_dind.webhook.secret import (
    MARK,
    changed_secret,
    data_with_authority,
    data_with_certificate,
    new_secret,
    read_secret,
)

NAMES = tuple(service_names("kata-dind", "ci"))
NOW = datetime.now(UTC)
SERVICE = Service("kata-dind", "ci", NAMES)


def read(found: dict[str, Any] | None) -> Any:
    return read_secret(found, NAMES, called="the Secret 'tls'", delete="kubectl delete secret tls")


def secret(data: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"name": "tls", "namespace": "ci", "resourceVersion": "7", **fields.pop("metadata", {})}
    return {"kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data or {}, **fields}


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def ours() -> tuple[dict[str, Any], Pair]:
    authority = new_authority(NAMES, now=NOW)
    pair = new_certificate(authority, NAMES, now=NOW, life=timedelta(days=90))
    data = data_with_authority(read(None), authority, now=NOW) | data_with_certificate(pair)
    found = new_secret("tls", "ci", data)
    found["metadata"]["resourceVersion"] = "7"
    return found, authority


def test_what_we_made_is_read_again() -> None:
    found, authority = ours()
    kept = read(found)
    assert kept.facts.certificate.signer == kept.facts.authorities[0].fingerprint
    assert kept.facts.certificate.has_key
    assert kept.facts.certificate.fits
    assert kept.facts.authorities[0].has_key
    assert kept.facts.authorities[0].fits
    assert kept.signing == authority
    assert "PRIVATE" not in repr(kept)


@pytest.mark.parametrize("missing", ["ca.key", "ca.crt", "tls.crt", "tls.key"])
def test_what_is_missing_is_seen(missing: str) -> None:
    found, _ = ours()
    del found["data"][missing]
    facts = read(found).facts
    assert facts != read(ours()[0]).facts
    assert (not facts.authorities) == (missing == "ca.crt")
    assert (facts.certificate is None) == (missing == "tls.crt")


def test_old_authorities_stay_behind_the_new_one_until_they_end() -> None:
    found, old = ours()
    ended = new_authority(NAMES, now=NOW - timedelta(days=4000))
    found["data"]["ca.crt"] = text(old.certificate + ended.certificate)
    new = new_authority(NAMES, now=NOW)
    patch = changed_secret(read(found), data_with_authority(read(found), new, now=NOW))
    assert base64.b64decode(patch["data"]["ca.crt"]).decode() == new.certificate + old.certificate
    assert patch["metadata"]["resourceVersion"] == "7"
    assert set(patch["data"]) == {"ca.crt", "ca.key"}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(secret({"tls.crt": "", "tls.key": ""}), id="empty"),
        pytest.param(secret({}, type="Opaque"), id="empty, of the type that a Secret has without one"),
        pytest.param(secret({"password": text("x")}, metadata={"annotations": {MARK: "self-signed"}}), id="marked"),
    ],
)
def test_a_secret_that_is_empty_or_marked_is_taken(found: dict[str, Any]) -> None:
    assert read(found).facts.certificate is None


@pytest.mark.parametrize(
    ("found", "error_id", "said"),
    [
        (
            secret({"tls.crt": text("x")}, metadata={"annotations": {"cert-manager.io/certificate-name": "web"}}),
            "webhook.secret-of-cert-manager",
            "the Secret 'tls' is made by cert-manager, which renews it, so it is left alone",
        ),
        (
            secret({}, metadata={"labels": {"controller.cert-manager.io/fao": "true"}}),
            "webhook.secret-of-cert-manager",
            "cert-manager",
        ),
        (
            secret({}, type="kubernetes.io/dockerconfigjson"),
            "webhook.secret-of-wrong-type",
            "the Secret 'tls' is of the type kubernetes.io/dockerconfigjson, which is not for certificates",
        ),
        (secret({"tls.crt": text("mine")}), "webhook.secret-foreign", "content that kata-dind has not made"),
        (secret({"password": text("x")}, type="Opaque"), "webhook.secret-foreign", "content"),
        (secret({}, immutable=True), "webhook.secret-immutable", "immutable"),
    ],
)
def test_a_secret_of_others_is_refused(found: dict[str, Any], error_id: str, said: str) -> None:
    with pytest.raises(KubernetesError) as caught:
        read(found)
    assert caught.value.id == error_id
    assert said in caught.value.summary
    assert "kubectl delete secret tls" in caught.value.hint


def test_the_chart_gives_the_rights_that_are_needed_and_no_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KATA_DIND_CONFIG", "")
    assert execute(["webhook", "manifest"], session=Session()) == 0
    objects = [each for each in yaml.safe_load_all(capsys.readouterr().out) if each]
    args = next(
        container["args"]
        for each in objects
        if each["kind"] == "Job"
        for container in each["spec"]["template"]["spec"]["containers"]
    )
    given = dict(word.removeprefix("--").split("=") for word in args if word.startswith("--"))
    rules = [rule for each in objects if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
    wanted = [*configuration_rules(given["configuration"]), *secret_rules(given["secret"])]
    assert sorted(rules, key=str) == sorted(wanted, key=str)
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Secret"] == [given["secret"]]


def configuration(*webhooks: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "kata-dind", "resourceVersion": "9", **metadata}, "webhooks": list(webhooks)}


def webhook(name: str, bundle: str = "", **client: Any) -> dict[str, Any]:
    to = client or {"service": {"name": "kata-dind", "namespace": "ci"}}
    return {"name": name, "clientConfig": {**to, **({"caBundle": text(bundle)} if bundle else {})}}


def test_each_of_our_webhooks_is_changed_and_no_other() -> None:
    other = webhook("c", service={"name": "kata-dind", "namespace": "prod"})
    by_url = webhook("b", url=f"https://{NAMES[1]}:8443/mutate")
    found, old = ours()
    kept = read(found)
    read_one = read_configuration(configuration(webhook("a", "junk"), by_url, other), SERVICE, called="it")
    patch = changed_configuration(read_one, kept.facts, kept.authorities, now=NOW)
    assert patch["metadata"]["resourceVersion"] == "9"
    bundle = {"caBundle": text(old.certificate)}
    assert patch["webhooks"] == [{"name": "a", "clientConfig": bundle}, {"name": "b", "clientConfig": bundle}]
    assert [hook.facts.is_clean for hook in read_one.hooks] == [False, True]


def test_a_bundle_keeps_what_still_holds() -> None:
    lost = new_authority(NAMES, now=NOW)
    ended = new_authority(NAMES, now=NOW - timedelta(days=4000))
    found, present = ours()
    kept = read(found)
    before = configuration(webhook("a", ended.certificate + lost.certificate + lost.certificate))
    patch = changed_configuration(
        read_configuration(before, SERVICE, called="it"), kept.facts, kept.authorities, now=NOW
    )
    after = base64.b64decode(patch["webhooks"][0]["clientConfig"]["caBundle"]).decode()
    assert [each.pem for each in read_certificates(after)] == [present.certificate, lost.certificate]


def test_a_configuration_without_a_webhook_of_ours_is_refused() -> None:
    foreign = configuration(webhook("a", service={"name": "x", "namespace": "y"}), webhook("b", url="https://z/"))
    with pytest.raises(KubernetesError, match="no webhook that calls the Service 'kata-dind'") as caught:
        read_configuration(foreign, SERVICE, called="the MutatingWebhookConfiguration 'kata-dind'")
    assert caught.value.details == "a calls the Service x in the namespace y\nb calls https://z/"


def test_a_configuration_that_cert_manager_writes_is_refused() -> None:
    injected = configuration(webhook("a"), annotations={"cert-manager.io/inject-ca-from": "ci/web"})
    with pytest.raises(KubernetesError, match="cert-manager writes the bundle") as caught:
        read_configuration(injected, SERVICE, called="it")
    assert "inject-ca-from-" in caught.value.hint
