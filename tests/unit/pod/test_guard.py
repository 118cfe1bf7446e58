from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.guard import guard
from kata_dind.pod.handlers import ANNOTATIONS
from kata_dind.pod.model import Detection, Engine, Launch, Program
from kata_dind.pod.policy import Answer, Guards, Policy, RuntimeClass

OFF, WARN, DENY = Answer.OFF, Answer.WARN, Answer.DENY
EXTRA_ARGS = ANNOTATIONS + "virtio_fs_extra_args"
PRIVILEGED = {"name": "dind", "image": "docker:27-dind", "securityContext": {"privileged": True}}


def engine(*, privileged: bool = True) -> Engine:
    return Engine(
        list="containers",
        index=0,
        container="dind",
        program=Program.DOCKERD,
        version=(27,),
        launch=Launch.IMAGE,
        entrypoint=(),
        command=(),
        roots=(),
        evidence=(),
        privileged=privileged,
    )


def policy(*, guards: Guards, **fields: Any) -> Policy:
    return Policy(runtime_classes=(RuntimeClass(match="kata*", **fields),), guards=guards)


def guarded(
    pod: dict[str, Any], rules: Policy, runtime_class: str = "kata-qemu", *, is_kata: bool = True, engines: Any = ()
) -> list[tuple[Answer, str, str]]:
    detection = Detection(tuple(engines), runtime_class=runtime_class, is_kata=is_kata)
    return [(answer, finding.id, finding.message) for answer, finding in guard(pod, rules, detection)]


EVERYTHING = {
    "metadata": {"annotations": {EXTRA_ARGS: "--shared-dir=/"}},
    "spec": {
        "containers": [{**PRIVILEGED, "volumeMounts": [{"name": "sock", "mountPath": "/var/run/docker.sock"}]}],
        "volumes": [{"name": "sock", "hostPath": {"path": "/var/run/docker.sock"}}],
    },
}


def test_all_guards_are_off_by_default() -> None:
    for runtime_class, is_kata in (("", False), ("kata-clh-runtime-rs", True)):
        assert not guarded(EVERYTHING, Policy(), runtime_class, is_kata=is_kata, engines=[engine()])


def test_each_guard_gives_its_own_answer() -> None:
    guards = Guards(no_boundary=DENY, host_docker=WARN, open_annotations=DENY)
    found = guarded(EVERYTHING, policy(guards=guards, version="3.20.0"), "kata-clh", engines=[engine()])
    assert [each[:2] for each in found] == [
        (WARN, "guard.host-docker"),
        (DENY, "guard.no-boundary"),
        (DENY, "guard.open-annotations"),
    ]


@pytest.mark.parametrize("answer", [WARN, DENY])
def test_a_privileged_daemon_outside_a_vm(answer: Answer) -> None:
    rules = policy(guards=Guards(shared_kernel=answer))
    assert guarded(EVERYTHING, rules, "runc", is_kata=False, engines=[engine()]) == [
        (
            answer,
            "guard.shared-kernel",
            "`dockerd` is privileged here and shares the kernel of the node: the pod has the RuntimeClass `runc`, "
            "which is not Kata's by the policy.",
        )
    ]
    assert "the pod has no RuntimeClass" in guarded(EVERYTHING, rules, "", is_kata=False, engines=[engine()])[0][2]
    assert not guarded(EVERYTHING, rules, "runc", is_kata=False, engines=[engine(privileged=False)])
    assert not guarded(EVERYTHING, rules, "runc", is_kata=False)
    assert not guarded(EVERYTHING, rules, "kata-qemu", engines=[engine()])


FUSE, IMAGE = "GHSA-2gv2-cffp-j227", "GHSA-wwj6-vghv-5p64"


