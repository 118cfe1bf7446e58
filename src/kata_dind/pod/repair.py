"""The repair of a pod: an RFC 6902 patch with its reasons, or sentences about what can't be repaired. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kata_dind.pod.model import ConfigMaps, Detection, PodDict, Program, Repair
from kata_dind.pod.policy import Policy

Script = Callable[[str, Program], str]
"""Gives the guest entrypoint for a kind (a word of DataRootKind) and a program; it is asked for the same often."""


def repair(
    pod: PodDict,
    policy: Policy,
    *,
    script: Script,
    config_maps: ConfigMaps = {},
    claim_templates: Sequence[Mapping[str, Any]] = (),
    detection: Detection | None = None,
    improve: bool = False,
) -> Repair:
    """Return the patch that gives each Docker of a pod a data root that works, with its reasons."""
    raise NotImplementedError
