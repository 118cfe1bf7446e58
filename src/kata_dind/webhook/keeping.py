"""Keeping the webhook's certificates good in a cluster: read, plan, do one step, and read again until nothing is left.

Each write holds for the version of the object that was read, so that any number of processes may do this at once: who
loses a race reads what the winner has made, and goes on from there.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kata_dind.errors import KubernetesConflict, KubernetesError
from kata_dind.kube.client import Client
from kata_dind.kube.resources import MUTATING_WEBHOOKS, SECRETS
from kata_dind.progress import Event, Report
from kata_dind.webhook.authority import Certificate, new_authority, new_certificate
from kata_dind.webhook.configuration import Configuration, Service, changed_configuration, read_configuration
from kata_dind.webhook.rotation import Kind, Settings, Step, TrustFacts, changes_authority, is_serving, plan
from kata_dind.webhook.secret import (
    Kept,
    changed_secret,
    data_with_authority,
    data_with_certificate,
    new_secret,
    read_secret,
)

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0
"""How long the API servers, which watch the configuration, get to learn of a new authority before it is used."""

_MOST_STEPS = 12
_CONFLICT_SECONDS = 60.0
_SKEW = timedelta(minutes=5)

_IN_WORDS = {
    Kind.AUTHORITY: "making a new authority",
    Kind.TRUST: "telling the API servers whom to trust",
    Kind.CERTIFICATE: "making a new certificate",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be kept good, and where."""

    secret: str
    configuration: str
    service: Service
    settings: Settings

    @property
    def namespace(self) -> str:
        """The namespace of Service and Secret."""
        return self.service.namespace

    @property
    def secret_in_words(self) -> str:
        """The Secret, for people."""
        return SECRETS.named(self.secret, namespace=self.namespace)


