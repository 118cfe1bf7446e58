"""A container of a pod, with what its image, variables, volumes and neighbours tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kata_dind.pod.annotations import Wishes
from kata_dind.pod.argv import Word, expand
from kata_dind.pod.files import Files, environment_of
from kata_dind.pod.handlers import Runtime
from kata_dind.pod.images import CERTAIN, NOTHING, Known, known_image, with_config
from kata_dind.pod.model import (
    ConfigMaps,
    ContainerList,
    ImageConfig,
    ImageConfigs,
    Pointer,
    Program,
)
from kata_dind.pod.policy import Policy
from kata_dind.pod.reading import containers_of, is_privileged, items, mapping, number, text, words
from kata_dind.pod.sentences import quoted
from kata_dind.pod.volumes import IMAGE_VOLUMES, clean_path, find_claim_template, find_mount, find_volume

_CLIENT_ADDRESSES = ("tcp://localhost:237", "tcp://127.0.0.1:237", "tcp://docker:237", "localhost:237", "docker:237")
_SOCKET_DIRECTORIES = frozenset(("/var/run", "/run"))
USUAL_ROOTS = frozenset(("/var/lib/docker", "/home/rootless/.local/share/docker", "/docker-graph"))
"""Where a volume of the pod's own hints at a dockerd."""

_OWN_VOLUMES = ("emptyDir", "persistentVolumeClaim", "ephemeral")
_ENVIRONMENT_HINTS = ("DOCKER_TLS_CERTDIR", "DOCKER_GROUP_GID", "DOCKER_DRIVER", "DOCKERD_ROOTLESS_")


# Frozen classes take three times as long to make, which is a fifth of the search; these are seen here alone.
@dataclass(slots=True)
class Scene:
    """What the containers of a pod have in common."""

    pod: Mapping[str, Any]
    spec: Mapping[str, Any]
    policy: Policy
    config_maps: ConfigMaps
    claim_templates: Sequence[Mapping[str, Any]]
    runtime: Runtime | None
    wishes: Wishes
    images: ImageConfigs


