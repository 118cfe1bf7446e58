"""What the images of a new pod run, asked of their registries: at once where it is known, else after a wait.

A `Search` is the lookup of one pod. It never blocks the loop: registries and the API server are asked on threads, a
number of reviews may wait for them, and the others are answered without a lookup.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kata_dind.pod.lookups import Found, unknown_images
from kata_dind.pod.model import PodDict
from kata_dind.pod.policy import Policy, Registry
from kata_dind.pod.pull_secrets import pull_secrets_of
from kata_dind.registry.lookup import Asked, Lookup
from kata_dind.registry.transport import Deadline
from kata_dind.webhook.metrics import Metrics
from kata_dind.webhook.pull_secrets import NO_SECRETS, AskedSecrets, PullSecrets

MOST_WAITING = 256
"""Reviews; each keeps its pod in memory. More than that come at once only while a registry does not answer."""


class Result(StrEnum):
    """What a lookup came to; a label of the metrics and a field of the log."""

    REMEMBERED = "remembered"
    FOUND = "found"
    UNREAD = "unread"
    """Of some image it is still not known what it runs."""
    SKIPPED = "skipped"
    """Too many reviews were waiting."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of a pod's images."""

    found: Found = field(default_factory=Found)
    result: Result | None = None
    """None: there was nothing to ask for."""
    waited_seconds: float = 0.0

    def fields(self) -> Mapping[str, Any]:
        """Return what is logged of it."""
        return {
            "lookup": self.result,
            "lookup_seconds": round(self.waited_seconds, 6) or None,
            "unread": "; ".join(dict.fromkeys(self.found.unread.values())),
        }


NOTHING_LOOKED_UP = Looked()


@dataclass(slots=True)
class Search:
    """The lookup of a pod's images, first their pull secrets."""

    lookup: Lookup
    images: Sequence[str]
    secrets: AskedSecrets
    deadline: Deadline
    secrets_deadline: Deadline
    """The API server's share of the time."""
    _asked: Asked | None = None

    def advance(self) -> tuple[Sequence[Future[Any]], float]:
        """Go on as far as possible without waiting; return what is to be waited for, and how many seconds at most."""
        if self._asked is None:
            left_seconds = self.secrets_deadline.left_seconds()
            if left_seconds and (pending := self.secrets.pending()):
                return pending, left_seconds
            self._asked = self.lookup.ask(self.images, self.secrets.keyring(), self.deadline)
        left_seconds = self.deadline.left_seconds()
        return self._asked.pending() if left_seconds else (), left_seconds

    @property
    def has_begun(self) -> bool:
        """Whether this search has made a registry be asked."""
        return self._asked is not None and self._asked.has_begun

    def found(self, late: str = "") -> Found:
        """Return what is known by now; `late` is a clause for what is still to come."""
        found = self._asked.found(late) if self._asked else Found(unread=dict.fromkeys(self.images, late))
        without = self.secrets.unread() if found.unread else ()
        if not without:
            return found
        return Found(found.configs, {image: ", and ".join([said, *without]) for image, said in found.unread.items()})


class Lookups:
    """Looks images up by the policy of the moment. What is known is kept as long as its section on registries is."""

    def __init__(
        self, metrics: Metrics, secrets: PullSecrets | None = None, *, most_waiting: int = MOST_WAITING
    ) -> None:
        self._metrics = metrics
        self._secrets = secrets or PullSecrets(metrics)
        self._most_waiting = most_waiting
        self._waiting = 0
        self._registry = Registry()
        self._lookup = Lookup(self._registry)

    def begin(self, pod: PodDict, namespace: str, policy: Policy) -> Looked | Search:
        """Return what is known of a pod's images, or a search to wait for, by a policy that has lookups."""
        images = unknown_images(pod, policy)
        if not images:
            return NOTHING_LOOKED_UP
        lookup = self._lookup_by(policy.registry)
        deadline = lookup.deadline()
        secrets = NO_SECRETS
        if policy.registry.pull_secrets:
            secrets = self._secrets.ask(namespace, pull_secrets_of(pod))
        search = Search(lookup, images, secrets, deadline, Deadline(deadline.seconds / 2))
        pending, _ = search.advance()
        if not pending and not search.has_begun:
            return self._looked(search.found(), Result.REMEMBERED)
        if self._waiting >= self._most_waiting:
            return self._looked(search.found("too many pods are waiting for registries"), Result.SKIPPED)
        self._count_waiting(1)
        return search

    def _lookup_by(self, registry: Registry) -> Lookup:
        if registry is not self._registry:
            if registry != self._registry:
                self._lookup = Lookup(registry)
            self._registry = registry
        return self._lookup

    async def wait(self, search: Search) -> Looked:
        """Return what registries tell, at the latest when their time is over. Each search is waited for once."""
        started = time.perf_counter()
        try:
            pending, seconds = search.advance()
            while pending:
                await asyncio.wait(map(asyncio.wrap_future, pending), timeout=seconds)
                pending, seconds = search.advance()
        finally:
            self._count_waiting(-1)
        waited_seconds = time.perf_counter() - started
        self._metrics.lookup_seconds.observe(waited_seconds)
        return self._looked(search.found(), Result.FOUND, waited_seconds)

    def _count_waiting(self, more: int) -> None:
        self._waiting += more
        self._metrics.lookups_waiting.set(self._waiting)

    def _looked(self, found: Found, result: Result, waited_seconds: float = 0.0) -> Looked:
        if found.unread and result is not Result.SKIPPED:
            result = Result.UNREAD
        self._metrics.lookups.labels(result).inc()
        return Looked(found, result, waited_seconds)