@dataclass(frozen=True, slots=True)
class State:
    """What there is."""

    kept: Kept
    configuration: Configuration | None
    now: datetime

    @property
    def hooks(self) -> tuple[TrustFacts, ...]:
        """What the plan needs of the configuration."""
        return self.configuration.facts if self.configuration else ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, what is left to be done, and what there is now."""

    done: tuple[Step, ...]
    left: tuple[Step, ...]
    certificate: Certificate | None
    authority: Certificate | None
    renews: datetime | None
    """When the certificate is renewed."""

    def as_fields(self) -> dict[str, Any]:
        """Return it for `--json`."""
        steps = [(step, True) for step in self.done] + [(step, False) for step in self.left]
        return {
            "changed": bool(self.done),
            "steps": [{"step": str(step.kind), "why": step.why, "done": done} for step, done in steps],
            "certificate": self.certificate
            and {
                "names": list(self.certificate.names),
                "ends": self.certificate.ends.isoformat(),
                "renews": self.renews and self.renews.isoformat(),
                "sha256": self.certificate.fingerprint,
            },
            "authority": self.authority
            and {"ends": self.authority.ends.isoformat(), "sha256": self.authority.fingerprint},
        }


def keep_certificates(
    client: Client, wanted: Wanted, *, report: Report, settle_seconds: float = SETTLE_SECONDS
) -> Outcome:
    """Do what is to be done, and say what was. Raises KubernetesError."""
    done: list[Step] = []
    deadline = time.monotonic() + _CONFLICT_SECONDS
    while True:
        state = read_state(client, wanted, report=report)
        steps = _planned(state, wanted)
        if not steps:
            _require_configuration(state, wanted)
            return _outcome(state, wanted, done=done)
        if len(done) >= _MOST_STEPS:
            raise KubernetesError(
                f"the certificates of the webhook can't be kept, since something changes them back: {steps[0].why}",
                id="webhook.contended",
                hint=f"look who does: kubectl get mutatingwebhookconfiguration {wanted.configuration} "
                "--show-managed-fields -o yaml",
            )
        if steps[0].kind == Kind.CERTIFICATE and _is_risky(state):
            # Whoever has told the API servers, perhaps another process and just now.
            time.sleep(settle_seconds)
        try:
            done += _do(client, wanted, state, steps, report=report)
        except KubernetesConflict:
            if time.monotonic() > deadline:
                raise
            logger.debug("somebody else was faster; reading again")
            time.sleep(random.uniform(0.02, 0.2))


def look_at_certificates(client: Client, wanted: Wanted, *, report: Report) -> Outcome:
    """Say what is to be done, and do nothing. Raises KubernetesError."""
    state = read_state(client, wanted, report=report)
    left = _planned(state, wanted)
    if not left:
        _require_configuration(state, wanted)
    return _outcome(state, wanted, left=left)


def read_state(client: Client, wanted: Wanted, *, report: Report) -> State:
    """Read what there is. Raises KubernetesError for what may not be read, or is not ours."""
    # The configuration first: a Secret that is read later has at least the authorities that are trusted already.
    found = client.find(MUTATING_WEBHOOKS, wanted.configuration)
    configuration = None
    if found is not None:
        called = MUTATING_WEBHOOKS.named(wanted.configuration)
        configuration = read_configuration(found, wanted.service, called=called)
    secret = client.find(SECRETS, wanted.secret, namespace=wanted.namespace)
    kept = read_secret(
        secret,
        wanted.service.names,
        called=wanted.secret_in_words,
        delete=f"kubectl --namespace {wanted.namespace} delete secret {wanted.secret}",
    )
    return State(kept, configuration, _now(client, report))


def _planned(state: State, wanted: Wanted) -> list[Step]:
    return plan(state.kept.facts, state.hooks, now=state.now, settings=wanted.settings)


def _do(client: Client, wanted: Wanted, state: State, steps: Sequence[Step], *, report: Report) -> list[Step]:
    first, *following = steps
    if first.kind == Kind.TRUST:
        _say(report, first)
        _trust(client, wanted, state)
        return [first]
    if first.kind == Kind.CERTIFICATE:
        _say(report, first)
        pair = new_certificate(state.kept.signing, wanted.service.names, now=state.now, life=wanted.settings.life)
        _write(client, wanted, state, data_with_certificate(pair))
        return [first]
    together = [first, *(step for step in following[:1] if step.kind == Kind.CERTIFICATE)]
    _say(report, *together)
    authority = new_authority(wanted.service.names, now=state.now)
    data = data_with_authority(state.kept, authority, now=state.now)
    if len(together) > 1:
        pair = new_certificate(authority, wanted.service.names, now=state.now, life=wanted.settings.life)
        data |= data_with_certificate(pair)
    _write(client, wanted, state, data)
    return together


def _trust(client: Client, wanted: Wanted, state: State) -> None:
    assert state.configuration is not None
    patch = changed_configuration(state.configuration, state.kept.facts, state.kept.authorities, now=state.now)
    client.patch(MUTATING_WEBHOOKS, wanted.configuration, patch, how="strategic")


def _write(client: Client, wanted: Wanted, state: State, data: dict[str, str]) -> None:
    if not state.kept.version:
        client.create(SECRETS, new_secret(wanted.secret, wanted.namespace, data), namespace=wanted.namespace)
        return
    client.patch(SECRETS, wanted.secret, changed_secret(state.kept, data), namespace=wanted.namespace)


def _say(report: Report, *steps: Step) -> None:
    for step in steps:
        report(Event(str(step.kind), f"{_IN_WORDS[step.kind]}: {step.why}"))


def _now(client: Client, report: Report) -> datetime:
    """Return the time by the clock of the API server, since that is who will judge the certificates."""
    own = datetime.now(UTC)
    theirs = client.server_time or own
    if abs(own - theirs) > _SKEW:
        minutes = round(abs(own - theirs).total_seconds() / 60)
        report(
            Event(
                "warning", f"the clocks of this host and of the API server differ by {minutes} min; the server's counts"
            )
        )
    return theirs


def _is_risky(state: State) -> bool:
    """Tell whether an API server that has not heard of the new authority yet would refuse the next certificate."""
    facts = state.kept.facts
    return bool(state.hooks) and is_serving(facts, now=state.now) and changes_authority(facts)


def _require_configuration(state: State, wanted: Wanted) -> None:
    if state.configuration is None:
        raise KubernetesError(
            f"{MUTATING_WEBHOOKS.named(wanted.configuration)} does not exist, so the API servers call nobody; "
            f"the certificate is in {wanted.secret_in_words}",
            id="webhook.no-configuration",
            hint="create it (the chart does, and so does `kata-dind webhook manifest`), and run this command again",
        )


def _outcome(state: State, wanted: Wanted, *, done: Sequence[Step] = (), left: Sequence[Step] = ()) -> Outcome:
    certificate = state.kept.certificate
    return Outcome(
        tuple(done),
        tuple(left),
        certificate,
        next(iter(state.kept.authorities), None),
        renews=certificate.ends - wanted.settings.renew_before if certificate else None,
    )
