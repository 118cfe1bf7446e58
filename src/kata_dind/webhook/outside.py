"""Certificates without a cluster, in files: for development, and for clusters whose Secrets are made by other means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from kata_dind.errors import HostError
from kata_dind.host.directories import make_private
from kata_dind.webhook.authority import (
    Certificate,
    belongs,
    has_signed,
    new_authority,
    new_certificate,
    read_certificates,
)
from kata_dind.webhook.rotation import Settings
from kata_dind.webhook.secret import AUTHORITIES, CERTIFICATE, KEY


def find_certificate(directory: Path, names: Sequence[str], settings: Settings) -> Certificate | None:
    """Return the certificate in a directory, if it is good for these names, and not due for renewal."""
    try:
        texts = {each: (directory / each).read_text(encoding="ascii") for each in (AUTHORITIES, CERTIFICATE, KEY)}
    except (OSError, UnicodeDecodeError):
        return None
    certificate = next(iter(read_certificates(texts[CERTIFICATE])), None)
    authority = next(iter(read_certificates(texts[AUTHORITIES])), None)
    now = datetime.now(UTC)
    if certificate is None or authority is None or not certificate.holds_at(now):
        return None
    is_good = (
        set(names) <= set(certificate.names) and belongs(texts[KEY], certificate) and has_signed(authority, certificate)
    )
    return certificate if is_good and certificate.ends - now >= settings.renew_before else None


def write_certificate(directory: Path, names: Sequence[str], settings: Settings) -> Certificate:
    """Make an authority and a certificate, and write all but the authority's key. Raises HostError."""
    now = datetime.now(UTC)
    authority = new_authority(names, now=now)
    pair = new_certificate(authority, names, now=now, life=settings.life)
    make_private(directory)
    try:
        _replace(directory / KEY, pair.key, mode=0o600)
        _replace(directory / AUTHORITIES, authority.certificate, mode=0o644)
        _replace(directory / CERTIFICATE, pair.certificate, mode=0o644)
    except OSError as error:
        raise HostError(
            f"the certificate can't be written to {directory}: {error.strerror}", id="webhook.files-not-written"
        ) from error
    return read_certificates(pair.certificate)[0]


def _replace(path: Path, text: str, *, mode: int) -> None:
    """Put a file in place in one step, never readable by more than it will be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
