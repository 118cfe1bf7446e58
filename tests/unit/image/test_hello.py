from __future__ import annotations

import hashlib
import io
import json
import tarfile

from kata_dind.image.hello import hello_archive


def _archive() -> bytes:
    return hello_archive(busybox=b"\x7fELF", script=b"#!/bin/busybox sh\n")


def _read(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_the_same_input_gives_the_same_bytes() -> None:
    assert _archive() == _archive()


def test_the_manifest_leads_to_a_config_and_a_layer_with_the_digests_it_says() -> None:
    archive = _archive()
    (manifest,) = json.loads(_read(archive, "manifest.json"))
    assert manifest["RepoTags"] == ["kata-dind/hello:latest"]
    config = _read(archive, manifest["Config"])
    assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    (layer,) = manifest["Layers"]
    digest = hashlib.sha256(_read(archive, layer)).hexdigest()
    assert json.loads(config)["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    assert json.loads(config)["config"]["Cmd"] == ["/hello.sh"]


def test_the_layer_runs_a_script_with_busybox_under_its_names() -> None:
    archive = _archive()
    (manifest,) = json.loads(_read(archive, "manifest.json"))
    with tarfile.open(fileobj=io.BytesIO(_read(archive, manifest["Layers"][0]))) as layer:
        members = {member.name: member for member in layer.getmembers()}
    assert members["hello.sh"].mode == members["bin/busybox"].mode == 0o755
    assert members["bin/awk"].linkname == "busybox"
    assert {member.uid for member in members.values()} == {0}