@pytest.mark.parametrize(
    ("runtime_class", "fields", "expected"),
    [
        ("kata-qemu-runtime-rs", {"version": "3.30.0"}, [(DENY, FUSE)]),
        ("kata-qemu-runtime-rs", {"version": "3.31.0"}, []),
        ("kata-qemu-runtime-rs", {"version": "4.1.0"}, []),
        ("kata-qemu-runtime-rs", {"version": "3.30.0", "sharing": "none"}, []),
        ("kata-qemu-runtime-rs", {}, [(WARN, FUSE)]),
        ("kata-qemu", {"version": "3.30.0"}, []),
        ("kata-qemu", {}, []),
        ("kata-dragonball", {"version": "3.30.0"}, []),
        ("kata-dragonball", {}, []),
        ("kata-clh-runtime-rs", {"version": "3.30.0"}, [(DENY, FUSE)]),
        ("kata-clh-runtime-rs", {"version": "3.26.0"}, [(DENY, FUSE), (DENY, IMAGE)]),
        ("kata-cloud-hypervisor", {"version": "3.10.0"}, [(DENY, FUSE), (DENY, IMAGE)]),
        ("kata-clh", {"version": "3.26.0"}, [(DENY, IMAGE)]),
        ("kata-clh", {"version": "3.27.0"}, []),
        ("kata-clh", {}, [(WARN, IMAGE)]),
        ("kata-fc", {"version": "3.0.0"}, []),
        ("kata", {"version": "3.30.0"}, []),
        ("kata", {}, []),
        ("kata-dind", {"version": "3.26.0"}, [(WARN, FUSE), (WARN, IMAGE)]),
        ("kata-dind", {"version": "3.30.0"}, [(WARN, FUSE)]),
        ("kata-dind", {"version": "4.0.0"}, []),
        ("kata-dind", {}, [(WARN, FUSE), (WARN, IMAGE)]),
        ("kata-dind", {"version": "3.30.0", "handler": "kata-qemu-runtime-rs"}, [(DENY, FUSE)]),
    ],
)
def test_versions_that_are_no_boundary(runtime_class: str, fields: dict[str, Any], expected: list[Any]) -> None:
    pod = {"spec": {"containers": [PRIVILEGED]}}
    rules = policy(guards=Guards(no_boundary=DENY), **fields)
    found = guarded(pod, rules, runtime_class, engines=[engine()])
    assert [(answer, FUSE if FUSE in message else IMAGE) for answer, _, message in found] == expected
    assert all((FUSE in message) != (IMAGE in message) for _, _, message in found)
    for answer, _, message in found:
        assert message.startswith("The VM is no" if answer is DENY else "The VM may be no")
        assert ("does not give the version" in message) is ("version" not in fields)


