"""The options that several commands share, and the decorators that give them to a command.

An option `--some-thing` is read from `KATA_DIND_SOME_THING` too; one that belongs to a single verb has the verb in its
variable. Values stay text here: what they mean, and which are allowed, only `spec.py` says.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from kata_dind.cli import completion
from kata_dind.cli.session import session_of
from kata_dind.vocabulary import Accelerator, BackendName, DataRootKind, Fallback, Filesystem, NetworkMode

Command = Callable[..., None]
DEFAULT_NAME = "default"


def option(*names: str, variable: str, help_text: str, **more: Any) -> Any:
    """Declare an option. The variable is not shown in its help: the rule for it stands in the help of the whole."""
    return typer.Option(*names, envvar=f"KATA_DIND_{variable}", help=help_text, show_envvar=False, **more)


def flag(*names: str, variable: str, help_text: str, **more: Any) -> Any:
    """Declare an option without a value."""
    return option(*names, variable=variable, help_text=help_text, show_default=False, **more)


def whole_number(value: Any) -> int:
    """Parse an option's whole number, above zero."""
    number = int(text) if (text := str(value)).isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 1:
        raise ValueError(f"{text!r} is not a whole number above zero")
    return number


def seconds(value: Any) -> float:
    """Parse an option's number of seconds, above zero."""
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{str(value)!r} is not a number of seconds above zero")
    return number


def _remember_json(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).json = value
    return value


def _remember_quiet(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).quiet = value
    return value


def _remember_verbose(context: typer.Context, value: bool) -> bool:
    if not context.resilient_parsing:
        session_of(context).verbose = value
        if value:
            logging.getLogger("kata_dind").setLevel(logging.DEBUG)
    return value


# Eager, so that an error in another option is reported in the way that was asked for.
Json = Annotated[
    bool,
    flag(
        "--json",
        variable="JSON",
        help_text="Answer, and report errors, as JSON.",
        is_eager=True,
        callback=_remember_json,
    ),
]
Quiet = Annotated[
    bool,
    flag(
        "--quiet",
        "-q",
        variable="QUIET",
        help_text="Say no more than was asked for; show no progress.",
        is_eager=True,
        callback=_remember_quiet,
    ),
]
Verbose = Annotated[
    bool,
    flag(
        "--verbose",
        "-v",
        variable="VERBOSE",
        help_text="Show each step, and each program that is run.",
        is_eager=True,
        callback=_remember_verbose,
    ),
]

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.sandbox_names)]
NameOrDefault = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=completion.sandbox_names, help=f"The sandbox; else {DEFAULT_NAME!r}."
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=completion.sandbox_names)]


def _sandbox_option(name: str, metavar: str, help_text: str, **more: Any) -> Any:
    variable = name.removeprefix("--").replace("-", "_").upper()
    return option(name, variable=variable, metavar=metavar, help_text=help_text, **more)


def _choice(name: str, allowed: Any, help_text: str) -> Any:
    return _sandbox_option(name, "|".join(allowed), help_text, autocompletion=completion.words(allowed))


# By their names in SandboxSpec, each with its default. To import the spec for these would cost --help its quickness; a
# test compares them.
_SANDBOX_OPTIONS: dict[str, tuple[Any, Any]] = {
    "backend": (Annotated[str, _choice("--backend", BackendName, "Where the virtual machine comes from.")], "vm"),
    "data_root": (Annotated[str, _choice("--data-root", DataRootKind, "How dockerd's data root is backed.")], "auto"),
    "volume": (
        Annotated[
            str,
            _sandbox_option(
                "--volume",
                "NAME",
                "Keep the data root in this named volume, made when there is none.",
                show_default="a data root that goes with the sandbox",
                autocompletion=completion.volume_names,
            ),
        ],
        "",
    ),
    "size": (
        Annotated[
            str | None,
            _sandbox_option(
                "--size",
                "SIZE",
                "The data root's size; a disk is sparse, and a volume only grows.",
                show_default="20G, or what the volume has",
            ),
        ],
        None,
    ),
    "filesystem": (
        Annotated[str, _choice("--filesystem", Filesystem, "What a loop or block data root is formatted with.")],
        "ext4",
    ),
    "fallback": (
        Annotated[
            str, _choice("--fallback", Fallback, "The storage driver to go on with where overlay does not work.")
        ],
        "none",
    ),
    "virtiofs_xattr": (
        Annotated[
            bool,
            flag(
                "--virtiofs-xattr/--no-virtiofs-xattr",
                variable="VIRTIOFS_XATTR",
                help_text="Give a virtiofs data root the extended attributes that overlay needs (the default); "
                "without, it is as Kata's own default is, and refused.",
            ),
        ],
        True,
    ),
    "cpus": (Annotated[int, _sandbox_option("--cpus", "N", "The guest's processors.", parser=whole_number)], 2),
    "memory": (Annotated[str, _sandbox_option("--memory", "SIZE", "The guest's memory.")], "2G"),
    "image": (
        Annotated[
            str,
            _sandbox_option(
                "--image",
                "REFERENCE",
                "The dind image, see `kata-dind image ls`.",
                show_default="built from packages",
                autocompletion=completion.image_references,
            ),
        ],
        "",
    ),
    "kernel": (
        Annotated[
            str | None,
            _sandbox_option("--kernel", "PATH", "The guest's kernel.", show_default="Kata's, else the distribution's"),
        ],
        None,
    ),
    "accelerator": (Annotated[str, _choice("--accel", Accelerator, "What runs the guest's processors.")], "auto"),
    "network": (Annotated[str, _choice("--network", NetworkMode, "What the guest reaches.")], "nat"),
    "allow_link_local": (
        Annotated[
            bool,
            flag(
                "--allow-link-local/--no-allow-link-local",
                variable="ALLOW_LINK_LOCAL",
                help_text="Let the guest reach link-local addresses, such as a cloud's metadata service.",
            ),
        ],
        False,
    ),
    "shares": (
        Annotated[
            list[str],
            _sandbox_option(
                "--share",
                "HOST:GUEST[:ro]",
                "A host directory for the guest to see; may be repeated.",
                show_default=False,
            ),
        ],
        [],
    ),
    "cold": (
        Annotated[
            bool,
            flag(
                "--cold/--no-cold",
                variable="COLD",
                help_text="Boot the guest, where it would be restored from a seed.",
            ),
        ],
        False,
    ),
    "seed": (
        Annotated[
            str,
            _sandbox_option(
                "--seed",
                "NAME",
                "Start from this seed, see `kata-dind seed ls`.",
                show_default="the internal one of such a machine",
                autocompletion=completion.seed_names,
            ),
        ],
        "",
    ),
    "dockerd_args": (
        Annotated[
            list[str],
            _sandbox_option(
                "--dockerd-arg",
                "FLAG",
                "A flag for dockerd, like --registry-mirror=URL; may be repeated.",
                show_default=False,
            ),
        ],
        [],
    ),
    "timeout_seconds": (
        Annotated[float, _sandbox_option("--timeout", "SECONDS", "How long the start may take.", parser=seconds)],
        180,
    ),
}

