"""Where a program keeps its data, and which storage driver it is told: by flags, variables, files, or its default."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kata_dind.pod.argv import basename
from kata_dind.pod.images import Known
from kata_dind.pod.model import Program
from kata_dind.pod.reading import mapping, text
from kata_dind.pod.volumes import clean_path

_LARGEST_FILE = 65_536

DEFAULT_ROOTS = {
    Program.DOCKERD: "/var/lib/docker",
    Program.BUILDKITD: "/var/lib/buildkit",
    Program.CONTAINERD: "/var/lib/containerd",
    Program.DAGGER: "/var/lib/dagger",
    Program.EARTHLY: "/tmp/earthly",
}
"""Where each program keeps its data if nothing else is said; the guest entrypoint looks there as well."""

_ROOT_FLAGS = {Program.DOCKERD: ("--data-root", "--graph", "-g")}
_CONFIG_FLAGS = {Program.DOCKERD: ("--config-file",), Program.CONTAINERD: ("--config", "-c")}
_CONFIG_FILES = {
    Program.DOCKERD: "/etc/docker/daemon.json",
    Program.BUILDKITD: "/etc/buildkit/buildkitd.toml",
    Program.CONTAINERD: "/etc/containerd/config.toml",
    Program.DAGGER: "/etc/dagger/engine.toml",
    Program.EARTHLY: "/etc/buildkitd.toml",
}
_DRIVER_FLAGS = {
    Program.DOCKERD: ("--storage-driver", "-s"),
    Program.BUILDKITD: ("--oci-worker-snapshotter", "--containerd-worker-snapshotter"),
    Program.DAGGER: ("--oci-worker-snapshotter",),
    Program.EARTHLY: ("--oci-worker-snapshotter",),
}
_FLAGS_WITH_VALUE = frozenset(
    (
        *(flag for table in (_ROOT_FLAGS, _CONFIG_FLAGS, _DRIVER_FLAGS) for flags in table.values() for flag in flags),
        *("--root", "--config", "--exec-root", "--pidfile", "-p", "--log-level", "-l", "--host", "-H", "--group", "-G"),
        *("--containerd", "--registry-mirror", "--insecure-registry", "--mtu", "--bip", "--dns", "--storage-opt"),
        *("--address", "-a", "--addr", "--state"),
    )
)
"""Flags that take the next word for their value, whatever that is."""

# Variables whose value are flags, with the programs that read them.
_FLAG_VARIABLES = {
    "DOCKER_DAEMON_ARGS": ("wrapdocker", "wrapdocker.sh"),
    "DOCKER_OPTS": ("service", "docker", "rc-service"),
    "BUILDKITD_FLAGS": ("buildctl-daemonless.sh",),
}
_HOMES = {Program.DOCKERD: "/home/rootless", Program.BUILDKITD: "/home/user"}
_BELOW_HOME = {Program.DOCKERD: "docker", Program.BUILDKITD: "buildkit", Program.CONTAINERD: "containerd"}


# Frozen classes take three times as long to make; these live for one search.
@dataclass(slots=True)
class Running:
    """A program as it is started."""

    program: Program
    words: Sequence[str]
    """From its name on; empty if they aren't known."""
    variables: Mapping[str, str]
    known: Known
    rootless: bool
    read_file: Callable[[str], str | None]
    """Returns the text of a file in the container, if it is known."""


@dataclass(slots=True)
class NamedRoot:
    """A directory of data."""

    path: str
    """Clean; empty if it can't be known."""
    said_by: str
    by_flag: bool = False
    one_word: str = ""
    """The word that has a flag and its value with a space between them, which is not what dockerd takes it for."""


@dataclass(slots=True)
class Driver:
    """Something that names a storage driver."""

    name: str
    words: tuple[str, ...] = ()
    """The words of a flag."""
    variable: str = ""
    in_file: str = ""


@dataclass(slots=True)
class Storage:
    """The data root and the storage drivers of a program."""

    root: NamedRoot
    drivers: tuple[Driver, ...] = ()
    """The first is the one that counts."""
    config_file: str = ""
    """The path of the configuration that would name more, whether or not it is in reach."""


def read_storage(running: Running) -> Storage:
    """Return where a program keeps its data, and what names a storage driver."""
    words = [*running.words, *_words_of_variables(running)]
    config_file = _config_file(running, words)
    config = _read_config(running, config_file)
    root = (
        _root_of_flags(running, words)
        or _root_of_variables(running)
        or _root_of_config(config, config_file)
        or _default(running)
    )
    return Storage(root, tuple(_drivers(running, words, config, config_file)), config_file)