@pytest.mark.parametrize(
    ("context", "is_privileged"),
    [
        ({"privileged": True}, True),
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, True),
        ({"capabilities": {"add": ["cap_sys_admin"]}}, True),
        ({"capabilities": {"add": ["ALL"]}}, True),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, False),
        ({"privileged": False}, False),
        ({"privileged": "true"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("list_name", ["containers", "initContainers", "ephemeralContainers"])
def test_the_boundary_matters_to_privileged_containers(
    context: dict[str, Any], is_privileged: bool, list_name: str
) -> None:
    rules = policy(guards=Guards(no_boundary=DENY), version="3.26")
    pod = {"spec": {list_name: [{"name": "other"}, {"name": "x", "securityContext": context}]}}
    assert bool(guarded(pod, rules, "kata-clh")) is is_privileged
    detection = Detection(runtime_class="kata-clh", is_kata=True)
    assert [finding.pointer for _, finding in guard(pod, rules, detection)] == [("spec", list_name, 1)] * is_privileged


def test_an_engine_that_has_what_it_needs_counts_as_privileged() -> None:
    rules = policy(guards=Guards(no_boundary=DENY), version="3.26")
    pod = {"spec": {"containers": [{"name": "dind"}]}}
    assert guarded(pod, rules, "kata-clh", engines=[engine()])
    assert not guarded(pod, rules, "kata-clh", engines=[engine(privileged=False)])


@pytest.mark.parametrize(
    ("runtime_class", "fields", "expected"),
    [
        ("kata-qemu", {"version": "3.1.3"}, WARN),
        ("kata-qemu", {"version": "3.2.0"}, DENY),
        ("kata-qemu", {"version": "3.30.0"}, DENY),
        ("kata-qemu", {"version": "3.31.0"}, WARN),
        ("kata-qemu", {"version": "4.1.0"}, WARN),
        ("kata-qemu", {"version": "4.1.0", "enable_annotations": ("virtio_fs_*",)}, DENY),
        ("kata-qemu", {"enable_annotations": ("virtio_fs_extra_args",)}, DENY),
        ("kata-qemu", {}, WARN),
        ("kata-qemu-runtime-rs", {"version": "3.23.0"}, WARN),
        ("kata-qemu-runtime-rs", {"version": "3.24.0"}, DENY),
        ("kata-qemu-runtime-rs", {"version": "3.31.0"}, WARN),
    ],
)
def test_extra_arguments_for_virtiofsd(runtime_class: str, fields: dict[str, Any], expected: Answer) -> None:
    rules = policy(guards=Guards(open_annotations=DENY), **fields)
    found = guarded(EVERYTHING, rules, runtime_class)
    assert [each[:2] for each in found] == [(expected, "guard.open-annotations")]
    assert not guarded({"metadata": {"annotations": {}}, "spec": EVERYTHING["spec"]}, rules, runtime_class)
    assert not guarded(EVERYTHING, rules, "runc", is_kata=False)


@pytest.mark.parametrize(("version", "expected"), [("3.30.0", [DENY]), ("", [WARN]), ("3.31.0", []), ("3.1.0", [])])
def test_a_pod_that_opens_the_boundary_itself_needs_no_privileges(version: str, expected: list[Answer]) -> None:
    pod = {"metadata": EVERYTHING["metadata"], "spec": {"containers": [{"name": "x"}]}}
    found = guarded(pod, policy(guards=Guards(no_boundary=DENY), version=version), "kata-qemu")
    assert [each[:2] for each in found] == [(answer, "guard.no-boundary") for answer in expected]
    both = policy(guards=Guards(no_boundary=DENY, open_annotations=WARN), version=version)
    assert [each[:2] for each in guarded(pod, both, "kata-qemu")] == [(WARN, "guard.open-annotations")]


@pytest.mark.parametrize(
    ("path", "mount", "expected"),
    [
        ("/var/run/docker.sock", {}, DENY),
        ("/var/run/docker.sock", {"readOnly": True}, DENY),
        ("/run/docker.sock/", {}, DENY),
        ("//run/./containerd/containerd.sock", {}, DENY),
        ("/run/k3s/containerd/containerd.sock", {}, DENY),
        ("/run", {}, DENY),
        ("/var/run", {"subPath": "docker.sock"}, DENY),
        ("/var/run", {"subPath": "other"}, None),
        ("/var/lib/docker", {}, DENY),
        ("/var/lib/docker/containers", {}, DENY),
        ("/var/lib/docker/containers", {"readOnly": True}, WARN),
        ("/var/lib/containerd", {}, DENY),
        ("/var/lib", {}, WARN),
        ("/", {"readOnly": True}, WARN),
        ("/", {"subPath": "var/lib/docker"}, DENY),
        ("/var/lib/docker2", {}, None),
        ("/var/lib/kubelet", {}, None),
        ("/dev/fuse", {}, None),
        ("", {}, None),
    ],
)
def test_the_nodes_docker(path: str, mount: dict[str, Any], expected: Answer | None) -> None:
    pod = {
        "spec": {
            "containers": [{"name": "main"}],
            "initContainers": [{"name": "x", "volumeMounts": [{"name": "v", "mountPath": "/x", **mount}]}],
            "volumes": [{"name": "w", "emptyDir": {}}, {"name": "v", "hostPath": {"path": path}}],
        }
    }
    rules = policy(guards=Guards(host_docker=DENY))
    for runtime_class, is_kata in (("kata-qemu", True), ("", False)):
        detection = Detection(runtime_class=runtime_class, is_kata=is_kata)
        found = guard(pod, rules, detection)
        assert [answer for answer, _ in found] == [expected] * (expected is not None)
        for _, finding in found:
            assert (finding.id, finding.container) == ("guard.host-docker", "x")
            assert finding.pointer == ("spec", "initContainers", 0, "volumeMounts", 0)


def test_a_host_path_that_nobody_mounts_reaches_nothing() -> None:
    pod = {"spec": {"containers": [{"name": "x"}], "volumes": [{"name": "v", "hostPath": {"path": "/run"}}]}}
    assert not guarded(pod, policy(guards=Guards(host_docker=DENY)))


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "/run", "SYS_ADMIN", EXTRA_ARGS]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "metadata",
                        "annotations",
                        "spec",
                        "containers",
                        "volumes",
                        "name",
                        "hostPath",
                        "path",
                        "subPath",
                    ),
                    *("volumeMounts", "securityContext", "capabilities", "add", "privileged", EXTRA_ARGS),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.dictionaries(st.sampled_from(["metadata", "spec"]), odd), st.sampled_from(["kata-clh", "kata-x", "", "a\x1b"])
)
def test_no_pod_is_too_odd(pod: dict[str, Any], runtime_class: str) -> None:
    guards = Guards(shared_kernel=WARN, no_boundary=WARN, host_docker=WARN, open_annotations=WARN)
    detection = Detection((engine(),), runtime_class=runtime_class, is_kata=False)
    for answer, finding in guard(pod, policy(guards=guards), detection):
        assert answer is WARN
        assert finding.message.isprintable()