class Container:
    """A container under examination."""

    def __init__(self, scene: Scene, list_name: ContainerList, index: int, fields: Mapping[str, Any]) -> None:
        self.scene = scene
        self.list_name: ContainerList = list_name
        self.index = index
        self.fields = fields
        self.name = text(fields.get("name"))
        self.image = text(fields.get("image"))
        self.files = Files(scene.spec, fields, scene.config_maps)
        self.own_variables = environment_of(fields, scene.config_maps)
        self.rule_is_set, self.known = self._look_up()
        config = scene.images.get(self.image) if scene.images else None
        if config is not None:
            self.known = self._with_config(config)
        count = len(items(fields.get("command")))
        self.command = self._words("command", 0)
        self.args = self._words("args", count)
        self.variables = self.own_variables
        if config is not None:
            # Kubernetes expands words by the container's own variables, and the program sees the image's as well.
            self.variables = {**config.environment, **self.own_variables}
        self.is_privileged = is_privileged(fields)

    @property
    def pointer(self) -> Pointer:
        """The way to the container."""
        return ("spec", self.list_name, self.index)

    @property
    def named(self) -> str:
        """The container, as sentences name it: one without a name by its position."""
        return quoted(self.name or f"{self.list_name}[{self.index}]")

    def _words(self, key: str, start: int) -> list[str]:
        found = words(self.fields.get(key))
        # The guest entrypoint is a long script, which nobody reads.
        unread = 2 if found[1:4:2] == ["-c", "kata-dind"] else -1
        return [
            Word(word if place == unread else expand(word, self.own_variables), start + place)
            for place, word in enumerate(found)
        ]

    def _look_up(self) -> tuple[bool, Known]:
        """Return whether the policy has a rule for the image, and what is known of it."""
        rule = self.scene.policy.image_rule_for(self.image)
        if rule is None:
            return False, known_image(self.image)
        if rule.program is None:
            return True, Known(is_client=True)
        version = tuple(int(part) for part in rule.version.split(".") if part.isdecimal())
        said = f"the policy says that the image {self.image} runs {rule.program}"
        return True, Known(rule.program, CERTAIN, said, version, rule.entrypoint, user=rule.user)

    def _with_config(self, config: ImageConfig) -> Known:
        known = with_config(self.known, config)
        return replace(known, entrypoint=self.known.entrypoint) if self.rule_is_set and self.known.entrypoint else known

    def is_named(self) -> bool:
        """Tell whether an annotation or the policy names it as one that runs a daemon."""
        return bool(self.name) and (self.scene.wishes.container == self.name or self.scene.policy.names(self.name))

    def has_docker_variables(self) -> bool:
        """Tell whether it has variables that dockerd, or its image, reads."""
        return any(name.startswith(_ENVIRONMENT_HINTS) for name in self.own_variables)

    def own_volume(self) -> str:
        """Return the data root at which the pod has a volume of its own; empty if there is none."""
        for key, path_key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
            for entry in items(self.fields.get(key)):
                path = text(mapping(entry).get(path_key))
                if path and clean_path(path) in USUAL_ROOTS and self._is_own(text(mapping(entry).get("name"))):
                    return clean_path(path)
        return ""

    def _is_own(self, name: str) -> bool:
        found = find_volume(self.scene.spec, name)
        if found is not None:
            # Without a source it is an emptyDir.
            return any(kind in found[1] for kind in _OWN_VOLUMES) or len(found[1]) == 1
        return find_claim_template(self.scene.claim_templates, name) is not None

    def has_client(self) -> bool:
        """Tell whether another container of the pod uses a Docker daemon."""
        mine = _socket_volumes(self.fields)
        for list_name, index, other in containers_of(self.scene.spec):
            if (list_name, index) == (self.list_name, self.index):
                continue
            for entry in items(other.get("env")):
                if text(mapping(entry).get("value")).startswith(_CLIENT_ADDRESSES):
                    return True
            if mine and mine & _socket_volumes(other):
                return True
        return False

    def uses_host_socket(self) -> bool:
        """Tell whether it has the node's Docker socket."""
        for entry in items(self.fields.get("volumeMounts")):
            found = find_volume(self.scene.spec, text(mapping(entry).get("name")))
            if found is not None and text(mapping(found[1].get("hostPath")).get("path")).endswith("docker.sock"):
                return True
        return False

    def has_mount(self, path: str) -> bool:
        """Tell whether something is mounted at a path: by the pod, or since its image has a VOLUME there."""
        if self.known.program is not None and path in self.image_volumes:
            return True
        return find_mount(self.scene.spec, self.fields, path, self.scene.claim_templates) is not None

    @property
    def image_volumes(self) -> frozenset[str]:
        """The directories for which its image has a VOLUME, or those of all images with such programs."""
        return IMAGE_VOLUMES if self.known.volumes is None else self.known.volumes

    def known_of(self, program: Program) -> Known:
        """Return what is known of the image, if it runs this program; of another one, what it says of any process."""
        known = self.known
        if known.program is program or not known.is_read:
            return known if known.program is program else NOTHING
        told = ("entrypoint", "cmd", "user", "rootless", "home", "is_read", "volumes")
        version = known.version if program is Program.DOCKERD and known.program is None else ()
        return replace(NOTHING, version=version, **{name: getattr(known, name) for name in told})

    def user(self, known: Known) -> int | None:
        """Return the user id that it runs as; None if neither the pod nor the image says so."""
        own = number(mapping(self.fields.get("securityContext")).get("runAsUser"))
        if own is not None:
            return own
        pods = number(mapping(self.scene.spec.get("securityContext")).get("runAsUser"))
        return pods if pods is not None else known.user

    def entrypoint(self, known: Known) -> tuple[str, ...]:
        """Return what its image runs if it gets no command."""
        is_alone = not self.args and known.entrypoint_is_known
        return (*known.entrypoint, *known.cmd) if is_alone else known.entrypoint


def _socket_volumes(container: Mapping[str, Any]) -> set[str]:
    """Return the volumes in which a container has the directory of Docker's socket."""
    return {
        text(mapping(entry).get("name"))
        for entry in items(container.get("volumeMounts"))
        if clean_path(text(mapping(entry).get("mountPath"))) in _SOCKET_DIRECTORIES
    }
