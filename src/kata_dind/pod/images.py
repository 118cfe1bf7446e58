"""What an image runs, as far as its name tells: references taken apart by hand in linear time, and a table of names.

A name is a hint and no proof: `Known.weight` says how strong, and `detect` adds what the rest of the container shows.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from kata_dind.pod.argv import names
from kata_dind.pod.model import ImageConfig, Program

LONGEST_NAME = 255
LONGEST_REFERENCE = 1024
"""With a tag of 128 characters and a digest."""
CERTAIN = 3
"""The weight from which on a container is taken to run a program."""
LIKELY = 2

_REGISTRY = re.compile(
    r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?", re.A
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.A)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9+._-]{0,63}:[0-9A-Fa-f]{32,200}")

_DIND = re.compile(r"(?:^|[-_.])(?:dind|dockerd)(?:[-_.]|$)")
_VERSION = re.compile(r"v?(\d{1,5})(?:\.(\d{1,5}))?(?:\.(\d{1,5}))?(?![\d.])", re.A)

# `docker` is a daemon since 23, where the client's image got a tag of its own.
_FIRST_DAEMON = 23
# Before, in 2017, it was 1.13.
_FIRST_DOCKER = 17


@dataclass(frozen=True, slots=True)
class Image:
    """A reference in its parts; what it does not have is empty."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def owner(self) -> str:
        """The components before the name."""
        return self.path.rpartition("/")[0]


@functools.lru_cache(maxsize=2048)
def parse_image(reference: str) -> Image | None:
    """Take a reference apart; None if no container runtime would accept it.

    Source: distribution/reference, whose grammar this follows; an IPv6 registry stands in brackets.
    """
    if not reference or len(reference) > LONGEST_REFERENCE:
        return None
    rest, has_digest, digest = reference.partition("@")
    if has_digest and not _DIGEST.fullmatch(digest):
        return None
    before, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        before, tag = rest, ""
    elif not _TAG.fullmatch(tag):
        return None
    registry, path = _split_registry(before)
    if registry and not _REGISTRY.fullmatch(registry):
        return None
    # As distribution/reference has it, which counts the registry, too.
    if not path or len(before) > LONGEST_NAME or not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        return None
    return Image(registry, path, tag, digest)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return "", name


