"""From the words of a container to the program that they run: Kubernetes' `$(VAR)`, and wrappers such as tini or sudo.

Shell text is read by `scripts`, and what a program does with its words is known by `launches`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

LONGEST_WORD = 131_072
"""Linux' MAX_ARG_STRLEN, in bytes: no program can be started with a longer word."""

SHELLS = frozenset(("sh", "bash", "ash", "dash", "zsh", "ksh", "mksh"))

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


FROM_SCRIPT = -1
FROM_IMAGE = -2


class Word(str):
    """A word that remembers where in a container's command and arguments it stands."""

    __slots__ = ("place",)

    place: int
    """Its place among the words of the container; FROM_SCRIPT or FROM_IMAGE if it isn't there."""

    def __new__(cls, value: str, place: int) -> Self:
        """Make a word of a string and its place."""
        word = super().__new__(cls, value)
        word.place = place
        return word


def place_of(word: str) -> int:
    """Return the place of a word among the container's; FROM_SCRIPT or FROM_IMAGE for a word that isn't there."""
    return word.place if isinstance(word, Word) else FROM_SCRIPT


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does in command, args and env; what isn't defined stays, and `$$` is a `$`.

    It ends where no program could be started with the result.

    Source: k8s.io/kubernetes, third_party/forked/golang/expansion.
    """
    if "$" not in text:
        return text
    done: list[str] = []
    at = length = 0
    while (dollar := text.find("$", at)) >= 0 and dollar + 1 < len(text):
        if length > LONGEST_WORD:
            return "".join(done)[:LONGEST_WORD]
        done.append(text[at:dollar])
        follower = text[dollar + 1]
        if follower == "$":
            done.append("$")
            at = dollar + 2
        elif follower == "(":
            close = text.find(")", dollar + 2)
            if close < 0:
                # Nothing after it can be closed, but a `$$` is still one `$`.
                return "".join(done) + text[dollar:].replace("$$", "$")
            name = text[dollar + 2 : close]
            done.append(variables.get(name, text[dollar : close + 1]))
            length += len(done[-1])
            at = close + 1
        else:
            done.append(text[dollar : dollar + 2])
            at = dollar + 2
    done.append(text[at:])
    return "".join(done)


def names(text: str) -> frozenset[str]:
    """Return the names of a table, which stand in a text with blanks between them."""
    return frozenset(text.split())


def basename(word: str) -> str:
    """Return the last component of a program's path."""
    return word.rpartition("/")[2]


@dataclass(slots=True)
class Unwrapped:
    """The program behind wrappers."""

    words: Sequence[str]
    """From the program's name on; empty if there is none."""
    variables: Mapping[str, str]
    """What `env A=B` and its kin add to its environment."""
    rootless: bool = False
    """It runs in a user namespace that rootlesskit makes."""


def unwrap(words: Sequence[str], is_starter: Callable[[str], bool]) -> Unwrapped:
    """Take the wrappers off a command: `env -u X tini -- nohup dockerd --debug` runs `dockerd --debug`.

    `is_starter` tells whether a name is that of a program with a data root; it finds the program behind wrappers
    whose options aren't known.
    """
    variables: dict[str, str] = {}
    rootless = False
    at = 0
    # Each round moves on by a word at least, so there are no more rounds than words.
    while at < len(words):
        word = words[at]
        if _ASSIGNMENT.match(word):
            name, _, value = word.partition("=")
            variables[name.rstrip("+")] = value
            at += 1
            continue
        name = basename(word)
        if name == "rootlesskit":
            rootless = True
        after = _behind(name, words, at, is_starter)
        if after is None:
            break
        at = after
    return Unwrapped(words[at:], variables, rootless)


@dataclass(frozen=True, slots=True)
class _Options:
    """How a wrapper reads its words."""

    with_value: frozenset[str] = frozenset()
    """Options whose value is the next word."""
    operands: int = 0
    """How many words stand before the program."""
    stop: frozenset[str] = frozenset()
    """Options with which it runs no program."""


def _options(with_value: str = "", operands: int = 0, stop: str = "") -> _Options:
    return _Options(frozenset(with_value.split()), operands, frozenset(stop.split()))


