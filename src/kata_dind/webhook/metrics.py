"""What Prometheus is told. One object has all of it, and a registry of its own: there is no state of a module."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from kata_dind.version import __version__

_LOOKUP_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Reloads(NamedTuple):
    """What is counted of a file that is followed."""

    results: Counter
    error: Gauge


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series, and nobody asks for them
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.reviews = Counter(
            "kata_dind_webhook_reviews",
            "Reviews that were answered, by decision and reason.",
            ("decision", "reason"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "kata_dind_webhook_review_seconds",
            "The time that a review took, from its last byte to the first byte of its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.bugs = Counter(
            "kata_dind_webhook_bugs",
            "Reviews that were answered without being decided, because of a bug; the log has the traceback.",
            registry=self.registry,
        )
        self.lookups = Counter(
            "kata_dind_webhook_lookups",
            "Reviews of pods whose images only a registry can tell of, by what came of asking.",
            ("result",),
            registry=self.registry,
        )
        self.lookup_seconds = Histogram(
            "kata_dind_webhook_lookup_seconds",
            "The time that a review waited for registries; those that did not have to wait are not counted.",
            buckets=_LOOKUP_SECONDS,
            registry=self.registry,
        )
        self.lookups_waiting = self._gauge("lookups_waiting", "Reviews that are waiting for registries.")
        self.pull_secrets = Counter(
            "kata_dind_webhook_pull_secrets",
            "Pull secrets that were asked of the API server, by result.",
            ("result",),
            registry=self.registry,
        )
        self.policy = self._reloads("policy", "policy file")
        self.policy_loaded = self._gauge("policy_loaded_timestamp_seconds", "When the policy in use was read.")
        self.certificate = self._reloads("certificate", "certificate")
        self.certificate_expiry = self._gauge(
            "certificate_expiry_timestamp_seconds", "When the certificate in use expires."
        )
        self.connections = Gauge(
            "kata_dind_webhook_connections",
            "Connections that are open, by port: https or http.",
            ("port",),
            registry=self.registry,
        )
        self.closed = Counter(
            "kata_dind_webhook_connections_closed",
            "Connections that were closed because of what their client did, by reason.",
            ("reason",),
            registry=self.registry,
        )
        version = Gauge("kata_dind_webhook_info", "The version of kata-dind.", ("version",), registry=self.registry)
        version.labels(__version__).set(1)

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(f"kata_dind_webhook_{name}", documentation, registry=self.registry)

    def _reloads(self, what: str, named: str) -> Reloads:
        results = Counter(
            f"kata_dind_webhook_{what}_reloads",
            f"Changes of the {named} that were seen; after one that failed, the old one stays in use.",
            ("result",),
            registry=self.registry,
        )
        for result in ("success", "failure"):
            results.labels(result)
        return Reloads(results, self._gauge(f"{what}_error", f"1 while the {named} on the disk is not in use."))

    def text(self) -> bytes:
        """Return all of them in Prometheus' format."""
        return generate_latest(self.registry)
