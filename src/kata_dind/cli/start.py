"""`kata-dind start`: start a stopped sandbox again."""

from __future__ import annotations

from typing import Any

from kata_dind.cli.options import DEFAULT_NAME, Json, NameOrDefault, takes_package_options, takes_session
from kata_dind.cli.output import print_json, progress
from kata_dind.cli.request import package_source
from kata_dind.cli.session import Session


@takes_session
@takes_package_options
def start(
    session: Session, name: NameOrDefault = DEFAULT_NAME, *, json: Json = False, packages: dict[str, Any]
) -> None:
    """Start a stopped sandbox again, with the images that it had."""
    session.sandboxes.require_sandbox(name)
    with progress(session) as shown:
        sandbox = session.sandboxes.start(name, report=shown.report, source=package_source(packages))
    if json:
        print_json(sandbox.inspect())
    elif not session.quiet:
        print(f"{name} is ready.")
