"""`kata-dind webhook check`: whether running webhooks work."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kata_dind.cli.options import Json, option, takes_session
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.output import print_json, printable
from kata_dind.cli.session import Session

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="Their address, such as https://kata-dind.kata-dind.svc.", show_default=False),
]
Authority = Annotated[
    str,
    option(
        "--ca",
        variable="WEBHOOK_CA",
        metavar="FILE",
        help_text="The certificate of their authority, in PEM.",
        show_default=False,
    ),
]


@takes_session
def check(session: Session, url: Url, *, ca: Authority, policy: PolicyFile = "", json: Json = False) -> None:
    """Ask running webhooks whether they are ready, and whether they repair a pod.

    They are asked as an API server asks them, by the name and with the authority that it uses. Nothing is created. From
    outside of the cluster, ask the API server itself: kubectl create --dry-run=server -o yaml -f pod.yaml
    """
    from kata_dind.host.small_files import read_small_text
    from kata_dind.policies import load_policy
    from kata_dind.webhook.check import check_webhook

    authority = read_small_text(ca, most_bytes=1 << 20, what="a certificate")
    answer = check_webhook(url, authority=authority, policy=load_policy(policy))
    if json:
        print_json(asdict(answer))
    elif answer.refused:
        print(printable(f"It is ready, and refuses a pod that runs Docker: {answer.refused}"))
    elif answer.repaired:
        print(f"It is ready, and repairs a pod that runs Docker in the RuntimeClass {answer.runtime_class}.")
    else:
        print("It is ready. By its policy, no pod is repaired.")
