"""The command tree."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kata_dind.cli import docker, env, image, inspect, logs, ls, rm, run, seed, shell, start, stop, up, volume
from kata_dind.cli import exec as exec_
from kata_dind.cli.session import session_of
from kata_dind.cli.verb import Verb, Verbs

PROGRAM = "kata-dind"

_HELP = "A Docker daemon inside its own virtual machine, with a data root that is proven to work."
_EPILOG = (
    "Every option of a command is also read from the environment (--size: KATA_DIND_SIZE) and a configuration file."
)

# Options end at the first positional argument: what follows belongs to the command that is run, dashes and all.
_PASSES_ON = {"allow_interspersed_args": False}


def build_command() -> TyperGroup:
    """Build the command tree, afresh."""
    command = typer.main.get_command(_build_app())
    assert isinstance(command, TyperGroup)
    return command


def _build_app() -> typer.Typer:
    app = _typer(help=_HELP, epilog=_EPILOG)
    app.callback(invoke_without_command=True)(_root)
    app.command("run", cls=Verb, context_settings=_PASSES_ON)(run.run)
    app.command("up", cls=Verb)(up.up)
    app.command("ls", cls=Verb)(ls.ls)
    app.command("inspect", cls=Verb)(inspect.inspect)
    app.command("env", cls=Verb)(env.env)
    app.command("docker", cls=Verb, context_settings=_PASSES_ON)(docker.docker)
    app.command("exec", cls=Verb, context_settings=_PASSES_ON)(exec_.exec_)
    app.command("shell", cls=Verb)(shell.shell)
    app.command("logs", cls=Verb)(logs.logs)
    app.command("stop", cls=Verb)(stop.stop)
    app.command("start", cls=Verb)(start.start)
    app.command("rm", cls=Verb)(rm.rm)
    app.add_typer(_build_volume_app(), name="volume")
    app.add_typer(_build_seed_app(), name="seed")
    app.add_typer(_build_image_app(), name="image")
    return app


def _build_volume_app() -> typer.Typer:
    app = _typer(help="List, grow, check and remove data roots that outlive their sandboxes.")
    app.callback(invoke_without_command=True)(_help_without_a_verb)
    app.command("ls", cls=Verb)(volume.ls)
    app.command("inspect", cls=Verb)(volume.inspect)
    app.command("resize", cls=Verb)(volume.resize)
    app.command("fsck", cls=Verb)(volume.fsck)
    app.command("rm", cls=Verb)(volume.rm)
    return app


def _build_seed_app() -> typer.Typer:
    app = _typer(help="Make, list, check, carry and remove machines to start from.")
    app.callback(invoke_without_command=True)(_help_without_a_verb)
    app.command("build", cls=Verb)(seed.build)
    app.command("ls", cls=Verb)(seed.ls)
    app.command("inspect", cls=Verb)(seed.inspect)
    app.command("rm", cls=Verb)(seed.rm)
    app.command("verify", cls=Verb)(seed.verify)
    app.command("export", cls=Verb)(seed.export)
    app.command("import", cls=Verb)(seed.import_)
    return app


def _build_image_app() -> typer.Typer:
    app = _typer(help="Make, fetch, list and remove dind images.")
    app.callback(invoke_without_command=True)(_help_without_a_verb)
    app.command("build", cls=Verb)(image.build)
    app.command("pull", cls=Verb)(image.pull)
    app.command("ls", cls=Verb)(image.ls)
    app.command("rm", cls=Verb)(image.rm)
    return app


def _typer(*, help: str, epilog: str = "") -> typer.Typer:
    # Help without rich: 0.07 s against 0.16 s, and the same text in a pipe, a terminal and docs/cli.md.
    settings: dict[str, Any] = {"help_option_names": ["--help", "-h"]}
    return typer.Typer(
        cls=Verbs,
        help=help,
        epilog=epilog,
        rich_markup_mode=None,
        context_settings=settings,
        pretty_exceptions_enable=False,
    )


def _print_version(value: bool) -> None:
    if value:
        from kata_dind import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, show_default=False, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    _help_without_a_verb(context)
    session = session_of(context)
    from kata_dind.cli import config

    session.config_file = config.find_config_file()
    if session.config_file:
        assert isinstance(context.command, TyperGroup)
        context.default_map = config.read_defaults(session.config_file, command=context.command)


def _help_without_a_verb(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
