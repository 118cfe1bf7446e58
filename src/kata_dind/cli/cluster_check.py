"""`kata-dind cluster check`: compare a cluster with what dind pods need; nothing is changed."""

from __future__ import annotations

import dataclasses

import typer

from kata_dind.cli.extras import needs_extra
from kata_dind.cli.options import Json, takes_session
from kata_dind.cli.options.cluster import Kubeconfig, KubeContext
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.output import print_json, print_table, printable
from kata_dind.cli.session import Session


@takes_session
def check(
    session: Session,
    *,
    policy: PolicyFile = "",
    kube_context: KubeContext = "",
    kubeconfig: Kubeconfig = "",
    json: Json = False,
) -> None:
    """Compare a cluster with what pods with Docker need.

    Nodes, kata-deploy and its version, RuntimeClasses and what the policy says of them, and the webhook are looked at,
    and nothing is changed. With --quiet, only what is not right is shown. The exit code is 1 if anything is wrong; what
    could be better, and what may not be looked at, is told and no more.
    """
    with needs_extra("webhook"):
        from kata_dind.cluster.facts import read_cluster
        from kata_dind.kube.client import open_client
    from kata_dind.cluster.check import Result, check_cluster
    from kata_dind.kube.access import find_access
    from kata_dind.policies import load_policy

    rules = load_policy(policy)
    with open_client(find_access(kubeconfig=kubeconfig, context=kube_context)) as client:
        checks = check_cluster(read_cluster(client), rules)
    wrong = any(each.result == Result.WRONG for each in checks)
    if json:
        print_json({"ok": not wrong, "checks": [dataclasses.asdict(each) for each in checks]})
    else:
        shown = [each for each in checks if each.result != Result.OK or not session.quiet]
        if shown:
            print_table(("CHECK", "RESULT", "FOUND"), [(each.name, each.result, each.found) for each in shown])
        hints = dict.fromkeys(f"{each.name}: {each.hint}" for each in shown if each.hint)
        if hints:
            print(printable("\n".join(["", "What to do:", *(f"  {hint}" for hint in hints)])))
    if wrong:
        raise typer.Exit(1)
