"""`kata-dind run`: one container in a sandbox of its own, which is removed when the container ends."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kata_dind.cli import hello
from kata_dind.cli.options import takes_package_options, takes_sandbox_options, takes_session
from kata_dind.cli.options.declare import option
from kata_dind.cli.output import progress
from kata_dind.cli.passthrough import Variables, attach, has_terminal, parse_variables
from kata_dind.cli.request import package_source, sandbox_spec
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from kata_dind.spec import Share

Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", show_default=False, help="The image of the container; kata-dind/hello is built in."
    ),
]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="CMD...", help="The command to run in the container.")]
Published = Annotated[
    list[str] | None,
    option(
        "--publish",
        "-p",
        variable="RUN_PUBLISH",
        metavar="[ADDRESS:][PORT:]CONTAINER_PORT[/PROTOCOL]",
        show_default=False,
        help_text="Publish a port of the container, as docker run does. May be repeated.",
    ),
]
# People type `-it` out of habit. Both happen anyway, so it is accepted and changes nothing.
Habit = Annotated[bool, typer.Option("-i", "-t", hidden=True)]


@takes_session
@takes_package_options
@takes_sandbox_options
def run(
    session: Session,
    container_image: Image,
    arguments: Arguments = None,
    *,
    variables: Variables = None,
    published: Published = None,
    habit: Habit = False,
    fields: dict[str, Any],
    packages: dict[str, Any],
) -> None:
    """Run one container in a sandbox of its own.

    This is like `docker run --rm`: the container has your stdin, stdout and stderr, with a terminal if you have one,
    and kata-dind exits with its exit code. What is shared with the sandbox is mounted in the container at the same
    path. The sandbox is removed afterwards.
    """
    spec = sandbox_spec(f"run-{secrets.token_hex(4)}", fields)
    environment = parse_variables(variables)
    if not container_image or container_image.startswith("-"):
        raise SpecError(
            f"IMAGE: {container_image!r} is not an image; use a reference, like kata-dind/hello", id="spec.wrong-value"
        )
    source = package_source(packages)
    with (
        progress(session) as shown,
        session.sandboxes.open_sandbox(spec, report=shown.report, source=source) as sandbox,
    ):
        if hello.is_hello(container_image):
            hello.load(sandbox)
            environment = {**hello.facts(sandbox.inspect()), **environment}
        shown.pause()
        argv = docker_run_argv(container_image, arguments or (), environment=environment, published=published or (),
                               shares=spec.shares, tty=has_terminal())  # fmt: skip
        exit_code = attach(sandbox, argv)
    raise typer.Exit(exit_code)


def docker_run_argv(
    image: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    published: Sequence[str] = (),
    shares: Sequence[Share] = (),
    tty: bool,
) -> list[str]:
    """Compose the guest's `docker run`."""
    options = ["--interactive", *(["--tty"] if tty else [])]
    options += [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    options += [word for port in published for word in ("--publish", port)]
    for share in shares:
        mode = "ro" if share.read_only else "rw"
        options += ["--volume", f"{share.guest_path}:{share.guest_path}:{mode}"]
    return ["docker", "run", "--rm", *options, image, *arguments]
