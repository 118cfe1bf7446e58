"""The Secret that holds authority and certificate: what it has, whether it is ours, what it will have; pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kata_dind.errors import KubernetesError
from kata_dind.webhook.authority import Certificate, Pair, belongs, has_signed, may_sign_for, read_certificates
from kata_dind.webhook.rotation import AuthorityFacts, CertificateFacts, SecretFacts

CERTIFICATE, KEY, AUTHORITIES, AUTHORITY_KEY = "tls.crt", "tls.key", "ca.crt", "ca.key"
"""The Secret's keys; the first three are what a pod mounts."""

MARK = "kata-dind.io/certificates"
"""The annotation of a Secret that we have made or taken over."""

TLS, OPAQUE = "kubernetes.io/tls", "Opaque"
"""Types that a Secret of ours may have. One that we make is TLS: it has a certificate and a key from the beginning. The
chart makes an empty one, which only Opaque may be; nobody can change the type later."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a Secret has."""

    facts: SecretFacts
    authorities: tuple[Certificate, ...] = ()
    certificate: Certificate | None = None
    authority_key: str = field(default="", repr=False)
    version: str = ""
    """Its resourceVersion; empty if there is no Secret."""

    @property
    def signing(self) -> Pair:
        """The authority that signs."""
        return Pair(self.authorities[0].pem, self.authority_key)


def read_secret(found: Mapping[str, Any] | None, names: Sequence[str], *, called: str, delete: str) -> Kept:
    """Read the Secret, for a webhook with these names.

    Raises KubernetesError for one that is not ours to change; `called` names it, and `delete` is the command that
    deletes it.
    """
    if found is None:
        return Kept(SecretFacts())
    _refuse_foreign(found, called=called, delete=delete)
    key = _text(found, AUTHORITY_KEY)
    authorities = tuple(each for each in read_certificates(_text(found, AUTHORITIES)) if each.is_authority)
    certificate = next(iter(read_certificates(_text(found, CERTIFICATE))), None)
    return Kept(
        facts=SecretFacts(
            authorities=tuple(_authority_facts(each, key, names) for each in authorities),
            certificate=_certificate_facts(certificate, _text(found, KEY), names, authorities),
        ),
        authorities=authorities,
        certificate=certificate,
        authority_key=key,
        version=str(found["metadata"]["resourceVersion"]),
    )


def data_with_authority(kept: Kept, authority: Pair, *, now: datetime) -> dict[str, str]:
    """Return what a Secret's data gets with a new authority: those that have not ended stay behind it."""
    older = [each.pem for each in kept.authorities if now < each.ends]
    return _encoded({AUTHORITIES: "".join([authority.certificate, *older]), AUTHORITY_KEY: authority.key})


def data_with_certificate(pair: Pair) -> dict[str, str]:
    """Return what a Secret's data gets with a new certificate."""
    return _encoded({CERTIFICATE: pair.certificate, KEY: pair.key})


def new_secret(name: str, namespace: str, data: Mapping[str, str]) -> dict[str, Any]:
    """Return the whole object."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "annotations": {MARK: "self-signed"}},
        "type": TLS,
        "data": dict(data),
    }


def changed_secret(kept: Kept, data: Mapping[str, str]) -> dict[str, Any]:
    """Return a merge patch, which holds for the version that was read and for no other."""
    return {
        "metadata": {"resourceVersion": kept.version, "annotations": {MARK: "self-signed"}},
        "data": dict(data),
    }


def _authority_facts(each: Certificate, key: str, names: Sequence[str]) -> AuthorityFacts:
    return AuthorityFacts(
        each.fingerprint, each.begins, each.ends, has_key=belongs(key, each), fits=may_sign_for(each, names)
    )


def _certificate_facts(
    certificate: Certificate | None, key: str, names: Sequence[str], authorities: Sequence[Certificate]
) -> CertificateFacts | None:
    if certificate is None:
        return None
    signers = (each.fingerprint for each in authorities if has_signed(each, certificate))
    return CertificateFacts(
        certificate.begins,
        certificate.ends,
        signer=next(signers, ""),
        has_key=belongs(key, certificate),
        fits=certificate.for_servers and set(names) <= set(certificate.names),
    )


def _refuse_foreign(found: Mapping[str, Any], *, called: str, delete: str) -> None:
    metadata = found["metadata"]
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    by_cert_manager = annotations.get("cert-manager.io/certificate-name") or annotations.get(
        "cert-manager.io/issuer-name"
    )
    if by_cert_manager or "controller.cert-manager.io/fao" in labels:
        raise KubernetesError(
            f"{called} is made by cert-manager, which renews it, so it is left alone",
            id="webhook.secret-of-cert-manager",
            hint=f"leave it to cert-manager, and don't run this command; or delete its Certificate, and: {delete}",
        )
    if (kind := found.get("type", OPAQUE)) not in (TLS, OPAQUE):
        raise KubernetesError(
            f"{called} is of the type {kind}, which is not for certificates; a Secret's type can't be changed",
            id="webhook.secret-of-wrong-type",
            hint=f"give another name with --secret; or: {delete}",
        )
    if MARK not in annotations and _has_foreign_content(found):
        raise KubernetesError(
            f"{called} has content that kata-dind has not made, so it is left alone",
            id="webhook.secret-foreign",
            details=f"its keys: {', '.join(sorted(found.get('data') or ()))}",
            hint=f"give another name with --secret; or, if nobody needs it: {delete}",
        )
    if found.get("immutable") is True:
        raise KubernetesError(
            f"{called} is immutable, so no certificate can be renewed in it",
            id="webhook.secret-immutable",
            hint=delete,
        )


def _has_foreign_content(found: Mapping[str, Any]) -> bool:
    data = found.get("data") or {}
    return any(value for key, value in data.items() if key in (CERTIFICATE, KEY, AUTHORITIES, AUTHORITY_KEY)) or any(
        key not in (CERTIFICATE, KEY, AUTHORITIES, AUTHORITY_KEY) for key in data
    )


def _text(found: Mapping[str, Any], key: str) -> str:
    try:
        return base64.b64decode((found.get("data") or {}).get(key) or "").decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
