"""What is to be done so that the webhook's certificates stay good; pure.

The order keeps every admission possible. kubelet brings a changed Secret into running pods within about 90 seconds, so
that for a while some replicas serve the old certificate and others the new one, and the API servers have to trust both.
So a new authority is put into the Secret first, where nothing serves under it; then into the configuration, beside the
old one; and then a certificate under it is made. Each step leaves a state from which any process can continue.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


class Kind(enum.StrEnum):
    """What a step changes."""

    AUTHORITY = "authority"
    TRUST = "trust"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Step:
    """Something to be done, and why."""

    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How long a certificate lives, and how long before its end it is renewed."""

    life: timedelta = timedelta(days=90)
    renew_before: timedelta = timedelta(days=30)

    @property
    def renew_authority_before(self) -> timedelta:
        """How long before its end an authority is replaced: nothing that it has signed may end early."""
        return max(timedelta(days=365), self.life + self.renew_before)


@dataclass(frozen=True, slots=True)
class AuthorityFacts:
    """An authority in the Secret."""

    fingerprint: str
    begins: datetime
    ends: datetime
    has_key: bool = True
    fits: bool = True
    """Whether it may sign for the webhook's names."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The serving certificate in the Secret."""

    begins: datetime
    ends: datetime
    signer: str
    """The fingerprint of the authority in the Secret that has signed it; empty for none of those."""
    has_key: bool = True
    fits: bool = True
    """Whether it is for servers, and for all of the webhook's names."""


@dataclass(frozen=True, slots=True)
class SecretFacts:
    """What the Secret has; all empty if there is none."""

    authorities: tuple[AuthorityFacts, ...] = ()
    """The newest first, which is the one that signs."""
    certificate: CertificateFacts | None = None


@dataclass(frozen=True, slots=True)
class TrustFacts:
    """A webhook in the configuration: whom the API server trusts there."""

    name: str
    ends: Mapping[str, datetime]
    """The end of each certificate in its bundle, by fingerprint."""
    is_clean: bool = True
    """Whether there is nothing else in the bundle."""


def plan(secret: SecretFacts, hooks: Sequence[TrustFacts], *, now: datetime, settings: Settings) -> list[Step]:
    """Return the steps, in their order; none when all is well."""
    authority = _authority_fault(secret, now=now, settings=settings)
    certificate = _certificate_fault(secret, now=now, settings=settings)
    if authority:
        new = Step(Kind.AUTHORITY, authority)
        trust = [Step(Kind.TRUST, "the new authority is not trusted yet")] if hooks else []
        if is_serving(secret, now=now):
            return [new, *trust, Step(Kind.CERTIFICATE, "it is signed by the old authority")]
        # Nobody can be served under what there is, so nothing has to be kept going.
        return [new, Step(Kind.CERTIFICATE, certificate or "it is signed by the old authority"), *trust]
    steps = [Step(Kind.TRUST, fault)] if (fault := _trust_fault(secret, hooks, now=now)) else []
    return [*steps, Step(Kind.CERTIFICATE, certificate)] if certificate else steps


def is_serving(secret: SecretFacts, *, now: datetime) -> bool:
    """Tell whether the certificate in the Secret can be in use."""
    certificate = secret.certificate
    return certificate is not None and certificate.has_key and certificate.begins <= now < certificate.ends


def changes_authority(secret: SecretFacts) -> bool:
    """Tell whether a new certificate will be under another authority than the one in use."""
    return bool(
        secret.certificate and secret.authorities and secret.certificate.signer != secret.authorities[0].fingerprint
    )


def trusted(secret: SecretFacts, hook: TrustFacts, *, now: datetime) -> set[str]:
    """Return the fingerprints that a webhook's bundle should have.

    They are the Secret's authorities, and all that the bundle has already, for as long as each of them lasts: replicas
    may still serve certificates under an authority that is in the Secret no more.
    """
    ends = {**hook.ends, **{each.fingerprint: each.ends for each in secret.authorities}}
    return {fingerprint for fingerprint, end in ends.items() if now < end}


def _authority_fault(secret: SecretFacts, *, now: datetime, settings: Settings) -> str:
    if not secret.authorities:
        return "there is none"
    newest = secret.authorities[0]
    if newest.ends <= now:
        return f"the present one ended on {newest.ends:%Y-%m-%d}"
    if newest.begins > now:
        return f"the present one begins on {newest.begins:%Y-%m-%d}, so it was made by a clock that is wrong"
    if not newest.has_key:
        return "the key of the present one is missing"
    if not newest.fits:
        return "the present one may not sign for these names"
    if newest.ends - now < settings.renew_authority_before:
        return f"the present one ends on {newest.ends:%Y-%m-%d}"
    return ""


def _certificate_fault(secret: SecretFacts, *, now: datetime, settings: Settings) -> str:
    certificate = secret.certificate
    if certificate is None:
        return "there is none"
    if certificate.ends <= now:
        return f"it ended on {certificate.ends:%Y-%m-%d}"
    if certificate.begins > now:
        return f"it begins on {certificate.begins:%Y-%m-%d}, so it was made by a clock that is wrong"
    if not certificate.has_key:
        return "its key is missing"
    if not certificate.fits:
        return "it is not for these names"
    if certificate.ends - now < settings.renew_before:
        return f"it ends on {certificate.ends:%Y-%m-%d}"
    if not secret.authorities or certificate.signer != secret.authorities[0].fingerprint:
        return "it is not signed by the present authority"
    return ""


def _trust_fault(secret: SecretFacts, hooks: Sequence[TrustFacts], *, now: datetime) -> str:
    for hook in hooks:
        wanted = trusted(secret, hook, now=now)
        if wanted - hook.ends.keys():
            return f"the webhook {hook.name} does not trust the present authority"
        if hook.ends.keys() - wanted:
            return f"the webhook {hook.name} trusts an authority that has ended"
        if not hook.is_clean:
            return f"the webhook {hook.name} has a bundle with other things than certificates"
    return ""
