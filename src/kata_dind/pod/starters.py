"""Programs by their names: those that start one with a data root, and those that start nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kata_dind.pod.argv import SHELLS, names
from kata_dind.pod.model import Program


@dataclass(frozen=True, slots=True)
class Starter:
    """What a program starts that has this name."""

    program: Program
    weight: int = 3
    """How sure the name makes it; see `images.CERTAIN`."""
    said: str = ""
    rootless: bool = False
    has_containerd: bool = False


DOCKERD = Starter(Program.DOCKERD)
_BUILDKITD = Starter(Program.BUILDKITD)
STARTERS: dict[str, Starter] = {
    "dockerd": DOCKERD,
    "dockerd-ce": DOCKERD,
    "dockerd-entrypoint.sh": Starter(Program.DOCKERD, 1),
    "dockerd-rootless.sh": Starter(Program.DOCKERD, rootless=True),
    "wrapdocker": DOCKERD,
    "wrapdocker.sh": DOCKERD,
    "docker-init.sh": Starter(Program.DOCKERD, has_containerd=True),
    "start-docker.sh": Starter(Program.DOCKERD, 2),
    "start-dockerd.sh": Starter(Program.DOCKERD, 2),
    "startdocker.sh": Starter(Program.DOCKERD, 2),
    "dockerd-start.sh": Starter(Program.DOCKERD, 2),
    "entrypoint-dind.sh": DOCKERD,
    "entrypoint-dind-rootless.sh": Starter(Program.DOCKERD, rootless=True),
    "drone-docker": DOCKERD,
    "drone-ecr": DOCKERD,
    "drone-gcr": DOCKERD,
    "drone-acr": DOCKERD,
    "drone-gar": DOCKERD,
    "drone-heroku": DOCKERD,
    "drone-buildx": DOCKERD,
    "drone-docker-buildx": DOCKERD,
    "plugin-docker-buildx": DOCKERD,
    "buildkitd": _BUILDKITD,
    "buildkitd-entrypoint": _BUILDKITD,
    "buildctl-daemonless.sh": _BUILDKITD,
    "containerd": Starter(Program.CONTAINERD),
    "containerd-rootless.sh": Starter(Program.CONTAINERD, rootless=True),
    "dagger-engine": Starter(Program.DAGGER),
    "dagger-entrypoint.sh": Starter(Program.DAGGER),
    "earthly-entrypoint.sh": Starter(Program.EARTHLY),
    "earthly-buildkitd-wrapper.sh": Starter(Program.EARTHLY),
}
ENTRYPOINTS = ("dockerd-entrypoint.sh", "docker-init.sh", "dagger-entrypoint.sh")
# With these the programs above print something and end.
QUERIES = frozenset(("--version", "-v", "-V", "--help", "-h", "--validate", "help", "version"))
CONTAINERD_COMMANDS = frozenset(("config", "publish", "oci-hook", "help", "h", "--version", "-v", "--help", "-h"))

_SERVICES = frozenset(("docker", "dockerd", "docker.service", "dockerd.service", "docker-ce"))
_SERVICE_VERBS = frozenset(("start", "restart", "force-reload", "reload-or-restart", "onestart"))
INITS = frozenset(("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/systemd"))

OTHER_RUNTIMES = {"podman": "Podman", "buildah": "Buildah", "k3s": "k3s", "k0s": "k0s", "rke2": "RKE2"}
OTHER_RUNTIMES |= {"crio": "CRI-O", "minikube": "minikube", "kind": "kind", "k3d": "k3s"}

# Commands that start nothing, whatever their words are.
SILENT = names(
    "echo printf cat grep egrep pgrep pkill pidof kill killall ps which type test [ [[ trap true false : sleep tail "
    "head until while read wait cd pwd exit return unset alias ls rm mkdir rmdir touch cp mv ln chmod chown sed awk "
    "cut tr sort uniq wc tee date hostname id whoami uname sysctl modprobe lsmod ip iptables iptables-legacy "
    "update-alternatives apk apt apt-get yum dnf curl wget tar git make kubectl helm ssh nsenter chroot docker-compose "
    "buildctl ctr nerdctl crictl jq yq python python3 node npm bash-completion unshare-off lsof mountpoint "
    "df du stat find xargs dd truncate fallocate losetup blkid sync pause crane skopeo umask ulimit command time "
    "hash set shopt"
)
DOCKER_COMMANDS = names(
    "attach build builder buildx commit compose container context cp create diff events exec export history image "
    "images import info inspect kill load login logout logs manifest network node pause plugin port ps pull push "
    "rename restart rm rmi run save search secret service stack start stats stop swarm system tag top trust unpause "
    "update version volume wait"
)

_SYSTEM_DIRECTORIES = ("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/")


def is_starter(name: str) -> bool:
    """Tell whether a program of this name starts one with a data root, or is a shell, which may."""
    return name in STARTERS or name in SHELLS


def may_be_script(path: str) -> bool:
    """Tell whether a program may be a script of somebody's: not one of the system's."""
    if path.endswith(".sh"):
        return True
    return "/" in path and not (path.startswith(_SYSTEM_DIRECTORIES) and "." not in path)


def service_start(name: str, words: Sequence[str]) -> Starter | None:
    """Return what words start that ask a service manager for Docker, and in `said` the words in short; or None."""
    rest = [word for word in words[1:] if not word.startswith("-")]
    verbs = _SERVICE_VERBS
    if name in ("service", "rc-service") and len(rest) > 1 and rest[0] in _SERVICES and rest[1] in verbs:
        return Starter(Program.DOCKERD, said=f"{name} {rest[0]} {rest[1]}")
    asks = len(rest) > 1 and (rest[0] in verbs or (rest[0] == "enable" and "--now" in words))
    if name in ("systemctl", "supervisorctl") and asks and _SERVICES.intersection(rest[1:]):
        return Starter(Program.DOCKERD, said=f"{name} {rest[0]} docker", has_containerd=name == "systemctl")
    if words[0] in ("/etc/init.d/docker", "/etc/rc.d/init.d/docker") and rest and rest[0] in verbs:
        return Starter(Program.DOCKERD, said=f"{words[0]} {rest[0]}")
    return None
