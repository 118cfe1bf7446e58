"""What is to be done, from what there is: a table of states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kata_dind.webhook.rotation import (
    AuthorityFacts,
    CertificateFacts,
    Kind,
    SecretFacts,
    Settings,
    Step,
    TrustFacts,
    changes_authority,
    plan,
    trusted,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SETTINGS = Settings(timedelta(days=90), timedelta(days=30))


def days(count: float) -> datetime:
    return NOW + timedelta(days=count)


NEW = AuthorityFacts("new", days(-100), days(3550))
OLD = AuthorityFacts("old", days(-3400), days(250))
GOOD = CertificateFacts(days(-10), days(80), signer="new")
HOOK = TrustFacts("pods.kata-dind.io", {"new": NEW.ends})
WELL = SecretFacts((NEW,), GOOD)

A, T, C = Kind.AUTHORITY, Kind.TRUST, Kind.CERTIFICATE


def steps(secret: SecretFacts, *hooks: TrustFacts) -> Sequence[Step]:
    return plan(secret, hooks, now=NOW, settings=SETTINGS)


def kinds(secret: SecretFacts, *hooks: TrustFacts) -> list[Kind]:
    return [step.kind for step in steps(secret, *hooks)]


@pytest.mark.parametrize(
    ("secret", "hooks", "expected"),
    [
        pytest.param(WELL, [HOOK], [], id="all is well"),
        pytest.param(WELL, [], [], id="no configuration, and all else is well"),
        pytest.param(SecretFacts(), [], [A, C], id="nothing at all"),
        pytest.param(SecretFacts(), [TrustFacts("a", {})], [A, C, T], id="nothing but a configuration"),
        pytest.param(WELL, [TrustFacts("a", {})], [T], id="the bundle was emptied"),
        pytest.param(WELL, [HOOK, TrustFacts("b", {})], [T], id="one webhook of two does not trust"),
        pytest.param(WELL, [replace(HOOK, is_clean=False)], [T], id="the bundle has other things in it"),
        pytest.param(
            WELL, [replace(HOOK, ends={"new": NEW.ends, "gone": days(-1)})], [T], id="the bundle has what has ended"
        ),
        pytest.param(
            WELL,
            [replace(HOOK, ends={"new": NEW.ends, "other": days(1)})],
            [],
            id="the bundle has one more, that lasts",
        ),
        pytest.param(SecretFacts((NEW,), None), [HOOK], [C], id="no certificate"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, ends=days(30.1))), [HOOK], [], id="a moment before renewal"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, ends=days(29.9))), [HOOK], [C], id="renewal is due"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, ends=days(-1))), [HOOK], [C], id="the certificate ended"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, has_key=False)), [HOOK], [C], id="a key of another one"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, fits=False)), [HOOK], [C], id="other names"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, begins=days(1))), [HOOK], [C], id="from a clock ahead"),
        pytest.param(SecretFacts((NEW,), replace(GOOD, signer="")), [HOOK], [C], id="signed by an unknown authority"),
        pytest.param(
            SecretFacts((NEW,), replace(GOOD, ends=days(1))), [TrustFacts("a", {})], [T, C], id="trust, then renew"
        ),
        # A rotation of the authority, from each state in which a process may have died.
        pytest.param(
            SecretFacts((OLD,), replace(GOOD, signer="old")), [HOOK], [A, T, C], id="the authority's end is near"
        ),
        pytest.param(
            SecretFacts((NEW, OLD), replace(GOOD, signer="old")),
            [replace(HOOK, ends={"old": OLD.ends})],
            [T, C],
            id="a new authority, trusted by nobody",
        ),
        pytest.param(
            SecretFacts((NEW, OLD), replace(GOOD, signer="old")),
            [replace(HOOK, ends={"old": OLD.ends, "new": NEW.ends})],
            [C],
            id="a new authority, trusted, that has signed nothing",
        ),
        pytest.param(
            SecretFacts((NEW, OLD), GOOD), [replace(HOOK, ends={"old": OLD.ends, "new": NEW.ends})], [], id="rotated"
        ),
        pytest.param(SecretFacts((replace(NEW, has_key=False),), GOOD), [HOOK], [A, T, C], id="no key, but it serves"),
        pytest.param(
            SecretFacts((replace(NEW, fits=False),), GOOD), [HOOK], [A, T, C], id="the Service has a new name"
        ),
        pytest.param(
            SecretFacts((replace(NEW, begins=days(1)),), GOOD), [HOOK], [A, T, C], id="authority from the future"
        ),
        pytest.param(
            SecretFacts((replace(NEW, ends=days(-1)),), replace(GOOD, ends=days(-1))),
            [TrustFacts("a", {"new": days(-1)})],
            [A, C, T],
            id="everything ended",
        ),
        pytest.param(SecretFacts((), GOOD), [HOOK], [A, T, C], id="only the pair is left"),
    ],
)
def test_steps(secret: SecretFacts, hooks: list[TrustFacts], expected: list[Kind]) -> None:
    assert kinds(secret, *hooks) == expected


def test_a_new_authority_is_trusted_before_a_certificate_under_it_replaces_one_in_use() -> None:
    order = kinds(SecretFacts((OLD,), replace(GOOD, signer="old")), replace(HOOK, ends={"old": OLD.ends}))
    assert order.index(T) < order.index(C)


def test_an_old_authority_stays_trusted_until_it_ends() -> None:
    secret, hook = SecretFacts((NEW, OLD), GOOD), replace(HOOK, ends={"lost": days(1), "ended": days(-1)})
    assert trusted(secret, hook, now=NOW) == {"new", "old", "lost"}
    assert trusted(secret, hook, now=OLD.ends) == {"new"}


def test_an_authority_is_replaced_before_what_it_signs_would_end_early() -> None:
    long = Settings(timedelta(days=800), timedelta(days=30))
    assert plan(SecretFacts((replace(NEW, ends=days(900)),), GOOD), [HOOK], now=NOW, settings=SETTINGS) == []
    found = plan(SecretFacts((replace(NEW, ends=days(800)),), GOOD), [HOOK], now=NOW, settings=long)
    assert found[0] == Step(A, "the present one ends on 2029-02-07")


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (SecretFacts((replace(NEW, has_key=False),), GOOD), "the key of the present one is missing"),
        (SecretFacts((replace(NEW, ends=days(-1)),), GOOD), "the present one ended on 2026-11-29"),
        (SecretFacts((NEW,), replace(GOOD, ends=days(20))), "it ends on 2026-12-20"),
        (
            SecretFacts((NEW,), replace(GOOD, begins=days(1))),
            "it begins on 2026-12-01, so it was made by a clock that is wrong",
        ),
    ],
)
def test_a_step_says_why(secret: SecretFacts, why: str) -> None:
    assert steps(secret, HOOK)[0].why == why


def test_doing_the_steps_leaves_nothing_to_do_and_never_breaks_a_handshake() -> None:
    """From each state of the table, a small model of the cluster does the steps, and every replica is believed."""
    made = AuthorityFacts("made", NOW, days(3650))
    served = SecretFacts((OLD,), replace(GOOD, signer="old"))
    secret, hook = served, replace(HOOK, ends={"old": OLD.ends})
    for _ in range(5):
        todo = steps(secret, hook)
        if not todo:
            break
        match todo[0].kind:
            case Kind.AUTHORITY:
                secret = replace(secret, authorities=(made, *secret.authorities))
            case Kind.TRUST:
                ends = {each.fingerprint: each.ends for each in secret.authorities}
                hook = replace(hook, ends={name: ends[name] for name in trusted(secret, hook, now=NOW)})
            case Kind.CERTIFICATE:
                secret = replace(secret, certificate=CertificateFacts(NOW, days(90), signer="made"))
        # A replica serves what is in the Secret now, or what was there when all began.
        assert secret.certificate is not None
        assert {secret.certificate.signer, "old"} <= hook.ends.keys()
    assert steps(secret, hook) == []
    assert secret.certificate is not None
    assert secret.certificate.signer == "made"


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (WELL, False),
        (SecretFacts((NEW,), replace(GOOD, ends=days(10))), False),
        (SecretFacts((NEW, OLD), replace(GOOD, signer="old")), True),
        (SecretFacts((NEW,), replace(GOOD, signer="")), True),
        (SecretFacts((NEW,), None), False),
        (SecretFacts(), False),
    ],
)
def test_api_servers_need_a_moment_only_where_the_signer_changes(secret: SecretFacts, expected: bool) -> None:
    assert changes_authority(secret) is expected
