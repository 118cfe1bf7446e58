"""The WWW-Authenticate header of a registry: which credentials it wants, and where a token is given. Pure.

Source: RFC 9110, section 11.6.1, and the distribution project's token specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", re.IGNORECASE)
_PARAMETER = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.){0,2048})"|([^\s",]{1,2048}))')
_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server wants."""

    scheme: Literal["basic", "bearer"]
    realm: str = ""
    """Of a bearer, the URL that gives tokens."""
    service: str = ""

    def token_url(self, repository: str) -> str:
        """Return the URL of a token to pull from a repository; no other right is asked for."""
        asked = {"service": self.service} if self.service else {}
        asked["scope"] = f"repository:{repository}:pull"
        return f"{self.realm}{'&' if '?' in self.realm else '?'}{urlencode(asked)}"


def parse_challenge(header: str) -> Challenge | None:
    """Return the challenge that can be answered, a bearer's before a basic one; None if there is none."""
    if len(header) > _LONGEST:
        return None
    found = list(_SCHEME.finditer(header))
    basic = None
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(header)
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(header[match.end() : end])
        }
        if match[1].lower() == "bearer" and parameters.get("realm"):
            return Challenge("bearer", parameters["realm"], parameters.get("service", ""))
        if match[1].lower() == "basic":
            basic = Challenge("basic")
    return basic
