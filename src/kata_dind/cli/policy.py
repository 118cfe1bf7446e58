"""`kata-dind policy`: explain and write policies for the pods of others."""

from __future__ import annotations

from typing import Annotated

import typer

from kata_dind.cli.options import Json, takes_session
from kata_dind.cli.output import print_json, printable
from kata_dind.cli.session import Session

File = Annotated[str, typer.Argument(metavar="FILE", help="The policy, a YAML file.", show_default=False)]


@takes_session
def check(session: Session, file: File, *, json: Json = False) -> None:
    """Check a policy, and explain it.

    For each RuntimeClass it says whether it is Kata's, what it can do, and what a pod with docker:dind gets there. A
    mistake in the file is told in one line, with exit code 2.
    """
    from kata_dind.fixing.policy_view import policy_as_fields, policy_in_words
    from kata_dind.policies import load_policy

    fields = policy_as_fields(load_policy(file))
    if json:
        print_json(fields)
    else:
        print(printable("\n".join(policy_in_words(fields))))


@takes_session
def schema(session: Session) -> None:
    """Print the JSON schema of policies, with which an editor completes and checks them."""
    from kata_dind.pod.policy import policy_schema

    print_json(policy_schema())


@takes_session
def show(session: Session) -> None:
    """Print the policy that holds without one, as YAML with comments, to begin with."""
    from kata_dind.policies import DEFAULT_TEXT

    print(DEFAULT_TEXT, end="")