def flag_values(words: Sequence[str], names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the values of flags with the words that say them: `--x V`, `--x=V`, `"--x V"`, `-gV`, `-g=V`.

    A word is no flag where the flag before takes it for its value, as in `--data-root --storage-driver=vfs`.
    """
    takes_next = False
    for index, word in enumerate(words):
        is_value, takes_next = takes_next, not takes_next and word in _FLAGS_WITH_VALUE
        if is_value or not word.startswith(names):
            continue
        for name in names:
            if word == name:
                if index + 1 < len(words):
                    yield str(words[index + 1]), (word, words[index + 1])
            elif word.startswith(name) and (word[len(name)] in "= \t" or len(name) == 2):
                yield word[len(name) :].lstrip(" \t").removeprefix("=").strip(), (word,)


def _words_of_variables(running: Running) -> list[str]:
    name = basename(running.words[0]) if running.words else ""
    for variable, programs in _FLAG_VARIABLES.items():
        if name in programs and variable in running.variables:
            return _split(running.variables[variable])
    return []


def _split(value: str) -> list[str]:
    try:
        return shlex.split(value[:_LARGEST_FILE])
    except ValueError:
        return value[:_LARGEST_FILE].split()


def _root_of_flags(running: Running, words: Sequence[str]) -> NamedRoot | None:
    found = list(flag_values(words, _ROOT_FLAGS.get(running.program, ("--root",))))
    if not found:
        return None
    value, said = found[-1]
    flag = said[0].split("=")[0].split(" ")[0]
    one_word = said[0] if len(said) == 1 and " " in said[0].partition("=")[0] else ""
    is_long = flag.startswith("--")
    # In `-g /x` as one word, the value of -g begins with the space, so it is no absolute path. There is no flag
    # `--data-root /x` at all: dockerd refuses it, and its path is only for telling what was meant.
    path = _path(value) if is_long or not one_word else ""
    return NamedRoot(path, f"`{flag if is_long else flag[:2]}`", by_flag=True, one_word=str(one_word))


def _path(value: str) -> str:
    """Return a clean path; empty if the value is none, or has a variable whose value isn't known."""
    if not value.startswith("/") or "$" in value or len(value) > 4096 or "\0" in value:
        return ""
    return clean_path(value)


def _root_of_variables(running: Running) -> NamedRoot | None:
    names = {Program.DOCKERD: "PLUGIN_STORAGE_PATH", Program.EARTHLY: "EARTHLY_TMP_DIR"}
    name = names.get(running.program, "")
    value = running.variables.get(name, "")
    if not value or (running.program is Program.DOCKERD and not running.known.unless):
        return None
    return NamedRoot(_path(value), name)


def _config_file(running: Running, words: Sequence[str]) -> str:
    named = [value for value, _ in flag_values(words, _CONFIG_FLAGS.get(running.program, ("--config",)))]
    if named:
        return _path(named[-1])
    if running.rootless and running.program is Program.DOCKERD:
        home = running.variables.get("XDG_CONFIG_HOME") or f"{_home(running)}/.config"
        return _path(f"{home}/docker/daemon.json")
    return _CONFIG_FILES[running.program]


def _read_config(running: Running, path: str) -> Mapping[str, Any]:
    content = running.read_file(path) if path else None
    if content is None or len(content) > _LARGEST_FILE:
        return {}
    try:
        return mapping(json.loads(content) if path.endswith("json") else tomllib.loads(content))
    except (ValueError, RecursionError):
        return {}


def _root_of_config(config: Mapping[str, Any], path: str) -> NamedRoot | None:
    for key in ("data-root", "graph") if path.endswith("json") else ("root",):
        value = text(config.get(key))
        if value:
            return NamedRoot(_path(value), f"`{key}` of {path}")
    return None


def _home(running: Running) -> str:
    return running.variables.get("HOME") or running.known.home or _HOMES.get(running.program, "/root")


def _default(running: Running) -> NamedRoot:
    known = running.known
    if known.root and known.program is running.program:
        return NamedRoot(known.root, "the image's own default")
    if running.rootless and running.program in _BELOW_HOME:
        data = running.variables.get("XDG_DATA_HOME") or f"{_home(running)}/.local/share"
        said = "the default without root"
        return NamedRoot(_path(f"{data}/{_BELOW_HOME[running.program]}"), said)
    return NamedRoot(DEFAULT_ROOTS[running.program], f"{running.program}'s default")


def _drivers(running: Running, words: Sequence[str], config: Mapping[str, Any], config_file: str) -> Iterator[Driver]:
    variables = running.variables
    if running.program is Program.DOCKERD:
        # It beats the flag (moby, daemon/image_store_choice.go), and the plugins make the flag of theirs.
        if variables.get("DOCKER_DRIVER"):
            yield Driver(variables["DOCKER_DRIVER"], variable="DOCKER_DRIVER")
        if running.known.unless and variables.get("PLUGIN_STORAGE_DRIVER"):
            yield Driver(variables["PLUGIN_STORAGE_DRIVER"], variable="PLUGIN_STORAGE_DRIVER")
    for value, said in flag_values(words, _DRIVER_FLAGS.get(running.program, ())):
        if value:
            yield Driver(value, words=said)
    driver = text(config.get("storage-driver"))
    if running.program is not Program.DOCKERD:
        worker = mapping(config.get("worker"))
        driver = text(mapping(worker.get("oci")).get("snapshotter"))
    if driver:
        yield Driver(driver, in_file=config_file)