_OF_ONE_START = frozenset(("volume", "virtiofs_xattr", "shares", "cold", "seed"))

_PACKAGE_OPTIONS: dict[str, tuple[Any, Any]] = {
    "suite": (
        Annotated[
            str,
            option(
                "--suite",
                variable="SUITE",
                metavar="RELEASE",
                show_default="the host's own",
                help_text="What is built comes from packages of this release: bookworm, trixie, noble …",
            ),
        ],
        "",
    ),
    "mirror": (
        Annotated[
            str,
            option(
                "--mirror",
                variable="MIRROR",
                metavar="URL",
                show_default="the release's own",
                help_text="Fetch packages from this mirror.",
            ),
        ],
        "",
    ),
    "apt_options": (
        Annotated[
            list[str],
            option(
                "--apt-option",
                variable="APT_OPTION",
                metavar="LINE",
                show_default=False,
                help_text="A line of apt.conf for builds; may be repeated.",
            ),
        ],
        [],
    ),
}


def takes_session(command: Command) -> Command:
    """Give a command `--quiet` and `--verbose`, and the invocation's Session as its first argument."""
    own = _signature(command, without="session")
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    def wrapper(context: typer.Context, **arguments: Any) -> None:
        session = session_of(context)
        session.context = context
        command(session, **{name: value for name, value in arguments.items() if name not in {"quiet", "verbose"}})

    added = [_keyword("quiet", Quiet, default=False), _keyword("verbose", Verbose, default=False)]
    return _with_parameters(wrapper, command, [context, *own, *added])


def takes_sandbox_options(command: Command) -> Command:
    """Give a command the options that describe a sandbox; they arrive as `fields` of a SandboxSpec."""
    return _takes(command, _SANDBOX_OPTIONS, argument="fields")


def takes_machine_options(command: Command) -> Command:
    """Give a command those options that describe a machine, and not what one start of it has beside; as `fields`."""
    own = {name: kind for name, kind in _SANDBOX_OPTIONS.items() if name not in _OF_ONE_START}
    return _takes(command, own, argument="fields")


def takes_package_options(command: Command) -> Command:
    """Give a command the options that say where packages come from; they arrive as `packages`."""
    return _takes(command, _PACKAGE_OPTIONS, argument="packages")


def _takes(command: Command, options: Mapping[str, tuple[Any, Any]], *, argument: str) -> Command:
    own = _signature(command, without=argument)

    def wrapper(*positional: Any, **arguments: Any) -> None:
        taken = {name: arguments.pop(name) for name in options}
        command(*positional, **arguments, **{argument: taken})

    added = [_keyword(name, kind, default=default) for name, (kind, default) in options.items()]
    return _with_parameters(wrapper, command, [*own, *added])


def _keyword(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _signature(command: Command, *, without: str) -> list[inspect.Parameter]:
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.name != without]


def _with_parameters(wrapper: Command, command: Command, parameters: list[inspect.Parameter]) -> Command:
    """Name a wrapper as the command, and let typer see these parameters."""
    functools.update_wrapper(wrapper, command)
    del wrapper.__wrapped__  # type: ignore[attr-defined]  # else typer would look through to the command's own
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
