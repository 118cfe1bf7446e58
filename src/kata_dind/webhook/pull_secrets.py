"""The pull secrets of pods, read from the API server by the names that a pod has, and kept for a minute.

Exactly these Secrets are read, each in its pod's namespace. The pod's ServiceAccount is not: the API server writes its
pull secrets into the pod before it asks a webhook, and kubelet takes those of the pod alone. What can't be read is a
clause for a note. No content is ever logged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kata_dind.errors import KubernetesError
from kata_dind.registry.keyring import Credential, Keyring, entries_of_secret
from kata_dind.registry.once import Busy, Clock, Once
from kata_dind.webhook.logs import event
from kata_dind.webhook.metrics import Metrics

if TYPE_CHECKING:
    from kata_dind.kube.client import Client

KEPT_SECONDS = 60.0
"""How long a Secret is remembered, or that it can't be read."""
_MOST_KEPT = 1024
_MOST_AT_ONCE = 8
_MOST_OF_A_POD = 8
_STEP_SECONDS = 2.0
"""For each wait for the API server; a review waits for less."""

OpenApi = Callable[[], AbstractContextManager["Client"]]


@contextlib.contextmanager
def open_api() -> Iterator[Client]:
    """Talk to the cluster as the pod that we run in. Raises KubernetesError."""
    from kata_dind.kube.access import find_access
    from kata_dind.kube.client import open_client

    with open_client(find_access(), timeout_seconds=_STEP_SECONDS) as client:
        yield client


@dataclass(frozen=True, slots=True)
class _Secret:
    entries: tuple[tuple[str, Credential], ...] = field(default=(), repr=False)
    unread: str = ""


@dataclass(frozen=True, slots=True)
class AskedSecrets:
    """The pull secrets of a pod, as far as they are there."""

    _answers: Mapping[str, Future[_Secret]]
    _refused: Sequence[str] = ()

    def pending(self) -> Sequence[Future[_Secret]]:
        """Return what is still to come."""
        return [answer for answer in self._answers.values() if not answer.done()]

    def keyring(self) -> Keyring:
        """Return the credentials in those that are there."""
        return Keyring(entry for secret in self._there() for entry in secret.entries)

    def unread(self) -> list[str]:
        """Return why others could not be read: a clause for each."""
        late = [
            f"the API server did not give the Secret {n!r} in time" for n, a in self._answers.items() if not a.done()
        ]
        return [*self._refused, *(secret.unread for secret in self._there() if secret.unread), *late]

    def _there(self) -> list[_Secret]:
        return [answer.result() for answer in self._answers.values() if answer.done()]


NO_SECRETS = AskedSecrets({})


class PullSecrets:
    """Reads pull secrets. May be used by many threads."""

    def __init__(self, metrics: Metrics, *, open_api: OpenApi = open_api, clock: Clock = time.monotonic) -> None:
        self._metrics = metrics
        self._open_api = open_api
        self._secrets: Once[tuple[str, str], _Secret] = Once(
            most_at_once=_MOST_AT_ONCE, most_kept=_MOST_KEPT, clock=clock
        )

    def ask(self, namespace: str, names: Iterable[str]) -> AskedSecrets:
        """Ask for what isn't known or under way, without waiting for anything."""
        answers: dict[str, Future[_Secret]] = {}
        refused: list[str] = []
        for name in list(dict.fromkeys(names))[:_MOST_OF_A_POD]:
            key = (namespace, name)
            try:
                answers[name] = self._secrets.find(key) or self._secrets.begin(key, functools.partial(self._get, *key))
            except Busy as busy:
                refused.append(f"the Secret {name!r} could not be read ({busy})")
        return AskedSecrets(answers, refused)

    def _get(self, namespace: str, name: str) -> tuple[_Secret, float]:
        result, secret = self._read(namespace, name)
        self._metrics.pull_secrets.labels(result).inc()
        return secret, KEPT_SECONDS

    def _read(self, namespace: str, name: str) -> tuple[str, _Secret]:
        from kata_dind.kube.client import may_not
        from kata_dind.kube.resources import SECRETS

        try:
            with self._open_api() as client:
                found: Mapping[str, Any] | None = client.find(SECRETS, name, namespace=namespace)
        except KubernetesError as error:
            event(logging.WARNING, "pull-secret-unread", reason=error.id, message=error.summary, hint=error.hint)
            return "forbidden" if may_not(error) else "failed", _Secret(unread=error.summary)
        except Exception as bug:  # noqa: BLE001 - no pod may have to wait for it
            event(logging.ERROR, "bug", error=bug)
            return "failed", _Secret(unread=f"the Secret {name!r} could not be read")
        if found is None:
            return "absent", _Secret(unread=f"there is no Secret {name!r} in the namespace {namespace!r}")
        return "read", _Secret(tuple(entries_of_secret(found)))
