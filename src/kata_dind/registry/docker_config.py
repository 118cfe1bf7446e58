"""The credentials of whoever runs us: Docker's config.json, and the programs that it names for keeping them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kata_dind.errors import ProcessError
from kata_dind.host.json_files import read_json
from kata_dind.host.process import find_tool, run
from kata_dind.pod.reading import mapping, text
from kata_dind.registry.keyring import Credential, Keyring, entries_of_config
from kata_dind.registry.remote import DOCKER_HUB, remote_image

_HELPER_SECONDS = 5.0
_HELPER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HUB_PLACE = "https://index.docker.io/v1/"
_BY_TOKEN = "<token>"


def config_path() -> Path:
    """Return where Docker keeps its configuration, for this environment."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def keyring_for(references: Iterable[str], path: Path) -> Keyring:
    """Return what a config.json has for some images; helpers are only asked for their registries.

    What can't be read counts as absent: without credentials, the registry says so itself.
    """
    config = read_json(path)
    registries = {image.registry for image in map(remote_image, references) if image is not None}
    return Keyring([*entries_of_config(config), *_from_helpers(config, sorted(registries))])


def _from_helpers(config: dict[str, Any], registries: Iterable[str]) -> Iterator[tuple[str, Credential]]:
    of_one, of_all = mapping(config.get("credHelpers")), text(config.get("credsStore"))
    for registry in registries:
        place = _HUB_PLACE if registry == DOCKER_HUB else registry
        name = text(of_one.get(registry)) or text(of_one.get(place)) or of_all
        credential = _ask(name, place) if _HELPER.fullmatch(name) else None
        if credential is not None:
            yield place, credential


def _ask(name: str, place: str) -> Credential | None:
    """Ask a helper, as Docker does: the place on its standard input, an answer in JSON."""
    program = find_tool(f"docker-credential-{name}")
    if program is None:
        return None
    with tempfile.TemporaryFile() as asked:
        asked.write(place.encode())
        asked.seek(0)
        try:
            done = run([program, "get"], timeout_seconds=_HELPER_SECONDS, stdin=asked, environment=os.environ)
            said = mapping(json.loads(done.stdout))
        except (ProcessError, ValueError, RecursionError):
            return None  # as it answers for a registry that it does not know
    user, secret = text(said.get("Username")), text(said.get("Secret"))
    # A token for another kind of login, which few registries have.
    return Credential(user, secret) if secret and user != _BY_TOKEN else None
