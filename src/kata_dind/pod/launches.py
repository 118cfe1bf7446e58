"""What a command line starts: the program with a data root behind wrappers and in scripts, as far as words can tell.

`read_launch` follows a container's words through shells, functions, mounted scripts and files that they write. Nothing
is run, each branch counts as taken, and what isn't known is said so.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kata_dind.pod.argv import FROM_SCRIPT, SHELLS, Unwrapped, basename, place_of, read_shell_call, unwrap
from kata_dind.pod.flags import flags_weight
from kata_dind.pod.hand_mounts import HandMount, read_mount
from kata_dind.pod.model import Program
from kata_dind.pod.scripts import LONGEST_SCRIPT, Command, expanded, expanded_text, parse_script
from kata_dind.pod.starters import (
    CONTAINERD_COMMANDS,
    DOCKER_COMMANDS,
    DOCKERD,
    ENTRYPOINTS,
    INITS,
    OTHER_RUNTIMES,
    QUERIES,
    SILENT,
    STARTERS,
    Starter,
    is_starter,
    may_be_script,
    service_start,
)

_DEEPEST = 8
_MOST_COMMANDS = 10_000


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a file in the container."""

    text: str
    name: str
    """A phrase, as in `the script start.sh of the ConfigMap runner`."""


FindFile = Callable[[str], Script | None]
"""Returns what is known of the file at an absolute path, or of a program's name."""


# Frozen classes take three times as long to make; these live for one search.
@dataclass(slots=True)
class Start:
    """A program with a data root, where a command line starts it."""

    program: Program
    words: tuple[str, ...]
    """From its name on; a `Word` among them stands in the container's command or arguments."""
    weight: int
    """How sure the name makes it; see `images.CERTAIN`."""
    said: str
    variables: Mapping[str, str]
    """Its environment, as far as it is known."""
    in_script: bool = False
    rootless: bool = False
    has_containerd: bool = False
    """A containerd of its own stands beside it."""
    needs_image: bool = False
    """Only an image of that kind makes it a start: systemd runs anything."""
    mounts: tuple[HandMount, ...] = ()
    """What was mounted by hand before."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What was written to files before."""


@dataclass(slots=True)
class FoundLaunch:
    """What was found."""

    starts: list[Start] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Scripts that are called, and can't be read."""
    other_runtime: str = ""
    mounts: list[HandMount] = field(default_factory=list)
    is_wrapped: bool = False
    """The guest entrypoint of kata-dind is in it already."""


def read_launch(words: Sequence[str], variables: Mapping[str, str], find_file: FindFile) -> FoundLaunch:
    """Follow a container's words to what they start."""
    reader = _Reader(find_file)
    reader.run(list(words), dict(variables), positional=(), depth=0, script="")
    return reader.launch


_PATHS = re.compile(r"/[\w./-]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=(.*)", re.S)


