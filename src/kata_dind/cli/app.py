"""The command tree."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kata_dind.cli.session import session_of
from kata_dind.cli.verb import Verb, Verbs

PROGRAM = "kata-dind"
KUBECTL_PLUGIN = "kubectl-kata_dind"
"""The name under which kubectl finds us as `kubectl kata-dind`: it looks for a dash as an underscore."""

_HELP = "A Docker daemon inside its own virtual machine, with a data root that is proven to work."
_EPILOG = (
    "Every option of a command can also be set in the environment (KATA_DIND_SIZE for --size), or in a "
    "configuration file."
)

# Options end at the first positional argument: all later words belong to the command that is run, dashes included.
_PASSES_ON = {"allow_interspersed_args": False}


_VERBS = (
    "run",
    "up",
    "ls",
    "inspect",
    "env",
    "port",
    "docker",
    "exec",
    "shell",
    "logs",
    "stop",
    "start",
    "rm",
    "accel",
    "backends",
    "entrypoint",
    "setup",
    "fix",
    "render",
)
_GROUPS = {
    "volume": ("List, grow, check and remove volumes. A volume is a data root that outlives its sandboxes.",
               ("ls", "inspect", "resize", "fsck", "rm")),
    "share": ("Add, list and remove files of this host that a sandbox sees.", ("add", "ls", "rm", "watch")),
    "seed": ("Make, list, check, carry and remove seeds. A seed is a ready machine that sandboxes start from.",
             ("build", "ls", "inspect", "rm", "verify", "export", "import")),
    "image": ("Make, fetch, list and remove dind images. A dind image has a Docker daemon in it.",
              ("build", "pull", "ls", "rm")),
    "policy": ("Explain and write policies. A policy decides what `fix` and the webhook do to the pods of others.",
               ("check", "schema", "show")),
    "webhook": ("Repair pods in a cluster when they are created.",
                ("serve", "certs", "manifest", "check")),
    "cluster": ("Prepare a cluster with Kata for pods with Docker.",
                ("plan", "check")),
}  # fmt: skip
"""Each verb is a function of its name, in a module of its name or of its group's."""

_PASSING_ON = frozenset(("run", "docker", "exec"))


def build_command(*, only: str = "") -> TyperGroup:
    """Build the command tree; if `only` is the name of a verb or a group, build only that one.

    The whole takes 60 ms, and a command needs only itself.
    """
    command = typer.main.get_command(_build_app({only} & {*_VERBS, *_GROUPS} or {*_VERBS, *_GROUPS}))
    assert isinstance(command, TyperGroup)
    return command


def _build_app(wanted: set[str]) -> typer.Typer:
    app = _typer(help=_HELP, epilog=_EPILOG)
    app.callback(invoke_without_command=True)(_root)
    for name in _VERBS:
        if name in wanted:
            settings = _PASSES_ON if name in _PASSING_ON else {}
            app.command(name, cls=Verb, context_settings=settings)(_function(name, name))
    for name, (help_text, verbs) in _GROUPS.items():
        if name in wanted:
            group = _typer(help=help_text)
            group.callback(invoke_without_command=True)(_help_without_a_verb)
            for verb in verbs:
                group.command(verb, cls=Verb)(_function(name, verb))
            app.add_typer(group, name=name)
    return app


def _function(module: str, verb: str) -> Any:
    """Import a verb's function; Python's own words have an underscore behind them."""
    found = importlib.import_module(f"kata_dind.cli.{module}")
    return getattr(found, f"{verb}_" if verb in ("exec", "import") else verb)


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
        context.default_map = config.read_defaults(session.config_file, command=build_command())


def _help_without_a_verb(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
