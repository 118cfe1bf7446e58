"""What the RuntimeClasses of a cluster add to a policy: the handlers that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kata_dind.pod.policy import Policy, RuntimeClass


def with_handlers(policy: Policy, runtime_classes: Iterable[Mapping[str, Any]]) -> Policy | None:
    """Return a policy with the handlers of RuntimeClass objects; None if there is nothing new in them.

    A class with a handler of Kata's is Kata's, unless a rule of the policy is about it.
    """
    rules = []
    for each in runtime_classes:
        metadata, handler = each.get("metadata"), each.get("handler")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if not isinstance(name, str) or not isinstance(handler, str) or not re.fullmatch(r"[a-z0-9.-]+", name):
            continue
        known = policy.rule_for(name)
        if known is not None and not known.handler and handler != name:
            rules.append(known.model_copy(update={"match": name, "handler": handler}))
        elif known is None and (handler == "kata" or handler.startswith("kata-")):
            rules.append(RuntimeClass(match=name, handler=handler))
    return policy.model_copy(update={"runtime_classes": (*rules, *policy.runtime_classes)}) if rules else None
