"""`kata-dind accel`: whether KVM works on this host, as far as earlier starts have found out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from kata_dind.cli.options import Json, flag, takes_session
from kata_dind.cli.output import human_duration, print_json, print_tree
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from kata_dind.machine.accelerator import Obstacle
    from kata_dind.machine.findings import KvmFinding

Forget = Annotated[
    bool,
    flag(
        "--forget", variable="ACCEL_FORGET", help_text="Forget what was found, so that the next start tries KVM again."
    ),
]


@takes_session
def accel(session: Session, *, forget: Forget = False, json: Json = False) -> None:
    """Show whether KVM works on this host.

    The answer says how sure that is, and until when it is remembered.

    KVM counts as working when a guest has booted on it, which the first start tries. When two commands have found that
    it does not work, that is remembered for a day. --accel kvm tries it again in any case.
    """
    from kata_dind.host.directories import cache_directory
    from kata_dind.machine.accelerator import find_obstacle
    from kata_dind.machine.findings import forget_findings, list_findings

    cache, now = cache_directory(), time.time()
    if forget:
        forget_findings(cache=cache)
    findings, obstacle = list_findings(cache=cache, now=now), find_obstacle()
    if json:
        print_json({**_conclusion(findings, obstacle), "findings": [finding.as_fields() for finding in findings]})
    elif not session.quiet:
        print_tree(_conclusion(findings, obstacle))
        for finding in findings:
            print()
            print_tree(_told(finding, now=now))


def _conclusion(findings: list[KvmFinding], obstacle: Obstacle | None) -> dict[str, Any]:
    if obstacle:
        return {"kvm": obstacle.state, "reason": obstacle.reason}
    if not findings:
        return {"kvm": "unknown", "reason": "the next start boots a guest on KVM to find out"}
    return {"kvm": str(findings[0].outcome), "reason": findings[0].reason}


def _told(finding: KvmFinding, *, now: float) -> dict[str, Any]:
    fields = finding.as_fields()
    sure = (
        "yes" if finding.works else "yes, it was found twice" if finding.is_firm else "no, the next start tries again"
    )
    until = "until the host boots again"
    if finding.forgotten_at is not None:
        until = f"for another {human_duration(finding.forgotten_at - now)}"
    return {
        "guest kernel": fields["guest_kernel"],
        "host kernel": fields["host_kernel"],
        "qemu": " ".join(filter(None, (fields["qemu"], finding.qemu_version))),
        "found": f"{finding.outcome} ({finding.reason})",
        "tried": f"{human_duration(now - finding.tried_at)} ago, in {finding.trial_seconds:.1f} s",
        "sure": sure,
        "remembered": until,
    }
