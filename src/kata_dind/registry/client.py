"""The OCI distribution protocol, as far as a configuration needs it: manifest, index, token, blob.

Source: the OCI distribution specification 1.1; Docker's token specification.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from kata_dind.pod.model import ImageConfig
from kata_dind.pod.reading import mapping, text
from kata_dind.registry.challenge import Challenge, parse_challenge
from kata_dind.registry.content import (
    INDEXES,
    MANIFESTS,
    MOST_CONFIG_BYTES,
    MOST_MANIFEST_BYTES,
    check_digest,
    checked,
    is_digest,
    read_config,
    read_manifest,
)
from kata_dind.registry.keyring import Credential
from kata_dind.registry.reach import Server
from kata_dind.registry.remote import RemoteImage
from kata_dind.registry.transport import Answer, Session
from kata_dind.registry.unread import Unread

_ACCEPT = ", ".join((*INDEXES, *MANIFESTS))
_MOST_TOKEN_BYTES = 64 << 10
_MOST_CREDENTIALS = 4


@dataclass(slots=True)
class Client:
    """One server, asked for one image with one set of credentials, or with none."""

    server: Server
    image: RemoteImage
    session: Session
    credential: Credential | None
    architecture: str = ""
    _authorization: str = field(default="", repr=False)

    def config(self) -> ImageConfig:
        """Return the image's configuration. Raises Unread."""
        body = self._manifest()
        following, is_manifest = read_manifest(body, self.architecture)
        if is_manifest:
            url = self._url(f"manifests/{following.digest}")
            answer = self._ask(url, most_bytes=MOST_MANIFEST_BYTES)
            body = checked(answer.body, following, what="its manifest")
            following, is_manifest = read_manifest(body, self.architecture)
            if is_manifest:
                raise Unread("its index leads to another index")
        answer = self._ask(self._url(f"blobs/{following.digest}"), most_bytes=MOST_CONFIG_BYTES)
        return read_config(checked(answer.body, following, what="its configuration"))

    def _manifest(self) -> bytes:
        wanted = self.image.wanted
        answer = self._ask(self._url(f"manifests/{wanted}"), most_bytes=MOST_MANIFEST_BYTES)
        said = wanted if self.image.has_digest else answer.headers.get("docker-content-digest", "")
        if is_digest(said):
            check_digest(answer.body, said, what="its manifest")
        return answer.body

    def _url(self, path: str) -> str:
        return f"{self.server.url}/v2/{self.image.repository}/{path}"

    def _ask(self, url: str, *, most_bytes: int) -> Answer:
        """Return a success; what the server wants to see first is shown once."""
        answer = self._get(url, most_bytes)
        # A server that we were redirected to gets no credentials, whatever it says.
        if answer.status == 401 and not answer.is_redirected:
            challenge = parse_challenge(answer.headers.get("www-authenticate", ""))
            if challenge is not None and self._answer_challenge(challenge):
                answer = self._get(url, most_bytes)
        if answer.status != 200:
            raise self._refusal(answer.status)
        return answer

    def _get(self, url: str, most_bytes: int) -> Answer:
        return self.session.get(
            url, most_bytes=most_bytes, authorization=self._authorization, headers={"Accept": _ACCEPT}
        )

    def _answer_challenge(self, challenge: Challenge) -> bool:
        """Take what the server wants into the next requests; tell whether that is new to it."""
        before = self._authorization
        if challenge.scheme == "basic":
            self._authorization = self.credential.basic if self.credential is not None else ""
        else:
            self._authorization = f"Bearer {self._token(challenge)}"
        return self._authorization != before

    def _token(self, challenge: Challenge) -> str:
        answer = self.session.get(
            challenge.token_url(self.image.repository),
            most_bytes=_MOST_TOKEN_BYTES,
            authorization=self.credential.basic if self.credential is not None else "",
        )
        if answer.status != 200:
            raise self._refusal(answer.status)
        try:
            said = mapping(json.loads(answer.body))
        except (ValueError, RecursionError):
            said = {}
        token = text(said.get("token")) or text(said.get("access_token"))
        if not token or not token.isascii() or not token.isprintable():
            raise Unread(f"{self.server.host} gives no token")
        return token

    def _refusal(self, status: int) -> Unread:
        host = self.server.host
        if status in (401, 403):
            those = "with these credentials" if self.credential is not None else "without credentials"
            return Unread(f"{host} does not show it {those}", is_denied=True)
        if status == 404:
            return Unread(f"{host} does not have it")
        if status == 429:
            return Unread(f"{host} has been asked too often", is_hosts=True)
        return Unread(f"{host} answers with the status {status}", is_hosts=status >= 500)


def read_from(
    server: Server,
    image: RemoteImage,
    session: Session,
    *,
    credentials: Sequence[Credential],
    architecture: str,
) -> ImageConfig:
    """Return an image's configuration, with the first credentials that are good for it. Raises Unread.

    A mirror gets none: they are those of the registry itself.
    """
    denied: Unread | None = None
    for credential in (None,) if server.is_mirror else (*credentials[:_MOST_CREDENTIALS], None):
        try:
            return Client(server, image, session, credential, architecture).config()
        except Unread as failure:
            if not failure.is_denied:
                raise
            # What was said of the user's own credentials tells more than what is said without any.
            denied = denied or failure
    raise denied or Unread("nothing was asked")
