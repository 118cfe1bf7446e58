"""`kata-dind fix` with lookups: the whole way, from a manifest and its pull secret to the repaired pod."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.registries import (
    PASSWORD,
    USER,
    Reply,
    SmallServer,
    config_body,
    running_registry,
    small_server,
)

pytestmark = pytest.mark.timeout(120)

_MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {{name: builder, namespace: ci}}
spec:
  runtimeClassName: kata-qemu
  {pull}
  containers:
    - name: builder
      image: {image}
      securityContext: {{privileged: true}}
"""
_PULL_SECRET = """\
---
apiVersion: v1
kind: Secret
metadata: {{name: pull, namespace: {namespace}}}
type: kubernetes.io/dockerconfigjson
data: {{.dockerconfigjson: {data}}}
"""
_ACCOUNT = """\
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: ci}
imagePullSecrets: [{name: pull}]
"""


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with small_server() as running:
        yield running


def fix(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KATA_DIND_", "DOCKER_"))}
    return subprocess.run(
        [sys.executable, "-m", "kata_dind", "fix", "-f", "pod.yaml", *arguments],
        cwd=directory,
        env={**kept, "HOME": str(directory), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(directory: Path, *arguments: str) -> dict[str, Any]:
    done = fix(directory, "-o", "json", *arguments)
    assert done.returncode == 0, done.stderr
    [pod] = json.loads(done.stdout)["pods"]
    found: dict[str, Any] = pod
    return found


def write(directory: Path, image: str, *, host: str, policy: str = "", pull: str = "", more: str = "") -> None:
    (directory / "pod.yaml").write_text(_MANIFEST.format(image=image, pull=pull) + more)
    (directory / "policy.yaml").write_text(f"registry: {{allowed: ['{host}'], {policy}}}\n")


def test_an_image_is_looked_up_if_the_policy_or_the_option_says_so(server: SmallServer, tmp_path: Path) -> None:
    image = server.serve_image("ci/builder", config_body("/sbin/tini", "--", Cmd=["dockerd", "--debug"]))
    write(tmp_path, image, host=server.host)
    assert answer(tmp_path, "--policy", "policy.yaml")["engines"] == []
    assert server.asked == []
    with_option = answer(tmp_path, "--policy", "policy.yaml", "--lookup-images")
    [engine] = with_option["engines"]
    assert (engine["program"], with_option["repair"]["kind"]) == ("dockerd", "loop")
    write(tmp_path, image, host=server.host, policy="lookup: true")
    repaired = fix(tmp_path, "--policy", "policy.yaml")
    assert "/sbin/tini" in repaired.stdout and "KATA_DIND" in repaired.stdout, repaired.stderr


def test_a_registry_that_does_not_answer_is_a_note_and_no_failure(server: SmallServer, tmp_path: Path) -> None:
    server.answering = lambda request: Reply(500)
    write(tmp_path, f"{server.host}/ci/my-dind:1", host=server.host, policy="lookup: true")
    pod = answer(tmp_path, "--policy", "policy.yaml")
    [note] = [finding for finding in pod["findings"] if finding["id"] == "pod.image-unread"]
    assert note["message"].endswith(f"is not known: {server.host} answers with the status 500.")
    assert "pod.entrypoint-unknown" in [finding["id"] for finding in pod["findings"]]


@pytest.mark.parametrize("more", [("--check",), ("--check", "--quiet"), ("-o", "findings"), ()], ids=" ".join)
def test_a_lookup_that_failed_is_said(server: SmallServer, tmp_path: Path, more: tuple[str, ...]) -> None:
    server.answering = lambda request: Reply(500)
    write(tmp_path, f"{server.host}/ci/builder:1", host=server.host, policy="lookup: true")
    done = fix(tmp_path, "--policy", "policy.yaml", *more)
    assert done.returncode == 0
    said = done.stdout if more else done.stderr
    assert "What the image of `builder` runs is not known: " in said
    assert f"{server.host} answers with the status 500 [pod.image-unread]\n    Write its entrypoint into" in said


def test_without_a_policy_only_well_known_registries_are_asked(server: SmallServer, tmp_path: Path) -> None:
    write(tmp_path, server.serve_image("ci/builder", config_body("dockerd")), host=server.host)
    [note] = answer(tmp_path, "--lookup-images")["findings"]
    assert note["id"] == "pod.image-unread" and "does not allow to ask" in note["message"]
    assert server.asked == []


def _push(directory: Path, host: str) -> str:
    target = ["oci:images:dind", f"docker://{host}/team/builder:1"]
    for words in (
        ["umoci", "init", "--layout", "images"],
        ["umoci", "new", "--image", "images:dind"],
        ["umoci", "config", "--image", "images:dind", "--config.entrypoint=dockerd-entrypoint.sh"],
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}", *target],
    ):
        subprocess.run(words, cwd=directory, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return f"{host}/team/builder:1"


@pytest.mark.requires("registry")
def test_pull_secrets_of_the_file_and_dockers_own_credentials_are_used(tmp_path: Path) -> None:
    with running_registry(tmp_path, with_password=True) as host:
        image = _push(tmp_path, host)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        config = json.dumps({"auths": {f"https://{host}/v1/": {"auth": auth}}})
        data = base64.b64encode(config.encode()).decode()
        pull, secret = "imagePullSecrets: [{name: pull}]", _PULL_SECRET.format(namespace="ci", data=data)
        theirs = _PULL_SECRET.format(namespace="other", data=data)

        def engines(**more: str) -> int:
            write(tmp_path, image, host=host, policy="lookup: true", **more)
            return len(answer(tmp_path, "--policy", "policy.yaml")["engines"])

        assert engines(pull=pull) == 0
        assert engines(pull=pull, more=secret) == 1
        assert engines(more=secret) == 0, "no ServiceAccount names it"
        assert engines(more=secret + _ACCOUNT) == 1
        assert engines(pull=pull, more=theirs) == 0, "it is of another namespace"
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker/config.json").write_text(config)
        assert engines() == 1
