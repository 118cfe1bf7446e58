"""What registries tell of the images of a pod, asked with the pod's pull secrets and the user's own credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kata_dind.pod.lookups import unknown_images, unread_findings
from kata_dind.pod.model import Finding, ImageConfigs, PodDict
from kata_dind.pod.policy import Policy

if TYPE_CHECKING:
    from kata_dind.registry.keyring import Keyring
    from kata_dind.registry.lookup import Lookup


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a pod's images by now."""

    configs: ImageConfigs = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    """About those that no registry told of."""


@dataclass(frozen=True, slots=True)
class Images:
    """Looks images up for one run of `fix`."""

    lookup: Lookup
    own: Callable[[Iterable[str]], Keyring]
    """Returns the user's own credentials for some images."""
    _known: dict[tuple[str, ...], Keyring] = field(default_factory=dict)

    def told(self, pod: PodDict, policy: Policy, pull_secrets: Iterable[Mapping[str, Any]]) -> Told:
        """Return what registries tell of a pod's images, as far as it is not known otherwise."""
        from kata_dind.registry.keyring import Keyring, entries_of_secret

        wanted = tuple(unknown_images(pod, policy))
        if not wanted:
            return Told()
        if wanted not in self._known:
            self._known[wanted] = self.own(wanted)
        of_pod = Keyring(entry for secret in pull_secrets for entry in entries_of_secret(secret))
        found = self.lookup.find(wanted, of_pod.and_those_of(self._known[wanted]))
        return Told(found.configs, tuple(unread_findings(pod, policy, found.unread)))


def images_of(policy: Policy) -> Images:
    """Return what looks images up by a policy, with the credentials of whoever runs this."""
    from kata_dind.registry.docker_config import config_path, keyring_for
    from kata_dind.registry.lookup import Lookup

    path = config_path()
    return Images(Lookup(policy.registry), lambda references: keyring_for(references, path))
