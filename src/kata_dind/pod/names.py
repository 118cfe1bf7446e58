"""Names as an API server takes them. Pure.

Source: "Object Names and IDs" and "Labels and Selectors" in the documentation of Kubernetes; RFC 1123.
"""

from __future__ import annotations

import re

_MOST_IN_A_SUBDOMAIN = 253

LABEL_SIGNS = "a name of Kubernetes; use up to 63 of a-z, 0-9 and -"
SUBDOMAIN_SIGNS = "a name of Kubernetes; use a-z, 0-9, - and ."
"""What is allowed, for messages."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*(\.[a-z0-9]+(-+[a-z0-9]+)*)*", re.ASCII)
_QUALIFIED = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)


def is_label(text: str) -> bool:
    """Tell whether a text can be the name of a namespace, a Service or a container, or one part of a longer name."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Tell whether a text can be the name of most other objects: labels, with dots between them.

    Unlike a DNS name, it may have parts of more than 63 characters.
    """
    return len(text) <= _MOST_IN_A_SUBDOMAIN and _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Tell whether a text can be the key of an object's label, as in `team` or `example.com/team`."""
    prefix, slash, name = text.rpartition("/")
    return _QUALIFIED.fullmatch(name) is not None and (not slash or is_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """Tell whether a text can be the value of an object's label, which may be empty."""
    return not text or _QUALIFIED.fullmatch(text) is not None
