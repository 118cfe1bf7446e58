"""Pods that are almost right, or nothing like one: no crash, no hang, and the promises of the answer hold."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_dind.pod.detect import detect
from kata_dind.pod.images import known_image
from kata_dind.pod.model import Detection, Pointer
from kata_dind.pod.policy import Policy
from tests.unit.pod.pods import DIGEST, container, empty_dir, pod, privileged

POLICY = Policy()

SCRIPT = "truncate -s 20G /d; mkfs.ext4 /d; mount -o loop /d /var/lib/docker\nexec dockerd --data-root $ROOT -s vfs"
REAL = [
    pod(
        container("runner", env={"DOCKER_HOST": "tcp://localhost:2375"}, mounts={"/var/run": "run"}),
        privileged(
            "docker:27-dind",
            "dind",
            args=["--data-root=$(ROOT)", "-s", "vfs"],
            env={"ROOT": "/x", "DOCKER_DRIVER": "vfs"},
            mounts={"/x": "data", "/var/run": "run", "/etc/docker": "config"},
            lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "dockerd &"]}}},
        ),
        volumes=[
            empty_dir("data", sizeLimit="20Gi"),
            empty_dir("run"),
            {"name": "config", "configMap": {"name": "cm"}},
        ],
        annotations={"kata-dind.io/repair": "true", "kata-dind.io/size": "20Gi", "kata-dind.io/container": "dind"},
    ),
    pod(
        privileged(
            "docker" + DIGEST,
            args=["--storage-driver=vfs"],
            volumeDevices=[{"name": "b", "devicePath": "/var/lib/docker"}],
        ),
        initContainers=[
            privileged("docker:dind", command=["sh", "-c"], args=[SCRIPT], envFrom=[{"configMapRef": {"name": "cm"}}])
        ],
        volumes=[{"name": "b", "persistentVolumeClaim": {"claimName": "x"}}],
    ),
    pod(
        container("moby/buildkit:rootless", args=["--root", "/x"]),
        privileged(
            "krte", env={"DOCKER_IN_DOCKER_ENABLED": "true"}, command=["/scripts/start.sh"], mounts={"/scripts": "s"}
        ),
        volumes=[
            {
                "name": "s",
                "projected": {"sources": [{"configMap": {"name": "cm", "items": [{"key": "a", "path": "start.sh"}]}}]},
            }
        ],
        securityContext={"runAsUser": 0},
    ),
]
CONFIG_MAPS = {"cm": {"daemon.json": '{"data-root": "/y"}', "a": SCRIPT, "ROOT": "/z"}}
CLAIMS = [{"metadata": {"name": "b"}, "spec": {"volumeMode": "Block"}}]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        [
            "docker:dind",
            "dockerd",
            "$(A)",
            "$$",
            "..",
            "/var/lib/docker",
            "sh",
            "-c",
            "evil/docker:27-dind;rm",
            "\ud800",
        ]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "image", "command", "args", "env", "value", "containers", "spec"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def nodes(value: Any, pointer: Pointer = ()) -> Iterator[Pointer]:
    yield pointer
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from nodes(inner, (*pointer, key))


def value_at(value: Any, pointer: Pointer) -> Any:
    for key in pointer:
        value = value[key]
    return value


def check(one: Any) -> Detection:
    before = repr(one)
    start = time.process_time()
    detection = detect(one, POLICY, config_maps=CONFIG_MAPS, claim_templates=CLAIMS)
    assert time.process_time() - start < 5
    assert repr(one) == before
    for engine in detection.engines:
        assert value_at(one, engine.pointer).get("name", "") == engine.container or engine.container == ""
        assert engine.evidence
        assert all(root.path.startswith("/") and ".." not in root.path.split("/") for root in engine.roots)
        for setting in engine.storage_settings:
            assert setting.driver
            for pointer in setting.pointers:
                value_at(one, pointer)
        for root in engine.roots:
            if root.mount is not None:
                value_at(one, root.mount.pointer)
                if root.mount.volume_pointer is not None:
                    value_at(one, root.mount.volume_pointer)
    for finding in detection.findings:
        value_at(one, finding.pointer)
    return detection


def test_the_real_pods_have_engines() -> None:
    assert [len(check(one).engines) for one in REAL] == [1, 2, 2]


@settings(deadline=5000)
@given(ANYTHING)
def test_anything_as_a_pod(value: Any) -> None:
    check(value)
    check({"spec": value})
    check({"spec": {"containers": value, "initContainers": [value], "volumes": value}, "metadata": value})
    check(
        {
            "metadata": {"annotations": value, "labels": value},
            "spec": {"containers": [{"name": "c", "image": "docker:dind"}]},
        }
    )


@pytest.mark.parametrize("one", REAL)
def test_real_pods_without_one_of_their_nodes(one: dict[str, Any]) -> None:
    for pointer in list(nodes(one))[1:]:
        changed = copy.deepcopy(one)
        del value_at(changed, pointer[:-1])[pointer[-1]]
        check(changed)


@pytest.mark.parametrize("one", REAL)
@pytest.mark.parametrize(
    "value", [None, 0, -1, 1.5, True, "", "x", "docker:dind", [], {}, [None], {"a": 1}, [[]], [{}], "$(", "\0"]
)
def test_real_pods_with_another_value_in_a_node(one: dict[str, Any], value: Any) -> None:
    for pointer in list(nodes(one))[1:]:
        changed = copy.deepcopy(one)
        value_at(changed, pointer[:-1])[pointer[-1]] = copy.deepcopy(value)
        check(changed)


@settings(deadline=5000)
@given(st.data())
def test_real_pods_with_several_changes(data: st.DataObject) -> None:
    changed = copy.deepcopy(data.draw(st.sampled_from(REAL)))
    for _ in range(data.draw(st.integers(1, 4))):
        pointers = list(nodes(changed))[1:]
        if not pointers:
            break
        pointer = data.draw(st.sampled_from(pointers))
        value_at(changed, pointer[:-1])[pointer[-1]] = data.draw(ANYTHING)
    check(changed)


@pytest.mark.parametrize(
    "image",
    [
        "evil/docker:27-dind;rm",
        "evil/docker:27-dind$(rm)",
        "docker:27-dind rm",
        "a." * 8192 + "!",
        "docker:dind" * 2000,
        "@" * 16384,
    ],
)
def test_images_that_try(image: str) -> None:
    assert check(pod(privileged(image))).engines == ()
    assert known_image(image).program is None


def test_huge_pods() -> None:
    many = pod(
        *[privileged("docker:dind", f"c{index}", mounts={"/x": "v"}) for index in range(300)], volumes=[empty_dir("v")]
    )
    assert len(detect(many, POLICY).engines) == 300
    long = pod(
        privileged("docker:dind", args=["--debug"] * 50_000, env={f"A{index}": "$(A0)" for index in range(5000)})
    )
    start = time.process_time()
    assert len(detect(long, POLICY).engines) == 1
    assert time.process_time() - start < 5


def test_variables_that_grow_do_not_fill_the_memory() -> None:
    one = privileged("docker:dind", args=["--data-root=$(A)"])
    one["env"] = [{"name": "A", "value": "/aaaaaaaa"}, *[{"name": "A", "value": "$(A)$(A)"}] * 64]
    start = time.process_time()
    assert len(detect(pod(one), POLICY).engines) == 1
    assert time.process_time() - start < 5


def test_deep_pods() -> None:
    deep: Any = "dockerd"
    for _ in range(10_000):
        deep = [deep]
    assert (
        detect({"spec": {"containers": [{"image": "docker:dind", "command": deep, "args": deep}]}}, POLICY).engines
        is not None
    )
    quoted = "dockerd"
    for _ in range(12):
        quoted = "sh -c '" + quoted.replace("'", "'\\''") + "'"
    assert detect(pod(privileged("x/y", command=["sh", "-c", quoted])), POLICY).engines == ()