@dataclass(frozen=True, slots=True)
class Known:
    """What the name of an image tells."""

    program: Program | None = None
    """None: nothing with a data root, or nothing known."""
    weight: int = 0
    """How much the name alone counts for the program, if nothing else is started; see CERTAIN."""
    said: str = ""
    """The evidence, a phrase."""
    version: tuple[int, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    """What follows the entrypoint if the container has no args."""
    user: int | None = None
    rootless: bool = False
    home: str = ""
    """Of the user that a rootless program runs as."""
    root: str = ""
    """The data root, if it isn't the program's usual one."""
    variable: tuple[str, tuple[str, ...]] | None = None
    """The program is only started if this variable has one of these values."""
    unless: tuple[str, tuple[str, ...]] | None = None
    """It is not started if this variable has one of these values."""
    starters: tuple[str, ...] = ()
    """Programs of the image that start it, if a command names them."""
    is_either: bool = False
    """It was a client under the same name, up to 20.10."""
    is_client: bool = False
    """It is a client, or another program that only looks like a daemon."""
    other_runtime: str = ""
    """Podman, k3s or another container runtime that kata-dind does not repair."""
    has_systemd: bool = False
    """Its init starts dockerd, beside a containerd of its own."""
    is_read: bool = False
    """Entrypoint, command and user are those of its configuration, which its registry has told."""
    volumes: frozenset[str] | None = None
    """The directories for which it has a VOLUME, if that is known."""
    lacks_mkfs: bool = False
    """It has no mkfs.ext4, so that a disk must be made by another image."""
    sudo_user: str = ""
    """It does not run as root, but as this user, who starts the program as root by sudo."""

    @property
    def entrypoint_is_known(self) -> bool:
        """Whether it is known what runs without a command; an image with a `cmd` may have no entrypoint."""
        return bool(self.entrypoint or self.cmd) or self.is_read


NOTHING = Known()


_VOLUMES = {
    "/var/lib/docker": Program.DOCKERD,
    "/home/rootless/.local/share/docker": Program.DOCKERD,
    "/var/lib/buildkit": Program.BUILDKITD,
    "/home/user/.local/share/buildkit": Program.BUILDKITD,
}
"""What an image runs that has a VOLUME there."""
_HOMES = {"rootless": "/home/rootless"}
_USERS = {"": 0, "root": 0, "rootless": 1000}
"""User ids that names stand for in every image that has them."""


def with_config(known: Known, config: ImageConfig) -> Known:
    """Return what an image's name and its configuration tell together; where they differ, the configuration is right.

    A daemon that the name promises must be in the configuration as well; `cases` sees to that.
    """
    if known.is_client:
        return known
    user = config.user.partition(":")[0]
    user_id = int(user) if user.isdecimal() and len(user) < 11 else _USERS.get(user)
    at = next((path for path in _VOLUMES if path in config.volumes), "")
    program = known.program or (_VOLUMES[at] if at else None)
    # The image of Docker's client has the same variables as that of its daemon, and no volume.
    weight = max(known.weight, LIKELY) if at and program is _VOLUMES[at] else known.weight
    version = known.version or _version(config.environment.get("DOCKER_VERSION", ""))
    return replace(
        known,
        program=program,
        weight=weight,
        said=known.said or (f"its image has a volume at {at}" if at else ""),
        version=version if program in (Program.DOCKERD, None) else known.version,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        user=user_id,
        rootless=known.rootless if user_id == 0 else user_id is not None or known.rootless,
        home=known.home or config.environment.get("HOME", "") or _HOMES.get(user, ""),
        is_read=True,
        volumes=config.volumes,
    )


_TRUE = ("true", "1", "yes", "on", "t", "True", "TRUE")

# Clients, monitors and builders without a daemon, by the name alone.
_FRIENDS = names(
    "torchserve torchserve-kfs kaniko executor kaniko-executor docker-gc docker-cleanup docker-registry docker-proxy "
    "docker-socket-proxy dockerd-exporter dozzle watchtower cadvisor actions-runner gitlab-runner docker-credential "
    "docker-compose docker-buildx buildx-bin docker-cli docker-bench-security"
)
# Words in a name that has `dind` in it, but is that of a helper beside the daemon.
_HELPERS = names(
    "monitor exporter cleaner cleanup provisioner utils metrics proxy controller webhook operator client cli pruner "
    "prune lvmmonitor watcher init config frontend ui api"
)
_OTHER_RUNTIMES = {
    "podman": "Podman",
    "podman-stable": "Podman",
    "buildah": "Buildah",
    "k3s": "k3s",
    "k3d": "k3s",
    "k0s": "k0s",
    "rke2": "RKE2",
    "microk8s": "MicroK8s",
    "minikube": "minikube",
    "kicbase": "minikube",
}
_OTHER_OWNERS = {"podman": "Podman", "buildah": "Buildah", "kindest": "kind", "containers/podman": "Podman"}

# Plugins of CI systems that start a dockerd of their own; the name of the program behind the entrypoint.
_PLUGIN_PROGRAMS = {
    "plugins/docker": "/bin/drone-docker",
    "plugins/ecr": "/bin/drone-ecr",
    "plugins/gcr": "/bin/drone-gcr",
    "plugins/acr": "/bin/drone-acr",
    "plugins/gar": "/bin/drone-gar",
    "plugins/heroku": "/bin/drone-heroku",
    "plugins/buildx": "/bin/drone-buildx",
    "plugins/buildx-ecr": "/bin/drone-buildx-ecr",
    "plugins/buildx-gcr": "/bin/drone-buildx-gcr",
    "plugins/buildx-gar": "/bin/drone-buildx-gar",
    "plugins/buildx-acr": "/bin/drone-buildx-acr",
}
# Their forks, by the last part of the name.
_PLUGIN_NAMES = {
    "plugin-docker-buildx": "/bin/plugin-docker-buildx",
    "drone-docker-buildx": "/bin/drone-docker-buildx",
    "drone-docker": "",
    "drone-plugin-docker": "",
    "woodpecker-docker-buildx": "",
}
_PLUGIN_OFF = ("PLUGIN_DAEMON_OFF", _TRUE)


@functools.lru_cache(maxsize=2048)
def known_image(reference: str) -> Known:
    """Return what an image's name tells; NOTHING for a name that tells nothing, or that isn't a reference."""
    image = parse_image(reference)
    if image is None:
        return NOTHING
    for look in (_plugin, _friend, _other_runtime, _official, _builder, _starter_of_a_product, _name_of_ones_own):
        known = look(image)
        if known is not None:
            return known
    return NOTHING


def _friend(image: Image) -> Known | None:
    if image.name in _FRIENDS and not _DIND.search(image.tag):
        return Known(is_client=True, said=f"the image {image.name} runs no daemon")
    return None


def _other_runtime(image: Image) -> Known | None:
    other = _OTHER_RUNTIMES.get(image.name) or _OTHER_OWNERS.get(image.owner.rpartition("/")[2])
    if other is None and image.owner == "containers" and image.name in ("podman", "buildah"):
        other = _OTHER_RUNTIMES[image.name]
    return Known(other_runtime=other, is_client=True) if other else None


def _official(image: Image) -> Known | None:
    """Docker's own images, wherever they are hosted: the basename is `docker`, the tag tells the rest."""
    if image.name != "docker" or image.path == "plugins/docker" or image.path.endswith("/plugins/docker"):
        return None
    version = _version(image.tag)
    daemon = Known(Program.DOCKERD, version=version, entrypoint=("dockerd-entrypoint.sh",), user=0)
    dind = _DIND.search(image.tag)
    short = f"docker:{image.tag}" if image.tag else f"docker@{image.digest[:19]}" if image.digest else "docker"
    if dind is not None:
        known = replace(daemon, weight=CERTAIN, said=f"the image {short} is a Docker daemon")
        return replace(known, rootless=True, user=1000, home="/home/rootless") if "rootless" in image.tag else known
    if (
        image.owner == "cloud-builders"
        or "cli" in image.tag.split("-")
        or "windowsservercore" in image.tag
        or "nanoserver" in image.tag
    ):
        return Known(is_client=True, version=version, said=f"the image {short} is Docker's client")
    if image.digest and not image.tag:
        return replace(
            daemon, weight=1, said=f"the image {short} is Docker's daemon or client, which a digest doesn't tell"
        )
    if (version and version[0] < _FIRST_DAEMON) or image.tag.split("-")[0] in ("stable", "edge", "test", "git"):
        return Known(is_client=True, version=version, said=f"the image {short} is Docker's client (up to 20.10)")
    if not version and image.tag not in ("", "latest", "rc"):
        return replace(daemon, weight=1, said=f"the image {short} may be a Docker daemon", is_either=True)
    is_dockers = image.registry in ("", "docker.io", "index.docker.io", "registry-1.docker.io", "public.ecr.aws")
    is_librarys = image.owner in ("", "library") or image.owner.endswith("/library")
    weight = CERTAIN if is_librarys and (is_dockers or image.owner) else LIKELY
    return replace(daemon, weight=weight, said=f"the image {short} is a Docker daemon (since 23)", is_either=True)


def _plugin(image: Image) -> Known | None:
    last_two = "/".join(image.path.split("/")[-2:])
    program = _PLUGIN_PROGRAMS.get(last_two, _PLUGIN_NAMES.get(image.name))
    if last_two == "woodpecker-plugins/docker-buildx":
        program = "/bin/plugin-docker-buildx"
    if program is None:
        return None
    entrypoint = ("/usr/local/bin/dockerd-entrypoint.sh", program) if program else ()
    return Known(
        Program.DOCKERD,
        CERTAIN,
        f"the plugin {last_two} starts a Docker daemon of its own",
        entrypoint=entrypoint,
        user=0,
        unless=_PLUGIN_OFF,
    )


def _builder(image: Image) -> Known | None:
    """buildkitd and the engines that are made of it."""
    version = _version(image.tag)
    if image.name == "buildkit" or (image.owner == "moby" and image.name.startswith("buildkit")):
        # Alpine without e2fsprogs: https://github.com/moby/buildkit/blob/master/Dockerfile
        known = Known(
            Program.BUILDKITD,
            CERTAIN,
            f"the image {image.name} is a buildkitd",
            version,
            ("buildkitd",),
            user=0,
            lacks_mkfs=True,
        )
        if "rootless" in image.tag.split("-") or image.name.endswith("rootless"):
            return replace(known, entrypoint=("rootlesskit", "buildkitd"), user=1000, rootless=True, home="/home/user")
        return known
    if image.owner.endswith("earthly") and image.name in ("buildkitd", "earthly", "satellite"):
        # As BuildKit's: https://github.com/earthly/earthly/blob/main/buildkitd/Earthfile
        said = f"the image earthly/{image.name} runs Earthly's buildkitd"
        known = Known(Program.EARTHLY, CERTAIN, said, version, user=0, root="/tmp/earthly", lacks_mkfs=True)
        if image.name == "buildkitd":
            cmd = ("buildkitd", "--config=/etc/buildkitd.toml")
            return replace(known, entrypoint=("/usr/bin/entrypoint.sh",), cmd=cmd)
        if image.name == "satellite":
            return known
        return replace(
            known,
            entrypoint=("/usr/bin/earthly-entrypoint.sh",),
            unless=("NO_BUILDKIT", _TRUE),
            starters=("earthly-entrypoint.sh",),
        )
    is_daggers = image.name == "engine" and ("dagger" in image.registry or "dagger" in image.owner)
    if is_daggers or image.name == "dagger-engine":
        entrypoint = ("dagger-entrypoint.sh",) if is_daggers else ()
        return Known(Program.DAGGER, CERTAIN, f"the image {image.name} is a Dagger engine", version, entrypoint, user=0)
    if image.name == "buildkitd":
        return Known(Program.BUILDKITD, CERTAIN, "the image buildkitd is a buildkitd", version, user=0)
    if image.name == "containerd":
        return Known(Program.CONTAINERD, LIKELY, "the image containerd may be a containerd", version)
    return None


# Images whose own starter runs dockerd only if a variable says so: name, variable, values, data root, starters.
_BY_VARIABLE: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...]]] = {
    "teamcity-agent": ("DOCKER_IN_DOCKER", ("start",), "", ("run-services.sh", "run-agent.sh", "run-docker.sh")),
    "kubekins-e2e": ("DOCKER_IN_DOCKER_ENABLED", _TRUE, "/docker-graph", ("runner.sh", "wrapper.sh")),
    "krte": ("DOCKER_IN_DOCKER_ENABLED", _TRUE, "/docker-graph", ("wrapper.sh", "runner.sh")),
    "bootstrap": ("DOCKER_IN_DOCKER_ENABLED", _TRUE, "/docker-graph", ("runner.sh", "wrapper.sh", "entrypoint.sh")),
    "github-runner": ("START_DOCKER_SERVICE", _TRUE, "", ("entrypoint.sh",)),
    "github-actions-runner": ("START_DOCKER_SERVICE", _TRUE, "", ("entrypoint.sh",)),
}

