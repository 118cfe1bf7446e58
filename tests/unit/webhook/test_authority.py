"""Certificates, as OpenSSL sees them: what an authority signs is good for the webhook's names, and for nothing else."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kata_dind.webhook.authority import (
    AUTHORITY_LIFE,
    Pair,
    belongs,
    has_signed,
    may_sign_for,
    new_authority,
    new_certificate,
    read_certificates,
)

NAMES = ("kata-dind.ci.svc", "kata-dind.ci.svc.cluster.local")
NOW = datetime.now(UTC).replace(microsecond=0)
LIFE = timedelta(days=90)


@pytest.fixture(scope="module")
def authority() -> Pair:
    return new_authority(NAMES, now=NOW)


@pytest.fixture(scope="module")
def pair(authority: Pair) -> Pair:
    return new_certificate(authority, NAMES, now=NOW, life=LIFE)


def verify(directory: Path, bundle: str, certificate: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "ca.crt").write_text(bundle)
    (directory / "tls.crt").write_text(certificate)
    argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.crt", *options, "tls.crt"]
    return subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", NAMES)
def test_openssl_accepts_it(tmp_path: Path, authority: Pair, pair: Pair, name: str) -> None:
    done = verify(tmp_path, authority.certificate, pair.certificate, "-verify_hostname", name)
    assert done.returncode == 0, done.stderr


def test_openssl_accepts_a_bundle_of_old_and_new(tmp_path: Path, authority: Pair, pair: Pair) -> None:
    others = [new_authority(NAMES, now=NOW).certificate for _ in range(2)]
    bundle = "".join([others[0], authority.certificate, others[1]])
    assert verify(tmp_path, bundle, pair.certificate).returncode == 0
    assert verify(tmp_path, "".join(others), pair.certificate).returncode != 0


@pytest.mark.parametrize("name", ["kubernetes.default.svc", "ci.svc", "127.0.0.1", "::1"])
def test_openssl_refuses_what_an_authority_signs_for_others(tmp_path: Path, authority: Pair, name: str) -> None:
    foreign = new_certificate(authority, [name], now=NOW, life=LIFE)
    done = verify(tmp_path, authority.certificate, foreign.certificate)
    assert "permitted subtree violation" in done.stderr or "excluded subtree violation" in done.stderr


def test_an_address_that_is_asked_for_is_permitted(tmp_path: Path) -> None:
    names = [*NAMES, "127.0.0.1"]
    authority = new_authority(names, now=NOW)
    pair = new_certificate(authority, names, now=NOW, life=LIFE)
    done = verify(tmp_path, authority.certificate, pair.certificate, "-verify_ip", "127.0.0.1")
    assert done.returncode == 0, done.stderr
    other = new_certificate(authority, ["127.0.0.2"], now=NOW, life=LIFE)
    assert verify(tmp_path, authority.certificate, other.certificate).returncode != 0


def test_what_is_read_is_what_was_made(authority: Pair, pair: Pair) -> None:
    above, below = read_certificates(authority.certificate + "no certificate\n" + pair.certificate)
    assert (above.is_authority, below.is_authority) == (True, False)
    assert below.for_servers
    assert below.names == NAMES
    assert below.ends == NOW + LIFE
    assert above.ends == NOW + AUTHORITY_LIFE
    assert NOW - timedelta(hours=1) < below.begins < NOW
    assert below.holds_at(NOW)
    assert not below.holds_at(below.ends)


def test_a_certificate_ends_with_its_authority(authority: Pair) -> None:
    late = NOW + AUTHORITY_LIFE - timedelta(days=10)
    pair = new_certificate(authority, NAMES, now=late, life=LIFE)
    assert read_certificates(pair.certificate)[0].ends == NOW + AUTHORITY_LIFE


def test_who_signed_and_whose_key_it_is(authority: Pair, pair: Pair) -> None:
    above, below = read_certificates(authority.certificate + pair.certificate)
    other = new_authority(NAMES, now=NOW)
    assert has_signed(above, below)
    assert not has_signed(read_certificates(other.certificate)[0], below)
    assert belongs(pair.key, below)
    assert not belongs(authority.key, below)
    assert not belongs("no key", below)


def test_an_authority_is_for_its_names_and_those_below(authority: Pair) -> None:
    (above,) = read_certificates(authority.certificate)
    assert may_sign_for(above, NAMES)
    assert may_sign_for(above, ["a.kata-dind.ci.svc"])
    assert not may_sign_for(above, [*NAMES, "other.ci.svc"])
    assert not may_sign_for(above, [*NAMES, "10.0.0.1"])


def test_serials_and_names_are_of_one_certificate() -> None:
    made = [new_authority(NAMES, now=NOW) for _ in range(20)]
    assert len({each.certificate for each in made}) == 20
    assert len({each.key for each in made}) == 20


def test_a_representation_tells_no_key(pair: Pair) -> None:
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize(
    "text", ["", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_is_left_out(text: str) -> None:
    assert read_certificates(text) == []
