"""`kata-dind up`: start a sandbox that stays."""

from __future__ import annotations

from typing import Any

from kata_dind.cli.options import (
    DEFAULT_NAME,
    Json,
    NameOrDefault,
    takes_package_options,
    takes_sandbox_options,
    takes_session,
)
from kata_dind.cli.output import print_json, progress
from kata_dind.cli.request import package_source, sandbox_spec
from kata_dind.cli.session import Session


@takes_session
@takes_package_options
@takes_sandbox_options
def up(
    session: Session,
    name: NameOrDefault = DEFAULT_NAME,
    *,
    json: Json = False,
    fields: dict[str, Any],
    packages: dict[str, Any],
) -> None:
    """Start a sandbox and leave it running.

    The sandbox is ready when its Docker daemon is proven to work: overlay was really mounted, and an image was loaded,
    made into a container and exported.
    """
    spec = sandbox_spec(name, fields)
    with progress(session) as shown:
        sandbox = session.sandboxes.up(spec, report=shown.report, source=package_source(packages))
    if json:
        print_json(sandbox.inspect())
    elif not session.quiet:
        print(f'{name} is ready. Point your Docker client at it:\n  eval "$(kata-dind env {name})"')
