"""What users are told beside an answer, in the lengths that an API server passes on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kata_dind.pod.model import Finding

LONGEST_WARNING = 256
MOST_WARNINGS = 4096
"""Of more than this in all, an API server cuts each warning to that length, and drops what is still too much.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/filters/warning.go in kubernetes/kubernetes.
"""
_LONGEST_MESSAGE = 2048


def message_of(finding: Finding) -> str:
    """Return a finding with its next step."""
    return " ".join(filter(None, (finding.message, finding.hint)))


def refusal(findings: Iterable[Finding]) -> str:
    """Return why a pod is refused; kubectl shows it behind the name of the webhook."""
    text = _plain(" ".join(["The policy of kata-dind refuses this pod.", *map(message_of, findings)]))
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 1]}…"


def warnings(messages: Iterable[str]) -> list[str]:
    """Return messages as warnings: each begins with our name, and a long one goes on in the next."""
    found: list[str] = []
    left = MOST_WARNINGS
    for message in dict.fromkeys(messages):
        for part in _parts(f"kata-dind: {_plain(message)}"):
            left -= len(part)
            if left < 0:
                return found
            found.append(part)
    return found


def _parts(text: str) -> Iterator[str]:
    while len(text) > LONGEST_WARNING:
        end = text.rfind(" ", LONGEST_WARNING // 2, LONGEST_WARNING)
        end = LONGEST_WARNING - 1 if end < 0 else end
        yield f"{text[:end]}…"
        text = f"kata-dind: …{text[end:].lstrip()}"
    yield text


def _plain(text: str) -> str:
    """Replace what a header of HTTP can't carry; an API server drops a warning with a control character."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
