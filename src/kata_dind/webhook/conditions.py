"""Which pods the API server asks the webhook about, as a CEL expression of a policy. Pure.

It may let through more pods than the policy speaks of, since the webhook decides by itself, but never fewer. The chart
computes the same expression in its template `kata-dind.pods`, and a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kata_dind.pod.policy import Answer, Policy

_CLASS = "object.spec.?runtimeClassName.orValue('')"
"""Without a class it is empty, which the pattern `*` matches."""
_ALL = "true"
_NONE = "false"

_SIMPLE = re.compile(r"(?:[a-z0-9.*?-]|\[!?(?:[a-z0-9]-[a-z0-9]|[a-z0-9])+\])+", re.ASCII)
_SET = re.compile(r"\[[^]]*\]")
_RANGE = re.compile(r"(.)-(.)")


def pods_condition(policy: Policy) -> str:
    """Return a CEL expression that is true for the pods that a policy may have something to say about."""
    guards = policy.guards
    if guards.shared_kernel is not Answer.OFF or guards.host_docker is not Answer.OFF:
        return _ALL  # these guards look at pods of any class, and of none
    return " || ".join(_terms(policy)) or _NONE


def _terms(policy: Policy) -> Iterator[str]:
    """Yield an expression for each run of rules about classes of Kata's, which no earlier rule takes out."""
    kata: list[str] = []
    others: list[str] = []
    for rule in policy.runtime_classes:
        pattern = _regular_expression(rule.match)
        if rule.kata:
            kata.append(pattern or ".*")
        elif pattern:
            if kata:
                yield _term(kata, others)
                kata = []
            others.append(pattern)
    if kata:
        yield _term(kata, others)


def _term(kata: list[str], others: list[str]) -> str:
    term = _matches(kata)
    return f"({term} && !{_matches(others)})" if others else term


def _matches(patterns: list[str]) -> str:
    return f"{_CLASS}.matches('^({'|'.join(patterns)})$')"


def _regular_expression(pattern: str) -> str:
    """Return a pattern of a policy in the syntax of RE2; empty for one with what no name of a class needs."""
    ranges = (found for inside in _SET.findall(pattern) for found in _RANGE.findall(inside))
    if not _SIMPLE.fullmatch(pattern) or any(first > last for first, last in ranges):
        return ""
    return pattern.replace(".", "[.]").replace("?", ".").replace("*", ".*").replace("[!", "[^")
