"""Some hundred damaged reviews through HTTPS; `scripts/fuzz_webhook` sends as many as one likes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.webhook import fuzz
from tests.webhook.process import Webhook

pytestmark = [pytest.mark.requires("openssl"), pytest.mark.thorough]


def test_damaged_reviews_are_answered(webhook: Webhook) -> None:
    seen: Counter[str] = Counter()
    with webhook.connect() as connection:
        for seed in range(800):
            random = Random(seed)
            body = fuzz.damaged_review(random)
            connection.send(fuzz.request_with(body, random))
            seen[fuzz.check(body, connection.answer(), random)] += 1
    assert seen["patched"] > 50 < seen["allowed"]
    assert seen["400"] > 20
    assert webhook.events("bug") == []
    assert webhook.metrics()["bugs_total"] == 0
