from __future__ import annotations

import hashlib
import io
import json
import tarfile

from kata_dind.image.archive import Layer, docker_archive

LOWER = Layer(files={"d/hidden": b"lower", "d/removed": b"lower", "kept": b"lower"})
UPPER = Layer(
    files={"d/.wh.removed": b"", "o/.wh..wh..opq": b"", "a/b/c/deep": b"x"},
    executables={"bin/program": b"#!"},
    links={"bin/sh": "program", "etc": "a/b"},
)


def entries(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


def content(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def manifest_of(archive: bytes) -> dict[str, object]:
    (manifest,) = json.loads(content(archive, "manifest.json"))
    assert isinstance(manifest, dict)
    return manifest


def layers_of(archive: bytes) -> list[bytes]:
    names = manifest_of(archive)["Layers"]
    assert isinstance(names, list)
    return [content(archive, name) for name in names]


def test_the_same_image_is_the_same_to_the_byte() -> None:
    shuffled = Layer(files=dict(reversed([*LOWER.files.items()])))
    first = docker_archive("a:b", [LOWER, UPPER], {"Cmd": ["/none"]})
    assert docker_archive("a:b", [shuffled, UPPER], {"Cmd": ["/none"]}) == first
    assert hashlib.sha256(first).digest() != hashlib.sha256(docker_archive("a:c", [LOWER, UPPER])).digest()


def test_an_archive_does_not_tell_by_whom_or_when_it_was_made() -> None:
    archive = docker_archive("a:b", [LOWER, UPPER])
    for tar in (archive, *layers_of(archive)):
        for member in entries(tar).values():
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_the_manifest_names_reference_config_and_layers_in_order() -> None:
    archive = docker_archive("kata-dind/proof:latest", [LOWER, UPPER])
    manifest = manifest_of(archive)
    assert manifest["RepoTags"] == ["kata-dind/proof:latest"]
    lower, upper = layers_of(archive)
    assert "d/removed" in entries(lower)
    assert "d/.wh.removed" in entries(upper)


def test_everything_is_named_by_its_content() -> None:
    archive = docker_archive("a:b", [LOWER, UPPER], {"Env": ["A=b"]})
    manifest = manifest_of(archive)
    name = str(manifest["Config"])
    raw = content(archive, name)
    assert name == f"{hashlib.sha256(raw).hexdigest()}.json"
    config = json.loads(raw)
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers_of(archive)]
    assert config["rootfs"] == {"type": "layers", "diff_ids": digests}
    assert (config["os"], config["config"]) == ("linux", {"Env": ["A=b"]})


def test_whiteouts_are_empty_files_named_as_oci_names_them() -> None:
    upper = layers_of(docker_archive("a:b", [LOWER, UPPER]))[1]
    for name in ("d/.wh.removed", "o/.wh..wh..opq"):
        assert entries(upper)[name].isreg()
        assert entries(upper)[name].size == 0


def test_directories_come_before_what_is_in_them_with_ordinary_modes() -> None:
    upper = layers_of(docker_archive("a:b", [LOWER, UPPER]))[1]
    members = entries(upper)
    assert [name for name in members if members[name].isdir()] == ["a", "a/b", "a/b/c", "bin", "d", "o"]
    assert [*members].index("a/b/c") < [*members].index("a/b/c/deep")
    assert {members[name].mode for name in members if members[name].isdir()} == {0o755}
    assert (members["a/b/c/deep"].mode, members["bin/program"].mode) == (0o644, 0o755)
    assert (members["bin/sh"].issym(), members["bin/sh"].linkname) == (True, "program")


def test_a_file_capability_is_a_pax_record_of_its_file_alone() -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    layer = Layer(files={"a": b""}, executables={"b": b"#!"}, capabilities={"b": capability})
    members = entries(layers_of(docker_archive("a:b", [layer]))[0])
    assert members["a"].pax_headers == {}
    assert members["b"].pax_headers == {"SCHILY.xattr.security.capability": capability.decode()}
    assert (members["b"].size, members["b"].mode) == (2, 0o755)


def test_a_link_in_a_directory_of_its_own_has_that_directory() -> None:
    (layer,) = layers_of(docker_archive("a:b", [Layer(files={}, links={"usr/bin/sh": "busybox"})]))
    assert [*entries(layer)] == ["usr", "usr/bin", "usr/bin/sh"]


def test_an_image_may_have_no_layer_and_a_layer_no_file() -> None:
    assert layers_of(docker_archive("a:b", [])) == []
    (layer,) = layers_of(docker_archive("a:b", [Layer(files={})]))
    assert entries(layer) == {}
