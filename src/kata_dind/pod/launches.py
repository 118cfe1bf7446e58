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
from kata_dind.pod.model import Program
from kata_dind.pod.scripts import LONGEST_SCRIPT, Command, expanded, expanded_text, parse_script


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


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


@dataclass(frozen=True, slots=True)
class HandMount:
    """A mount that a script makes."""

    target: str
    is_memory: bool
    source: str
    unless_mounted: bool = False
    """The script asks first whether something is mounted there."""
    is_fit: bool = True
    """A data root can be on it: no bind mount of something unknown, no network file system."""


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
class Launch:
    """What was found."""

    starts: list[Start] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Scripts that are called, and can't be read."""
    other_runtime: str = ""
    program: str = ""
    """The name of the first program that is run."""
    mounts: list[HandMount] = field(default_factory=list)
    formats: bool = False
    """A file system is made."""
    is_wrapped: bool = False
    """The guest entrypoint of kata-dind is in it already."""


def read_launch(words: Sequence[str], variables: Mapping[str, str], find_file: FindFile) -> Launch:
    """Follow a container's words to what they start."""
    reader = _Reader(find_file)
    reader.run(list(words), dict(variables), positional=(), depth=0, script="")
    return reader.launch


# ---- The programs, by name.


@dataclass(frozen=True, slots=True)
class _Starter:
    program: Program
    weight: int = 3
    said: str = ""
    rootless: bool = False
    has_containerd: bool = False


_DOCKERD = _Starter(Program.DOCKERD)
_BUILDKITD = _Starter(Program.BUILDKITD)
_STARTERS: dict[str, _Starter] = {
    "dockerd": _DOCKERD,
    "dockerd-ce": _DOCKERD,
    "dockerd-entrypoint.sh": _Starter(Program.DOCKERD, 1),
    "dockerd-rootless.sh": _Starter(Program.DOCKERD, rootless=True),
    "wrapdocker": _DOCKERD,
    "wrapdocker.sh": _DOCKERD,
    "docker-init.sh": _Starter(Program.DOCKERD, has_containerd=True),
    "start-docker.sh": _Starter(Program.DOCKERD, 2),
    "start-dockerd.sh": _Starter(Program.DOCKERD, 2),
    "startdocker.sh": _Starter(Program.DOCKERD, 2),
    "dockerd-start.sh": _Starter(Program.DOCKERD, 2),
    "entrypoint-dind.sh": _DOCKERD,
    "entrypoint-dind-rootless.sh": _Starter(Program.DOCKERD, rootless=True),
    "drone-docker": _DOCKERD,
    "drone-ecr": _DOCKERD,
    "drone-gcr": _DOCKERD,
    "drone-acr": _DOCKERD,
    "drone-gar": _DOCKERD,
    "drone-heroku": _DOCKERD,
    "drone-buildx": _DOCKERD,
    "drone-docker-buildx": _DOCKERD,
    "plugin-docker-buildx": _DOCKERD,
    "buildkitd": _BUILDKITD,
    "buildkitd-entrypoint": _BUILDKITD,
    "buildctl-daemonless.sh": _BUILDKITD,
    "containerd": _Starter(Program.CONTAINERD),
    "containerd-rootless.sh": _Starter(Program.CONTAINERD, rootless=True),
    "dagger-engine": _Starter(Program.DAGGER),
    "dagger-entrypoint.sh": _Starter(Program.DAGGER),
    "earthly-entrypoint.sh": _Starter(Program.EARTHLY),
    "earthly-buildkitd-wrapper.sh": _Starter(Program.EARTHLY),
}
_ENTRYPOINTS = ("dockerd-entrypoint.sh", "docker-init.sh", "dagger-entrypoint.sh")
# With these the programs above print something and end.
_QUERIES = frozenset(("--version", "-v", "-V", "--help", "-h", "--validate", "help", "version"))
_CONTAINERD_COMMANDS = frozenset(("config", "publish", "oci-hook", "help", "h", "--version", "-v", "--help", "-h"))