# What those run of whose owners it is known; each starts Docker by `service docker start`. Sources:
# https://github.com/JetBrains/teamcity-docker-images/blob/master/context/run-docker.sh and the Dockerfiles beside it,
# https://github.com/myoung34/docker-github-actions-runner/blob/master/Dockerfile
_STARTERS_OF_OWNERS = {
    "jetbrains/teamcity-agent": Known(cmd=("/run-services.sh",), sudo_user="buildagent"),
    "myoung34/github-runner": Known(
        entrypoint=("/entrypoint.sh",), cmd=("./bin/Runner.Listener", "run", "--startuptype", "service"), user=0
    ),
}


def _starter_of_a_product(image: Image) -> Known | None:
    if image.name in _BY_VARIABLE:
        name, values, root, starters = _BY_VARIABLE[image.name]
        said = f"the image {image.name} starts a Docker daemon, since {name} says so"
        known = _STARTERS_OF_OWNERS.get("/".join(image.path.split("/")[-2:]), NOTHING)
        return replace(
            known,
            program=Program.DOCKERD,
            weight=CERTAIN,
            said=said,
            root=root,
            variable=(name, values),
            starters=starters,
        )
    if image.name == "gocd-agent-docker-dind":
        # https://github.com/gocd/gocd-agent-docker-dind/blob/master/docker-entrypoint.sh
        return Known(
            Program.DOCKERD,
            CERTAIN,
            f"the image {image.name} starts a Docker daemon",
            entrypoint=("/docker-entrypoint.sh",),
            starters=("docker-entrypoint.sh",),
            sudo_user="go",
        )
    if image.name in ("actions-runner-dind", "actions-runner-dind-rootless"):
        rootless = image.name.endswith("rootless")
        script = "entrypoint-dind-rootless.sh" if rootless else "entrypoint-dind.sh"
        return Known(
            Program.DOCKERD,
            CERTAIN,
            f"the image {image.name} starts a Docker daemon",
            entrypoint=("/bin/bash", "-c"),
            cmd=(script,),
            rootless=rootless,
            user=1000 if rootless else None,
            home="/home/runner",
            starters=(script,),
        )
    if image.name == "envbox":
        return Known(
            Program.DOCKERD,
            CERTAIN,
            "the image envbox runs a Docker daemon under Sysbox",
            entrypoint=("/envbox", "docker"),
            user=0,
            root="/var/lib/coder/docker",
            starters=("envbox",),
        )
    if image.name == "ubuntu-dind":
        return Known(
            Program.DOCKERD,
            CERTAIN,
            "the image ubuntu-dind starts a Docker daemon",
            entrypoint=("entrypoint.sh",),
            cmd=("bash",),
            user=0,
            starters=("entrypoint.sh", "start-docker.sh"),
        )
    if image.name in ("act_runner", "runner") and image.owner.endswith("gitea") and _DIND.search(image.tag):
        # https://gitea.com/gitea/act_runner/src/branch/main/Dockerfile
        rootless = image.tag.endswith("rootless")
        return Known(
            Program.DOCKERD,
            CERTAIN,
            f"the image {image.name}:{image.tag} starts a Docker daemon",
            entrypoint=("s6-svscan", "/etc/s6"),
            user=1000 if rootless else 0,
            rootless=rootless,
            home="/home/rootless" if rootless else "",
            starters=("s6-svscan",),
        )
    if image.owner.endswith("nestybox") and image.name.endswith("docker"):
        said = f"the image {image.name} has a systemd that starts a Docker daemon"
        return Known(Program.DOCKERD, CERTAIN, said, entrypoint=("/sbin/init",), user=0, has_systemd=True)
    if image.owner.endswith("codercom") and image.name.startswith("enterprise"):
        # Its Docker is idle unless /sbin/init is the command.
        return Known(Program.DOCKERD, 0, f"the image {image.name} has Docker", has_systemd=True)
    return None


