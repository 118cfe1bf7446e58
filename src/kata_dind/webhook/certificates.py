"""The certificate that is served: read, tried out, and taken into use for the connections that come after.

A pair counts only when a client that trusts it has shaken hands with it. So a half-written pair, a key of another
certificate, and one that has expired are kept out.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from kata_dind.errors import HostError
from kata_dind.host.nameless_files import nameless_file


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready to be served."""

    context: ssl.SSLContext
    expires: float
    """In seconds since the epoch."""


def load_certificate(certificate: bytes, key: bytes) -> Certificate:
    """Return a certificate from the texts of two PEM files. Raises HostError for a pair that no client would accept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # API servers keep connections, and resume none
    try:
        # Not the files on the disk: both have to be of one moment.
        with nameless_file(certificate) as certificate_file, nameless_file(key) as key_file:
            # Without a password OpenSSL would ask for it on the terminal.
            context.load_cert_chain(certificate_file, key_file, password="")
        return Certificate(context, _rehearse(context, certificate.decode("ascii")))
    except ssl.SSLCertVerificationError as error:
        raise _unfit(f"the certificate is not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise _unfit(_REASONS.get(_reason_of(error), f"OpenSSL says {error.reason or error}")) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise _unfit("the certificate is not in PEM") from error


_REASONS = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "PEM_LIB": "one of the files is not in PEM, or not whole",
    "NO_START_LINE": "one of the files is not in PEM, or not whole",
    "BAD_DECRYPT": "the key is encrypted",
    "BAD_PASSWORD_READ": "the key is encrypted",
}


def _reason_of(error: ssl.SSLError) -> str:
    # Python has no name for the most frequent of all: `[SSL] PEM lib (_ssl.c:3905)`.
    return error.reason or ("PEM_LIB" if "PEM lib" in str(error) else "")


def _unfit(what: str) -> HostError:
    return HostError(
        f"the certificate can't be served: {what}",
        id="webhook.certificate-unfit",
        hint="`openssl verify` and `openssl x509 -noout -dates` show what is wrong with it.",
    )


def _rehearse(server_context: ssl.SSLContext, certificate: str) -> float:
    """Shake hands in memory with a client that trusts the certificate itself; return when it expires."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(cadata=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(8):
        for side in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
        if not waiting:
            break
    peer = client.getpeercert()
    return ssl.cert_time_to_seconds(str((peer or {})["notAfter"]))


def serve_latest(latest: Callable[[], Certificate]) -> ssl.SSLContext:
    """Return a context for a server, which gives each new connection the certificate of the moment."""

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = latest().context

    context = latest().context
    context.sni_callback = choose  # called for each handshake, also when the client names no host
    return context