_SERVICES = frozenset(("docker", "dockerd", "docker.service", "dockerd.service", "docker-ce"))
_SERVICE_VERBS = frozenset(("start", "restart", "force-reload", "reload-or-restart", "onestart"))
_INITS = frozenset(("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/systemd"))

_OTHER_RUNTIMES = {"podman": "Podman", "buildah": "Buildah", "k3s": "k3s", "k0s": "k0s", "rke2": "RKE2"}
_OTHER_RUNTIMES |= {"crio": "CRI-O", "minikube": "minikube", "kind": "kind", "k3d": "k3s"}

_SYSTEM_DIRECTORIES = ("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/")
_UNMOUNTABLE = _names(
    "overlay 9p virtiofs nfs nfs4 cifs fuse proc sysfs cgroup cgroup2 devpts securityfs bpf devtmpfs debugfs "
    "tracefs mqueue hugetlbfs fuse.sshfs fuse.gcsfuse fuse-overlayfs"
)
_PATHS = re.compile(r"/[\w./-]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=(.*)", re.S)


def is_starter(name: str) -> bool:
    """Tell whether a program of this name starts one with a data root, or is a shell, which may."""
    return name in _STARTERS or name in SHELLS


class _Reader:
    """Runs through commands as a shell would, without running any."""

    def __init__(self, find_file: FindFile) -> None:
        self.launch = Launch()
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
        if not self.launch.program:
            self.launch.program = name
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
        elif shell.file is not None and basename(shell.file) in _STARTERS and self._find_file(shell.file) is None:
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
        other = _OTHER_RUNTIMES.get(call.name)
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
            if _may_be_script(path):
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
            if rest and basename(rest[0]) in _STARTERS:
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
        elif call.name not in _SILENT:
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
        service = _service(call.name, words)
        if service is not None:
            self._found(call, service, f"`{service.said}` starts dockerd", weight=3)
            return True
        if call.name == "docker":
            if words[1:2] in (["daemon"], ["-d"]):
                self._found(call, _DOCKERD, "`docker daemon` starts dockerd", weight=3)
            return True
        if call.name == "envbox":
            if words[1:2] == ["docker"]:
                self._found(call, _DOCKERD, "`envbox docker` starts dockerd", weight=3)
            return True
        if words[0] in _INITS or call.name == "systemd":
            self._systemd(call)
            return True
        if call.name == "docker-entrypoint.sh":
            # Docker's, or that of any other image: it runs what it is given.
            if len(words) > 1 and words[1] not in _DOCKER_COMMANDS and not words[1].startswith("-"):
                self.run(words[1:], call.variables, positional=(), depth=call.depth + 1, script=call.script)
            return True
        starter = _STARTERS.get(call.name)
        if starter is None:
            return False
        if call.name in _ENTRYPOINTS:
            self._entrypoint(call, starter)
        elif starter.program is Program.CONTAINERD:
            if not _CONTAINERD_COMMANDS.intersection(words[1:2]):
                self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        elif not _QUERIES.intersection(words[1:]):
            if starter.program is Program.BUILDKITD and "EARTHLY_TMP_DIR" in call.variables:
                starter = _STARTERS["earthly-entrypoint.sh"]
            self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        return True

    def _entrypoint(self, call: _Call, starter: _Starter) -> None:
        """The scripts that start their daemon unless they are given something else to run."""
        words = call.unwrapped.words
        rest = words[1:]
        if call.name == "docker-init.sh" or not rest:
            self._found(call, starter, _runs(call, call.name), weight=starter.weight)
        elif rest[0].startswith("-") or basename(rest[0]) in ("dockerd", "dagger-engine"):
            if not _QUERIES.intersection(rest):
                weight = 3 if basename(rest[0]) == "dockerd" or flags_weight(rest) > 1 else starter.weight
                self._found(call, starter, _runs(call, call.name), weight=weight)
        elif not (starter.program is Program.DOCKERD and rest[0] in _DOCKER_COMMANDS):
            self.run(rest, call.variables, positional=(), depth=call.depth + 1, script=call.script)

    def _systemd(self, call: _Call) -> None:
        start = self._start(
            call, _Starter(Program.DOCKERD, has_containerd=True), f"{call.unwrapped.words[0]} is its init", 0
        )
        start.needs_image = True
        self.launch.starts.append(start)

    def _found(self, call: _Call, starter: _Starter, said: str, *, weight: int) -> None:
        start = self._start(call, starter, said, weight)
        self.launch.starts.append(start)

    def _start(self, call: _Call, starter: _Starter, said: str, weight: int) -> Start:
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
        if call.name.startswith(("mkfs", "mke2fs")):
            self.launch.formats = True
        elif call.name == "mount":
            mount = _read_mount(words, self.launch.mounts)
            if mount is not None:
                self.launch.mounts.append(replace(mount, unless_mounted=mount.target in self._asked))
        elif call.name in ("mountpoint", "findmnt"):
            self._asked.update(posixpath.normpath(word) for word in words[1:] if word.startswith("/"))
        elif call.name == "grep" and (any("/mount" in word for word in words) or call.is_piped):
            self._asked.update(found.rstrip("/") for word in words for found in _PATHS.findall(word[:4096]))
        elif call.name == "umount":
            self.launch.mounts = [mount for mount in self.launch.mounts if mount.target not in words]
        else:
            return False
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


