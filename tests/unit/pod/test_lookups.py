"""Which images are asked for, and what their configurations change in what is found and repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonpatch
import pytest

from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
from kata_dind.pod.detect import detect
from kata_dind.pod.lookups import unknown_images, unread_findings
from kata_dind.pod.model import Backing, Detection, Engine, ImageConfig, Program, Repair
from kata_dind.pod.policy import ImageRule, Policy
from kata_dind.pod.repair import repair
from tests.unit.pod.pods import DIGEST, container, empty_dir, pod, privileged

OWN = "registry.example/ci/builder:1"
OWN_DIND = "registry.example/ci/my-dind:1"
DOCKERS = frozenset({"/var/lib/docker"})


def looked_up(fields: Mapping[str, Any], config: ImageConfig, **more: Any) -> Detection:
    return detect(pod(fields, **more), Policy(), images={fields["image"]: config})


def engine_of(fields: Mapping[str, Any], config: ImageConfig, **more: Any) -> Engine:
    [engine] = looked_up(fields, config, **more).engines
    return engine


@pytest.mark.parametrize(
    ("fields", "is_asked"),
    [
        (privileged(OWN), True),
        (container(OWN, securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), True),
        (container(OWN), False),
        (privileged(OWN, command=["sh"]), False),
        (container(OWN_DIND), True),
        (privileged("docker:27-dind"), False),
        (privileged("docker:27-cli"), False),
        (privileged(f"docker{DIGEST}"), True),
        (privileged("registry.example/mirror/docker:corp"), True),
        (privileged("plugins/docker"), False),
        (privileged("busybox"), True),
        (privileged(""), False),
    ],
)
def test_what_is_asked_for(fields: dict[str, Any], is_asked: bool) -> None:
    assert unknown_images(pod(fields), Policy()) == ([fields["image"]] if is_asked else [])


def test_nothing_is_asked_for_a_pod_that_is_left_alone() -> None:
    fields = privileged(OWN)
    assert unknown_images(pod(fields, runtime_class=""), Policy()) == []
    assert unknown_images(pod(fields, runtime_class="gvisor"), Policy()) == []
    assert unknown_images(pod(fields, runtime_class="kata-qemu-snp"), Policy()) == []
    assert unknown_images(pod(fields, annotations={"kata-dind.io/repair": "false"}), Policy()) == []
    assert unknown_images(pod(fields), Policy(repair=False)) == []
    assert unknown_images(pod(fields, annotations={"kata-dind.io/repair": "true"}), Policy(repair=False)) == [OWN]
    assert unknown_images({"spec": {"runtimeClassName": "kata", "containers": "nonsense"}}, Policy()) == []


def test_the_policys_table_comes_first() -> None:
    rule = ImageRule(match=OWN, program=Program.DOCKERD)
    whole = rule.model_copy(update={"entrypoint": ("dockerd",)})
    assert unknown_images(pod(privileged(OWN)), Policy(images=(rule,))) == [OWN]
    assert unknown_images(pod(privileged(OWN)), Policy(images=(whole,))) == []
    assert unknown_images(pod(privileged(OWN)), Policy(images=(ImageRule(match=OWN),))) == []
    config = {OWN: ImageConfig(entrypoint=("other",))}
    [engine] = detect(pod(privileged(OWN)), Policy(images=(whole,)), images=config).engines
    assert engine.entrypoint == ("dockerd",)


def test_each_image_is_asked_for_once_and_not_too_many() -> None:
    many = [privileged(f"registry.example/x:{number}", f"c{number}") for number in range(30)]
    assert len(unknown_images(pod(*many), Policy())) == 8
    assert unknown_images(pod(privileged(OWN, "a"), privileged(OWN, "b")), Policy()) == [OWN]


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(entrypoint=("dockerd-entrypoint.sh",)),
        ImageConfig(entrypoint=("/sbin/tini", "--", "dockerd"), cmd=("--debug",)),
        ImageConfig(cmd=("dockerd-entrypoint.sh",)),
        ImageConfig(entrypoint=("/start.sh",), volumes=DOCKERS),
        ImageConfig(entrypoint=("/bin/sh", "-c", "dockerd & exec agent")),
    ],
)
def test_an_unknown_image_that_starts_dockerd_is_a_daemon(config: ImageConfig) -> None:
    engine = engine_of(privileged(OWN), config)
    assert engine.program is Program.DOCKERD
    assert engine.entrypoint == (*config.entrypoint, *config.cmd)
    assert looked_up(privileged(OWN), ImageConfig(entrypoint=("/app",))).engines == ()


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(entrypoint=("/usr/bin/dind-monitor",)),
        ImageConfig(entrypoint=("sleep",), cmd=("infinity",)),
        ImageConfig(cmd=("bash",)),
        ImageConfig(),
    ],
)
def test_an_image_that_is_only_named_like_a_daemon_is_none(config: ImageConfig) -> None:
    fields = privileged(OWN_DIND)
    assert len(detect(pod(fields), Policy()).engines) == 1
    assert looked_up(fields, config).engines == ()


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(entrypoint=("/entrypoint.sh",)),
        ImageConfig(entrypoint=("/opt/run",)),
        ImageConfig(entrypoint=("/usr/bin/monitor",), volumes=DOCKERS),
    ],
)
def test_an_image_of_that_name_with_a_script_of_its_own_stays_a_daemon(config: ImageConfig) -> None:
    assert engine_of(privileged(OWN_DIND), config).entrypoint == config.entrypoint


def test_arguments_of_a_script_of_its_own_are_no_other_command() -> None:
    fields = privileged(OWN_DIND, args=["serve"])
    assert engine_of(fields, ImageConfig(entrypoint=("/run.sh",), cmd=("x",))).entrypoint == ("/run.sh",)
    assert looked_up(fields, ImageConfig(entrypoint=("dockerd-entrypoint.sh",), volumes=DOCKERS)).engines == ()


def test_a_digest_of_dockers_is_told_to_be_a_client_or_a_daemon() -> None:
    # Both images have Docker's variables.
    variables = {"DOCKER_VERSION": "28.5.2", "DOCKER_TLS_CERTDIR": "/certs"}
    client = ImageConfig(entrypoint=("docker-entrypoint.sh",), cmd=("sh",), environment=variables)
    daemon = ImageConfig(entrypoint=("dockerd-entrypoint.sh",), environment=variables, volumes=DOCKERS)
    fields = container(f"docker{DIGEST}", securityContext={"privileged": True})
    assert looked_up(fields, client).engines == ()
    engine = engine_of(fields, daemon)
    assert engine.version == (28, 5, 2)
    # Given dockerd to run, the client's image runs it.
    assert engine_of({**fields, "args": ["dockerd"]}, client).program is Program.DOCKERD


@pytest.mark.parametrize(
    ("user", "user_id", "rootless"),
    [("", 0, False), ("root", 0, False), ("0:0", 0, False), ("1000:1000", 1000, True), ("rootless", 1000, True)],
)
def test_the_user_of_the_image_counts(user: str, user_id: int, rootless: bool) -> None:
    config = ImageConfig(entrypoint=("dockerd-entrypoint.sh",), user=user, volumes=DOCKERS)
    engine = engine_of(privileged(OWN), config)
    assert (engine.user, engine.rootless) == (user_id, rootless)
    as_root = engine_of(container(OWN, securityContext={"privileged": True, "runAsUser": 0}), config)
    assert (as_root.user, as_root.rootless) == (0, False)


def test_variables_of_the_image_count_and_are_not_expanded_by_kubernetes() -> None:
    config = ImageConfig(entrypoint=("dockerd",), environment={"ROOT": "/image", "DOCKER_DRIVER": "vfs"})
    engine = engine_of(privileged(OWN, args=["--data-root=$(ROOT)"]), config)
    assert engine.storage_settings[0].driver == "vfs"
    assert engine.roots == (), "where that is, is not known"
    own = engine_of(privileged(OWN, env={"DOCKER_DRIVER": "overlay2"}), config)
    assert own.storage_settings[0].driver == "overlay2"


def test_volumes_of_the_image_decide_what_a_mount_above_reaches() -> None:
    above = privileged(OWN, mounts={"/var/lib": "v"})
    volumes = [empty_dir("v", medium="Memory")]
    without = engine_of(above, ImageConfig(entrypoint=("dockerd",)), volumes=volumes)
    assert without.roots[0].backing is Backing.MEMORY
    with_volume = engine_of(above, ImageConfig(entrypoint=("dockerd",), volumes=DOCKERS), volumes=volumes)
    assert with_volume.roots[0].backing is Backing.VIRTIOFS


def repaired(fields: Mapping[str, Any], config: ImageConfig) -> tuple[Repair, dict[str, Any]]:
    before = pod(fields)
    images = {fields["image"]: config}
    found = repair(before, Policy(), script=entrypoint_for_pods, images=images)
    after = jsonpatch.apply_patch(before, list(found.patch))
    assert repair(after, Policy(), script=entrypoint_for_pods, images=images).patch == ()
    return found, after["spec"]["containers"][0]


def test_the_wrapper_gets_the_entrypoint_of_the_image() -> None:
    assert repair(pod(privileged(OWN_DIND)), Policy(), script=entrypoint_for_pods).unrepaired
    found, after = repaired(privileged(OWN_DIND), ImageConfig(entrypoint=("/start.sh", "$(A)"), cmd=("serve",)))
    assert found.kind == "loop"
    assert after["command"][4:] == ["/start.sh", "$$(A)", "serve"]
    # Its arguments take the place of the image's command.
    found, after = repaired(privileged(OWN_DIND, args=["x"]), ImageConfig(entrypoint=("/start.sh",), cmd=("serve",)))
    assert (after["command"][4:], after["args"]) == (["/start.sh"], ["x"])


def test_an_image_without_an_entrypoint_runs_its_arguments_behind_the_wrapper() -> None:
    fields = privileged(OWN_DIND, args=["dockerd", "--debug"])
    assert repair(pod(fields), Policy(), script=entrypoint_for_pods).unrepaired
    found, after = repaired(fields, ImageConfig(cmd=("bash",)))
    assert found.kind == "loop"
    assert (after["command"][3:], after["args"]) == (["kata-dind"], ["dockerd", "--debug"])


def test_what_no_registry_told_is_a_note_on_the_container() -> None:
    where = pod(container("nginx"), privileged(OWN, "own"), {"image": OWN, "securityContext": {"privileged": True}})
    first, second = unread_findings(where, Policy(), {OWN: "registry.example does not have it"})
    assert first.id == "pod.image-unread"
    assert first.message == "What the image of `own` runs is not known: registry.example does not have it."
    assert first.pointer == ("spec", "containers", 1)
    assert "`containers[2]`" in second.message
    assert unread_findings(where, Policy(), {}) == []