class _Reader:
    """Runs through commands as a shell would, without running any."""

    def __init__(self, find_file: FindFile) -> None:
        self.launch = FoundLaunch()
        self._find_file = find_file
        self._files: dict[str, str] = {}
        self._functions: dict[str, list[Command]] = {}
        self._asked: set[str] = set()
        """Where the script has looked for a mount."""
        self._commands = 0
        self._called: set[tuple[str, str]] = set()

    # -- One command.

    def run(
        self,
        words: Sequence[str],
        variables: dict[str, str],
        *,
        positional: Sequence[str],
        depth: int,
        script: str,
        command: Command | None = None,
    ) -> None:
        """Follow one command. `script` names the text that it stands in; empty for the container's own words."""
        self._commands += 1
        if self._commands > _MOST_COMMANDS or depth > _DEEPEST:
            return
        unwrapped = unwrap(words, is_starter)
        if not unwrapped.words:
            variables.update(unwrapped.variables)
            return
        name = basename(unwrapped.words[0])
        call = _Call(unwrapped, name, variables, positional, depth, script, command)
        if name in self._functions:
            self._call_function(call)
        elif name in SHELLS:
            self._shell(call)
        elif "kata-dind" in unwrapped.words[0].split("/") or name.startswith("kata-dind-entrypoint"):
            self._wrapped(call, unwrapped.words[1:], {**variables, **unwrapped.variables})
        elif not (self._mounts(call) or self._builtin(call) or self._starts(call)):
            self._script_file(call)

    def _shell(self, call: _Call) -> None:
        shell = read_shell_call(call.unwrapped.words)
        environment = {**call.variables, **call.unwrapped.variables}
        if shell.text is not None:
            if shell.positional and shell.positional[0] == "kata-dind":
                self._wrapped(call, shell.positional[1:], environment)
                return
            self._text(shell.text, environment, shell.positional, call.depth, call.script or "its command")
        elif shell.file is not None and "kata-dind" in shell.file.split("/"):
            self._wrapped(call, shell.positional[1:], environment)
        elif shell.file is not None and basename(shell.file) in STARTERS and self._find_file(shell.file) is None:
            self.run(shell.positional, environment, positional=(), depth=call.depth + 1, script=call.script)
        elif shell.file is not None:
            self._file(shell.file, environment, shell.positional, call)
        elif call.command is not None and call.command.stdin is not None:
            self._text(call.command.stdin, environment, (), call.depth, call.script)

    def _wrapped(self, call: _Call, words: Sequence[str], environment: dict[str, str]) -> None:
        self.launch.is_wrapped = True
        rest = words[1:] if words and words[0] == "--" else words
        self.run(rest, environment, positional=(), depth=call.depth + 1, script=call.script)

    def _text(self, text: str, variables: dict[str, str], positional: Sequence[str], depth: int, script: str) -> None:
        if len(text) > LONGEST_SCRIPT:
            self.launch.unknown.append(script)
            return
        parsed = parse_script(text)
        self._functions.update(parsed.functions)
        self._commands_of(parsed.main, variables, list(positional), depth + 1, script)

    def _commands_of(
        self,
        commands: Sequence[Command],
        variables: dict[str, str],
        positional: list[str],
        depth: int,
        script: str,
    ) -> None:
        before: Command | None = None
        for command in commands[: max(0, _MOST_COMMANDS - self._commands)]:
            words = expanded(command.words, variables, positional)
            self._note_writes(command, words, before, variables, positional)
            fed = command
            if command.is_piped and command.stdin is None and before is not None:
                fed = Command(command.words, command.writes, _output_of(before, variables, positional), True)
            before = fed
            if words[:1] == ["set"]:
                if "--" in words:
                    positional[:] = [*(positional[:1] or ["sh"]), *words[words.index("--") + 1 :]]
                continue
            if words[:1] == ["shift"]:
                del positional[1:2]
                continue
            self.run(
                words,
                variables,
                positional=positional,
                depth=depth,
                script=script,
                command=fed,
            )

    def _call_function(self, call: _Call) -> None:
        key = (call.script, call.name)
        if key in self._called:
            return
        self._called.add(key)
        arguments = [call.name, *call.unwrapped.words[1:]]
        self._commands_of(self._functions[call.name], call.variables, arguments, call.depth + 1, call.script)

    def _script_file(self, call: _Call) -> None:
        """A program that isn't known: read it if it is a script that is in reach."""
        words = call.unwrapped.words
        other = OTHER_RUNTIMES.get(call.name)
        if other and (
            call.name not in ("kind", "k3d", "minikube") or words[1:2] in (["create"], ["start"], ["cluster"])
        ):
            self.launch.other_runtime = self.launch.other_runtime or other
            return
        environment = {**call.variables, **call.unwrapped.variables}
        self._file(words[0], environment, words, call)

    def _file(self, path: str, variables: dict[str, str], positional: Sequence[str], call: _Call) -> None:
        written = self._files.get(path)
        found = Script(written, call.script or "its command") if written is not None else self._find_file(path)
        if found is None:
            if may_be_script(path):
                self.launch.unknown.append(basename(path))
                self._behind_dashes(call, variables)
            return
        key = (path, found.name)
        if key in self._called:
            return
        self._called.add(key)
        first_line = found.text[:200].partition("\n")[0]
        if first_line.startswith("#!") and not any(shell in first_line for shell in SHELLS):
            self.launch.unknown.append(basename(path))
            return
        self._text(found.text, variables, list(positional), call.depth, found.name)

    def _behind_dashes(self, call: _Call, variables: dict[str, str]) -> None:
        """A wrapper that nobody knows: what follows its `--` counts if it is a program of ours."""
        words = call.unwrapped.words
        if "--" in words[1:]:
            rest = words[list(words).index("--", 1) + 1 :]
            if rest and basename(rest[0]) in STARTERS:
                self.run(rest, variables, positional=(), depth=call.depth + 1, script=call.script)

    # -- The shell's own commands.

    def _builtin(self, call: _Call) -> bool:
        words = call.unwrapped.words
        if call.name in ("export", "declare", "local", "readonly", "typeset"):
            for word in words[1:]:
                found = _ASSIGNMENT.match(word)
                if found:
                    call.variables[found[1]] = found[3]
        elif call.name == "for" and len(words) > 3:
            call.variables[words[1]] = words[3]
        elif call.name == "eval":
            self._text(" ".join(words[1:]), call.variables, call.positional, call.depth, call.script)
        elif call.name in (".", "source") and len(words) > 1:
            self._file(words[1], call.variables, list(words[1:]), call)
        elif call.name in ("su", "runuser") and call.unwrapped.words:
            self._su(call)
        elif call.name not in SILENT:
            return False
        return True

    def _su(self, call: _Call) -> None:
        words = list(call.unwrapped.words)
        for option in ("-c", "--command"):
            if option in words[:-1]:
                text = words[words.index(option) + 1]
                self._text(text, dict(call.variables), (), call.depth, call.script or "its command")
                return

    # -- Programs with a data root.

    def _starts(self, call: _Call) -> bool:
        words = call.unwrapped.words
        service = service_start(call.name, words)
        if service is not None:
            self._found(call, service, f"`{service.said}` starts dockerd", weight=3)
            return True
        if call.name == "docker":
            if words[1:2] in (["daemon"], ["-d"]):
                self._found(call, DOCKERD, "`docker daemon` starts dockerd", weight=3)
            return True
        if call.name == "envbox":
            if words[1:2] == ["docker"]:
                self._found(call, DOCKERD, "`envbox docker` starts dockerd", weight=3)
            return True
        if words[0] in INITS or call.name == "systemd":
            self._systemd(call)
            return True
        if call.name == "docker-entrypoint.sh":
            # Docker's, or that of any other image: it runs what it is given.
            if len(words) > 1 and words[1] not in DOCKER_COMMANDS and not words[1].startswith("-"):
                self.run(words[1:], call.variables, positional=(), depth=call.depth + 1, script=call.script)
            return True
        starter = STARTERS.get(call.name)
        if starter is None:
            return False
        if call.name in ENTRYPOINTS:
            self._entrypoint(call, starter)
        elif starter.program is Program.CONTAINERD:
            if not CONTAINERD_COMMANDS.intersection(words[1:2]):
                self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        elif not QUERIES.intersection(words[1:]):
            if starter.program is Program.BUILDKITD and "EARTHLY_TMP_DIR" in call.variables:
                starter = STARTERS["earthly-entrypoint.sh"]
            self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        return True

    def _entrypoint(self, call: _Call, starter: Starter) -> None:
        """The scripts that start their daemon unless they are given something else to run."""
        words = call.unwrapped.words
        rest = words[1:]
        if call.name == "docker-init.sh" or not rest:
            self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        elif rest[0].startswith("-") or basename(rest[0]) in ("dockerd", "dagger-engine"):
            if not QUERIES.intersection(rest):
                weight = 3 if basename(rest[0]) == "dockerd" or flags_weight(rest) > 1 else starter.weight
                self._found(call, starter, _runs(call, call.name), weight=weight)
        elif not (starter.program is Program.DOCKERD and rest[0] in DOCKER_COMMANDS):
            self.run(rest, call.variables, positional=(), depth=call.depth + 1, script=call.script)

    def _systemd(self, call: _Call) -> None:
        start = self._start(
            call, Starter(Program.DOCKERD, has_containerd=True), f"{call.unwrapped.words[0]} is its init", 0
        )
        start.needs_image = True
        self.launch.starts.append(start)

    def _found(self, call: _Call, starter: Starter, said: str, *, weight: int) -> None:
        start = self._start(call, starter, said, weight)
        self.launch.starts.append(start)

    def _start(self, call: _Call, starter: Starter, said: str, weight: int) -> Start:
        unwrapped = call.unwrapped
        return Start(
            starter.program,
            tuple(unwrapped.words),
            weight,
            said,
            {**call.variables, **unwrapped.variables},
            in_script=place_of(unwrapped.words[0]) == FROM_SCRIPT,
            rootless=unwrapped.rootless or starter.rootless,
            has_containerd=starter.has_containerd,
            mounts=tuple(self.launch.mounts),
            files=dict(self._files),
        )

    # -- Disks that are made by hand.

    def _mounts(self, call: _Call) -> bool:
        words = call.unwrapped.words
        if call.name == "mount":
            mount = read_mount(words, self.launch.mounts)
            if mount is not None:
                self.launch.mounts.append(replace(mount, unless_mounted=mount.target in self._asked))
        elif call.name in ("mountpoint", "findmnt"):
            self._asked.update(posixpath.normpath(word) for word in words[1:] if word.startswith("/"))
        elif call.name == "grep" and (any("/mount" in word for word in words) or call.is_piped):
            self._asked.update(found.rstrip("/") for word in words for found in _PATHS.findall(word[:4096]))
        elif call.name == "umount":
            self.launch.mounts = [mount for mount in self.launch.mounts if mount.target not in words]
        else:
            return call.name.startswith(("mkfs", "mke2fs"))
        return True

    def _note_writes(
        self,
        command: Command,
        words: Sequence[str],
        before: Command | None,
        variables: Mapping[str, str],
        positional: Sequence[str],
    ) -> None:
        """Keep what a script writes into a file, since it may be run, or be a daemon.json."""
        if not words:
            return
        bare = unwrap(words, is_starter).words
        program = basename(bare[0]) if bare else ""
        if command.writes and program in ("cat", "echo", "printf"):
            path = expanded_text(command.writes, variables, positional)
            self._files[path] = _output_of(command, variables, positional)
        elif program == "tee" and (command.stdin is not None or (command.is_piped and before is not None)):
            text = command.stdin if command.stdin is not None else ""
            if command.stdin is None and before is not None:
                text = _output_of(before, variables, positional)
            for path in bare[1:]:
                if not path.startswith("-"):
                    self._files[path] = expanded_text(text, variables, positional)


@dataclass(slots=True)
class _Call:
    """A command on its way through the reader."""

    unwrapped: Unwrapped
    name: str
    variables: dict[str, str]
    positional: Sequence[str]
    depth: int
    script: str
    command: Command | None

    @property
    def is_piped(self) -> bool:
        """Its input is another command's output."""
        return self.command is not None and self.command.is_piped


def _runs(call: _Call, name: str) -> str:
    return f"{call.script} runs {name}" if call.script else f"its command runs {name}"


def _output_of(command: Command, variables: Mapping[str, str], positional: Sequence[str]) -> str:
    """Return what `cat`, `echo` or `printf` write."""
    if command.stdin is not None:
        return expanded_text(command.stdin, variables, positional)
    words = expanded(command.words, variables, positional)
    rest = [word for word in words[1:] if word not in ("-e", "-n", "-en")]
    if words and basename(words[0]) == "printf" and len(rest) > 1 and "%s" in rest[0]:
        rest = rest[1:]
    text = " ".join(rest)
    return text.replace("\\n", "\n")