# Commands that start nothing, whatever their words are.
_SILENT = _names(
    "echo printf cat grep egrep pgrep pkill pidof kill killall ps which type test [ [[ trap true false : sleep tail "
    "head until while read wait cd pwd exit return unset alias ls rm mkdir rmdir touch cp mv ln chmod chown sed awk "
    "cut tr sort uniq wc tee date hostname id whoami uname sysctl modprobe lsmod ip iptables iptables-legacy "
    "update-alternatives apk apt apt-get yum dnf curl wget tar git make kubectl helm ssh nsenter chroot docker-compose "
    " buildctl ctr nerdctl crictl jq yq python python3 node npm bash-completion unshare-off lsof mountpoint "
    "df du stat find xargs dd truncate fallocate losetup blkid sync pause crane skopeo umask ulimit command time "
    "hash set shopt"
)
_DOCKER_COMMANDS = _names(
    "attach build builder buildx commit compose container context cp create diff events exec export history image "
    "images import info inspect kill load login logout logs manifest network node pause plugin port ps pull push "
    "rename restart rm rmi run save search secret service stack start stats stop swarm system tag top trust unpause "
    "update version volume wait"
)


def _may_be_script(path: str) -> bool:
    """Tell whether a program may be a script of somebody's: not one of the system's."""
    if path.endswith(".sh"):
        return True
    return "/" in path and not (path.startswith(_SYSTEM_DIRECTORIES) and "." not in path)


def _runs(call: _Call, name: str) -> str:
    return f"{call.script} runs {name}" if call.script else f"its command runs {name}"


def _service(name: str, words: Sequence[str]) -> _Starter | None:
    """Tell whether the words ask a service manager for Docker; `said` has them in short."""
    rest = [word for word in words[1:] if not word.startswith("-")]
    verbs = _SERVICE_VERBS
    if name in ("service", "rc-service") and len(rest) > 1 and rest[0] in _SERVICES and rest[1] in verbs:
        return _Starter(Program.DOCKERD, said=f"{name} {rest[0]} {rest[1]}")
    asks = len(rest) > 1 and (rest[0] in verbs or (rest[0] == "enable" and "--now" in words))
    if name in ("systemctl", "supervisorctl") and asks and _SERVICES.intersection(rest[1:]):
        return _Starter(Program.DOCKERD, said=f"{name} {rest[0]} docker", has_containerd=name == "systemctl")
    if words[0] in ("/etc/init.d/docker", "/etc/rc.d/init.d/docker") and rest and rest[0] in verbs:
        return _Starter(Program.DOCKERD, said=f"{words[0]} {rest[0]}")
    return None