def _name_of_ones_own(image: Image) -> Known | None:
    parts = re.split(r"[-_.]+", image.name)
    systemd = "systemd" in parts or "systemd" in image.tag.split("-")
    if _DIND.search(image.name):
        if _HELPERS.intersection(parts):
            return None
        is_dockers = image.name in ("docker-dind", "dind", "docker-dind-rootless", "dind-rootless")
        rootless = "rootless" in parts or image.tag.endswith("rootless")
        return Known(
            Program.DOCKERD,
            CERTAIN,
            f"the name of the image {image.name} says Docker-in-Docker",
            _dockers(_version(image.tag)) if is_dockers else (),
            rootless=rootless,
            user=1000 if rootless else None,
            home="/home/rootless" if rootless else "",
            has_systemd=systemd,
        )
    dind = _DIND.search(image.tag)
    if dind is not None:
        rootless = "rootless" in image.tag
        said = f"the tag of the image {image.name}:{image.tag} says Docker-in-Docker"
        return Known(
            Program.DOCKERD, LIKELY, said, rootless=rootless, user=1000 if rootless else None, has_systemd=systemd
        )
    if "docker" in parts and (systemd or "init" in parts):
        return Known(Program.DOCKERD, 0, f"the image {image.name} has Docker", has_systemd=True)
    return None


def _dockers(version: tuple[int, ...]) -> tuple[int, ...]:
    """Return a version if it may be Docker's; an image of one's own counts its versions as it likes."""
    return version if version and version[0] >= _FIRST_DOCKER else ()


def _version(tag: str) -> tuple[int, ...]:
    found = _VERSION.match(tag)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()
