"""A certificate authority of the webhook's own, and serving certificates under it: made, read, compared.

Keys are ECDSA P-256, and exist only in values that the caller keeps. An authority may sign certificates for the
webhook's own names only, and no authority below it (RFC 5280, 4.2.1.9 and 4.2.1.10; API servers and OpenSSL obey).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
"""Long, because a new authority is a change of the cluster's configuration, and a renewed certificate is not. A shorter
life would protect nothing: whoever can read the authority's key can read the serving key beside it."""

BACKDATED = timedelta(minutes=10)
"""How long before now a certificate begins, for clocks that are behind."""

_MOST_IN_A_NAME = 64
"""Characters in a common name. Source: RFC 5280, ub-common-name."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is to know of a certificate."""

    pem: str
    fingerprint: str
    begins: datetime
    ends: datetime
    names: tuple[str, ...]
    """The DNS names and addresses that it is for."""
    is_authority: bool
    for_servers: bool

    def holds_at(self, now: datetime) -> bool:
        """Tell whether it has begun and not ended."""
        return self.begins <= now < self.ends


def new_authority(names: Sequence[str], *, now: datetime) -> Pair:
    """Make an authority that may sign for these names and for what is below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Its own name for each: of two authorities with one name, a verifier may try the wrong one.
    name = _name(f"kata-dind webhook {now:%Y-%m-%d} {serial % 0x1_0000_0000:08x}")
    builder = (
        _builder(name, issuer=name, key=key, serial=serial, begins=now - BACKDATED, ends=now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_constraints(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_certificate(authority: Pair, names: Sequence[str], *, now: datetime, life: timedelta) -> Pair:
    """Make a serving certificate. It ends with its authority, if that is earlier."""
    above = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an ECDSA key")
    key = ec.generate_private_key(ec.SECP256R1())
    begins = max(now - BACKDATED, above.not_valid_before_utc)
    ends = min(now + life, above.not_valid_after_utc)
    serial = x509.random_serial_number()
    builder = (
        _builder(_name(names[0]), issuer=above.subject, key=key, serial=serial, begins=begins, ends=ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def read_certificates(text: str) -> list[Certificate]:
    """Return the certificates of a PEM text; what can't be read as one is left out."""
    return [found for block in _blocks(text) if (found := _read(block))]


def belongs(key: str, certificate: Certificate) -> bool:
    """Tell whether a text is the private key of a certificate."""
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
        public = x509.load_pem_x509_certificate(certificate.pem.encode()).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return isinstance(private, ec.EllipticCurvePrivateKey) and private.public_key() == public


def has_signed(authority: Certificate, certificate: Certificate) -> bool:
    """Tell whether a certificate is signed by an authority."""
    try:
        below = x509.load_pem_x509_certificate(certificate.pem.encode())
        below.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pem.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def may_sign_for(authority: Certificate, names: Sequence[str]) -> bool:
    """Tell whether an authority is limited to names, these among them."""
    certificate = x509.load_pem_x509_certificate(authority.pem.encode())
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return False
    return constraints == _constraints(names) or _covers(constraints, names)


def _covers(constraints: x509.NameConstraints, names: Sequence[str]) -> bool:
    permitted = [each.value for each in constraints.permitted_subtrees or ()]
    domains = [each for each in permitted if isinstance(each, str)]
    networks = [each for each in permitted if isinstance(each, ipaddress.IPv4Network | ipaddress.IPv6Network)]

    def covered(name: str) -> bool:
        address = address_in(name)
        if address is not None:
            return any(address in network for network in networks)
        return any(name == domain or name.endswith(f".{domain}") for domain in domains)

    return all(map(covered, names))


def address_in(name: str) -> Address | None:
    """Return the IP address that a name is, or None for a DNS name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _constraints(names: Sequence[str]) -> x509.NameConstraints:
    permitted: list[x509.GeneralName] = []
    excluded: list[x509.GeneralName] = []
    for name in names:
        address = address_in(name)
        if address is None:
            permitted.append(x509.DNSName(name))
        else:
            permitted.append(x509.IPAddress(ipaddress.ip_network(address)))
    # A kind of name that no constraint speaks of may be anything; so if no address is permitted, all are excluded.
    for everything in ("0.0.0.0/0", "::/0"):
        network: Network = ipaddress.ip_network(everything)
        if not any(isinstance(each.value, type(network)) for each in permitted):
            excluded.append(x509.IPAddress(network))
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=excluded or None)


def _builder(
    subject: x509.Name,
    *,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    begins: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_MOST_IN_A_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    address = address_in(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode())


_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def _blocks(text: str) -> list[str]:
    parts = text.split(_BEGIN)[1:]
    return [f"{_BEGIN}{part.partition(_END)[0]}{_END}\n" for part in parts if _END in part]


def _read(block: str) -> Certificate | None:
    try:
        found = x509.load_pem_x509_certificate(block.encode())
        der = found.public_bytes(serialization.Encoding.DER)
        return Certificate(
            pem=block,
            fingerprint=hashlib.sha256(der).hexdigest(),
            begins=found.not_valid_before_utc.astimezone(UTC),
            ends=found.not_valid_after_utc.astimezone(UTC),
            names=_names_in(found),
            is_authority=_is_authority(found),
            for_servers=_is_for_servers(found),
        )
    except _UNREADABLE:
        return None


def _names_in(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _is_for_servers(certificate: x509.Certificate) -> bool:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in uses