# Flags of dockerd's that no other program is known to have.
_OWN_FLAGS = _names(
    "--userland-proxy --default-address-pool --live-restore --userns-remap --default-ulimit --exec-root --exec-opt "
    "--max-concurrent-downloads --max-concurrent-uploads --max-download-attempts --default-runtime --add-runtime "
    "--init-path --allow-nondistributable-artifacts --default-shm-size --disable-legacy-registry --firewall-backend "
    "--network-control-plane-mtu --default-network-opt --ip6tables --icc --seccomp-profile"
)
# Those that a few have, such as kaniko and Podman.
_RARE_FLAGS = _names("--storage-driver --storage-opt --registry-mirror --insecure-registry --data-root --graph")
# Those that many have, such as Flannel and controllers, and so say nothing alone. Some are of Docker's client, too.
_COMMON_FLAGS = _names(
    "--mtu --iptables --ip-forward --ip-masq --bip --fixed-cidr --fixed-cidr-v6 --containerd --group --bridge "
    "--metrics-addr --cgroup-parent --shutdown-timeout --config-file --pidfile --oom-score-adjust --selinux-enabled "
    "--no-new-privileges --raw-logs --dns --dns-opt --dns-search --feature --experimental --log-driver --log-opt "
    "--ipv6 --label -g -s -G -b -p -H --host --tls --tlsverify --tlscacert --tlscert --tlskey -D --debug -l --log-level"
)
_DOCKERD_FLAGS = _OWN_FLAGS | _RARE_FLAGS | _COMMON_FLAGS


def flag_of(word: str) -> str:
    """Return the name of the flag in a word, without its value: `-H unix://x`, `--mtu=1450`, `-s=vfs`, `-svfs`."""
    if word.startswith("--"):
        return _FLAG_END.split(word, maxsplit=1)[0]
    return word[:2]


_FLAG_END = re.compile(r"[=\s]")


def flags_weight(words: Sequence[str]) -> int:
    """Return how much arguments look like those of a dockerd whose name isn't known; 0 without a flag of it first."""
    if not words or flag_of(words[0]) not in _DOCKERD_FLAGS:
        return 0
    flags = {flag_of(word) for word in words[:64] if word.startswith("-")} & _DOCKERD_FLAGS
    if flags & _OWN_FLAGS:
        return 3
    if flags & _RARE_FLAGS:
        return 3 if len(flags) > 1 else 2
    return 1


# ---- Mounts.


def _read_mount(words: Sequence[str], before: Sequence[HandMount]) -> HandMount | None:
    """Read `mount -o loop FILE DIR` and its kin; None for what gives a data root nothing."""
    kind, options, operands = "", "", []
    at = 1
    while at < len(words):
        word = words[at]
        if word in ("-t", "--types", "-o", "--options", "-L", "-U", "--source", "--target"):
            value = words[at + 1] if at + 1 < len(words) else ""
            if word in ("-t", "--types"):
                kind = value
            elif word in ("-o", "--options"):
                options += "," + value
            else:
                operands.append(value)
            at += 2
            continue
        if word.startswith("-t") and len(word) > 2:
            kind = word[2:]
        elif word.startswith("-o") and len(word) > 2:
            options += "," + word[2:]
        elif word.startswith("--make-"):
            return None
        elif word in ("--bind", "--rbind", "-B", "-R", "--move", "-M"):
            options += ",bind"
        elif not word.startswith("-"):
            operands.append(word)
        at += 1
    if len(operands) != 2 or not operands[1].startswith("/"):
        return None
    source, target = operands[0], posixpath.normpath(operands[1])
    if kind in _UNMOUNTABLE:
        return HandMount(target, False, source, is_fit=False)
    names = options.split(",")
    if "bind" in names or "rbind" in names:
        below = mount_over(posixpath.normpath(source), before) if source.startswith("/") else None
        return HandMount(
            target, below is not None and below.is_memory, source, is_fit=below is not None and below.is_fit
        )
    return HandMount(target, kind in ("tmpfs", "ramfs"), source)


def mount_over(path: str, mounts: Sequence[HandMount]) -> HandMount | None:
    """Return the mount that a path lies on, the last that covers it; one of all of `/` does not count."""
    for mount in reversed(mounts):
        if mount.target != "/" and (path == mount.target or path.startswith(mount.target + "/")):
            return mount
    return None


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
