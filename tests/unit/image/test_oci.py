from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from kata_dind.image.oci import Config, copy_argv, find_program, parse_config
from kata_dind.image.reference import parse_reference


def test_an_image_is_copied_by_this_call() -> None:
    reference = parse_reference("docker:28-dind", relative_to=Path("/"))
    assert copy_argv(reference, Path("/w/layout"), insecure=False, any_policy=False) == [
        "skopeo",
        "copy",
        "--quiet",
        "--remove-signatures",
        "docker://docker:28-dind",
        "oci:/w/layout:image",
    ]


@pytest.mark.parametrize(
    ("text", "insecure", "trusted"),
    [("127.0.0.1:5000/dind", False, True), ("r.test/dind", True, True), ("r.test/dind", False, False)],
)
def test_tls_is_optional_on_loopback_and_on_request(text: str, insecure: bool, trusted: bool) -> None:
    reference = parse_reference(text, relative_to=Path("/"))
    argv = copy_argv(reference, Path("layout"), insecure=insecure, any_policy=False)
    assert ("--src-tls-verify=false" in argv) is trusted


def test_a_host_without_a_policy_accepts_any_image() -> None:
    reference = parse_reference("docker", relative_to=Path("/"))
    argv = copy_argv(reference, Path("layout"), insecure=False, any_policy=True)
    assert argv[:3] == ["skopeo", "--insecure-policy", "copy"]


def test_a_configuration_says_what_starts() -> None:
    config = parse_config(
        {"config": {"Entrypoint": ["dockerd-entrypoint.sh"], "Cmd": [], "Env": ["PATH=/a:/b", "DOCKER_VERSION=28.5.2"]}}
    )
    assert config == Config(("dockerd-entrypoint.sh",), (), ("PATH=/a:/b", "DOCKER_VERSION=28.5.2"))
    assert config.variable("DOCKER_VERSION") == "28.5.2"
    assert config.variable("NONE") is None


@pytest.mark.parametrize("config", [{}, {"config": None}, {"config": {"Cmd": None}}])
def test_a_configuration_may_say_nothing(config: dict[str, object]) -> None:
    assert parse_config(config) == Config((), (), ())


def test_programs_are_found_through_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    program = tmp_path / "usr/local/bin/dockerd-28"
    program.write_bytes(b"ELF")
    program.chmod(0o755)
    (tmp_path / "usr/local/bin/dockerd").symlink_to("/usr/local/bin/dockerd-28")
    (tmp_path / "bin").symlink_to("../../../usr/local/bin")
    assert find_program(tmp_path, "dockerd", search_path="/none:/bin") == PurePosixPath("/bin/dockerd")


def test_a_links_end_outside_the_image_is_not_looked_at(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    outside.write_bytes(b"ELF")
    outside.chmod(0o755)
    (tree / "bin/dockerd").symlink_to(outside)
    (tree / "bin/up").symlink_to("../../outside")
    assert find_program(tree, "dockerd", search_path="/bin") is None
    assert find_program(tree, "up", search_path="/bin") is None


def test_circles_directories_and_plain_files_are_not_programs(tmp_path: Path) -> None:
    (tmp_path / "bin/directory").mkdir(parents=True)
    (tmp_path / "bin/circle").symlink_to("circle")
    (tmp_path / "bin/data").write_bytes(b"")
    for name in ("directory", "circle", "data", "missing"):
        assert find_program(tmp_path, name, search_path="relative:/bin") is None