_WRAPPERS: dict[str, _Options] = {
    "exec": _options("-a"),
    "command": _options(stop="-v -V"),
    "builtin": _options(),
    "nohup": _options(),
    "setsid": _options(),
    "busybox": _options(),
    "sudo": _options("-u -g -h -p -C -r -t -T -U -D -R --user --group --host --prompt --chdir", stop="-v -l -k -V"),
    "doas": _options("-u -C"),
    "env": _options("-u --unset -C --chdir"),
    "nice": _options("-n --adjustment"),
    "ionice": _options("-c -n -p --class --classdata", stop="-p"),
    "time": _options("-f -o"),
    "timeout": _options("-s -k --signal --kill-after", operands=1),
    "chrt": _options("-T -P -D", operands=1),
    "taskset": _options(operands=1),
    "flock": _options("-w -E --timeout --conflict-exit-code", operands=1),
    "stdbuf": _options("-i -o -e --input --output --error"),
    "setpriv": _options("--reuid --regid --groups --inh-caps --bounding-set --ambient-caps --pdeathsig"),
    "unshare": _options("-S -G -R -w --setuid --setgid --root --wd"),
    "prlimit": _options(),
    "su-exec": _options(operands=1),
    "gosu": _options(operands=1),
    "setuidgid": _options(operands=1),
    "s6-setuidgid": _options(operands=1),
    "setuser": _options(operands=1),
    "chpst": _options("-u -U -b -e -/ -n -l -L -m -d -o -p -f -c -r -t"),
    "runuser": _options("-u -g -G --user --group", stop="-c -l --command --login -"),
    "tini": _options("-p -e"),
    "tini-static": _options("-p -e"),
    "docker-init": _options("-p -e"),
    "catatonit": _options(),
    "dumb-init": _options("-r --rewrite"),
    "pid1": _options(),
    "with-contenv": _options(),
    "vault-env": _options(),
    "dind": _options(),
    "cgexec": _options("-g"),
    "nsjail": _options(stop="-"),
}


def _behind(name: str, words: Sequence[str], at: int, is_starter: Callable[[str], bool]) -> int | None:
    """Return where the program stands that the wrapper at `at` runs; None if it is no wrapper."""
    options = _WRAPPERS.get(name)
    if options is not None:
        return _after_options(words, at + 1, options)
    if name == "init" and words[at] == "/init" and at + 1 < len(words):  # s6-overlay's
        return at + 1
    if name == "argoexec" or (name == "entrypoint" and "tekton" in words[at]):
        return _after_dashes(name, words, at)
    if name == "start-stop-daemon":
        return _value_of(words, at, ("--exec", "-x", "--startas", "-a"))
    if name in ("rootlesskit", "rootlesskit-docker-proxy"):
        return _next_starter(words, at + 1, is_starter)
    return None


def _after_options(words: Sequence[str], at: int, options: _Options) -> int | None:
    operands = options.operands
    while at < len(words):
        word = words[at]
        if word in options.stop:
            return None
        if word == "--":
            at += 1
            break
        if word in options.with_value:
            at += 2
        elif word.startswith("-") and len(word) > 1:
            at += 1
        else:
            break
    return at + operands


def _after_dashes(name: str, words: Sequence[str], at: int) -> int | None:
    if name == "entrypoint":
        # Tekton's takes the program by `-entrypoint`, and its arguments after the dashes: the place of the program's
        # name has to do, as its arguments follow before anything else of interest.
        found = _value_of(words, at, ("-entrypoint", "--entrypoint"))
        if found is not None:
            return found
    for index in range(at + 1, len(words)):
        if words[index] == "--":
            return index + 1
    return None


def _value_of(words: Sequence[str], at: int, names: tuple[str, ...]) -> int | None:
    for index in range(at + 1, len(words) - 1):
        if words[index] in names:
            return index + 1
    return None


def _next_starter(words: Sequence[str], at: int, is_starter: Callable[[str], bool]) -> int | None:
    for index in range(at, len(words)):
        if is_starter(basename(words[index])):
            return index
    return None


@dataclass(frozen=True, slots=True)
class ShellCall:
    """What a shell is told to run."""

    text: str | None
    """The script itself (`-c`), which is a Word if it stands among the container's words."""
    file: str | None
    positional: Sequence[str]
    """`$0`, `$1` and so on."""


def read_shell_call(words: Sequence[str]) -> ShellCall:
    """Read the words of a shell: `bash -euo pipefail -c 'TEXT' NAME ARG`, or `sh -x FILE ARG`."""
    at = 1
    has_command = False
    while at < len(words):
        word = words[at]
        if word in ("--", "-"):
            at += 1
            break
        if word.startswith("--"):
            at += 2 if word in ("--rcfile", "--init-file") else 1
        elif word.startswith(("-", "+")) and len(word) > 1:
            has_command = has_command or (word[0] == "-" and "c" in word)
            at += 2 if word[-1] in "oO" else 1
        else:
            break
    rest = words[at:]
    if has_command:
        return ShellCall(rest[0] if rest else None, None, rest[1:])
    return ShellCall(None, rest[0] if rest else None, rest)
