from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # which kubernetes-validate brings along
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.manifest import parse_yaml
from kata_dind.pod.model import Program
from kata_dind.pod.policy import (
    Answer,
    Certificate,
    Delivery,
    EmptyDirMode,
    ImageRule,
    Policy,
    RuntimeClass,
    Sharing,
    Snapshotter,
    matches,
    parse_policy,
    policy_schema,
    version_numbers,
)
from kata_dind.pod.policy_check import explain_policy, policy_warnings
from kata_dind.vocabulary import DataRootKind

WHOLE = """
runtimeClasses:
- match: kata-dind
  handler: kata-qemu-runtime-rs
  version: 4.1.0
  emptyDir: block-plain
  sharing: virtio-fs
  snapshotter: overlayfs
  virtiofsFit: false
  enableAnnotations: [virtio_fs_extra_args]
  blockStorageClass: fast
  directAssigned: [direct-*]
- match: kata-*
- match: gvisor
  kata: false
repair: true
dataRoot: {kind: loop, size: 50Gi}
images:
- match: registry.example/ci/*-dind:*
  program: dockerd
  version: 27.5.1
  entrypoint: [dockerd-entrypoint.sh]
  user: 0
- match: registry.example/torch
containers: [dind]
registryMirrors: ["https://mirror.example", "http://10.0.0.1:5000/"]
certificates:
- {host: "registry.example:5000", configMap: registry-ca}
- {host: other.example, secret: other-ca}
delivery: image
deliveryImage: registry.example/kata-dind:1.0
unrepaired: deny
guards: {sharedKernel: warn, noBoundary: deny, hostDocker: warn, openAnnotations: "off"}
"""


def from_yaml(text: str) -> Any:
    (data,) = parse_yaml(text)
    return data


def test_a_whole_policy() -> None:
    policy = parse_policy(from_yaml(WHOLE))
    assert policy.runtime_classes[0] == RuntimeClass(
        match="kata-dind",
        handler="kata-qemu-runtime-rs",
        version="4.1.0",
        empty_dir=EmptyDirMode.BLOCK_PLAIN,
        sharing=Sharing.VIRTIO_FS,
        snapshotter=Snapshotter.OVERLAYFS,
        enable_annotations=("virtio_fs_extra_args",),
        block_storage_class="fast",
        direct_assigned=("direct-*",),
    )
    assert policy.data_root.kind is DataRootKind.LOOP
    assert policy.images == (
        ImageRule(
            match="registry.example/ci/*-dind:*",
            program=Program.DOCKERD,
            version="27.5.1",
            entrypoint=("dockerd-entrypoint.sh",),
            user=0,
        ),
        ImageRule(match="registry.example/torch"),
    )
    assert policy.certificates == (
        Certificate(host="registry.example:5000", config_map="registry-ca"),
        Certificate(host="other.example", secret="other-ca"),
    )
    assert (policy.delivery, policy.unrepaired) == (Delivery.IMAGE, Answer.DENY)
    assert policy.guards.open_annotations is Answer.OFF


@pytest.mark.parametrize("data", [None, {}, {"guards": None, "images": None, "dataRoot": {"size": None}}])
def test_what_is_empty_is_the_default(data: Any) -> None:
    assert parse_policy(data) == Policy()


@pytest.mark.parametrize(
    "data",
    [
        {"dataRoot": {"size": "64Mi"}},
        {"dataRoot": {"size": "16Ti"}},
        {"runtimeClasses": [{"match": "a", "version": "4.0", "emptyDir": "block-plain"}]},
        {"runtimeClasses": [{"match": "a", "version": "3.28.0", "emptyDir": "block-encrypted"}]},
        {"runtimeClasses": [{"match": "a", "emptyDir": "block-plain"}]},
        {"registryMirrors": ["https://[2001:db8::1]:5000", "http://localhost"]},
        {"containers": ["a" * 512]},
        {"images": [{"match": "x", "user": 0}, {"match": "y", "user": (1 << 31) - 1}]},
    ],
)
def test_what_is_just_allowed(data: Any) -> None:
    parse_policy(data)


def test_by_default_kata_and_names_that_begin_with_it_are_katas() -> None:
    policy = Policy()
    assert [
        name for name in ("kata", "kata-qemu", "kata-", "katara", "Kata", "my-kata", "") if policy.class_of(name)
    ] == [
        "kata",
        "kata-qemu",
        "kata-",
    ]
    assert set(policy.guards.model_dump().values()) == {Answer.OFF}


def test_the_word_off_may_be_a_boolean_of_yaml_1_1() -> None:
    data = from_yaml("guards: {hostDocker: off}\nunrepaired: off\nrepair: no\n")
    assert data["guards"]["hostDocker"] is False
    policy = parse_policy(data)
    assert (policy.guards.host_docker, policy.unrepaired, policy.repair) == (Answer.OFF, Answer.OFF, False)


FIELDS = (
    "runtimeClasses, repair, dataRoot, images, containers, registryMirrors, certificates, delivery, deliveryImage, "
    "diskImage, unrepaired, registry, guards"
)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ([], "[] is not a mapping of fields"),
        ("kata", "'kata' is not a mapping of fields"),
        ({"runtime_classes": []}, f"runtime_classes: there is no such field; the fields are {FIELDS}"),
        ({"imges": None}, f"imges: there is no such field; the fields are {FIELDS}"),
        ({"a\nb": 1}, f"'a\\nb': there is no such field; the fields are {FIELDS}"),
        (
            {"dataRoot": {"sise": "1Gi"}},
            "dataRoot.sise: there is no such field; the fields are kind, size",
        ),
        (
            {"runtimeClasses": [{"match": "a"}, {"match": "b", "version": "4.x"}]},
            "runtimeClasses[1].version: '4.x' is not a version of Kata; use two or three numbers, like 4.1.0",
        ),
        (
            {"runtimeClasses": [{"match": "a", "version": "4"}]},
            "runtimeClasses[0].version: '4' is not a version of Kata; use two or three numbers, like 4.1.0",
        ),
        (
            {"runtimeClasses": [{"match": "a", "version": 4.1}]},
            "runtimeClasses[0].version: 4.1 is not a text; put it into quotes",
        ),
        (
            {"runtimeClasses": [{"match": "a", "version": "4.1\n"}]},
            "runtimeClasses[0].version: '4.1\\n' is not a version of Kata; use two or three numbers, like 4.1.0",
        ),
        (
            {"runtimeClasses": [{"match": "a", "version": "3.32", "emptyDir": "block-plain"}]},
            "runtimeClasses[0].emptyDir: 'block-plain' is not in Kata 3.32; it came with 4.0",
        ),
        (
            {"runtimeClasses": [{"match": "a", "version": "3.27", "emptyDir": "block-encrypted"}]},
            "runtimeClasses[0].emptyDir: 'block-encrypted' is not in Kata 3.27; it came with 3.28",
        ),
        ({"runtimeClasses": [{}]}, "runtimeClasses[0].match: it is required"),
        ({"containers": [""]}, "containers[0]: '' is not a name or pattern; use one like kata-*"),
        ({"containers": ["a b"]}, "containers[0]: 'a b' is not a name or pattern; use one like kata-*"),
        ({"containers": ["a" * 600]}, f"containers[0]: '{'a' * 78}… is too long; use at most 512 characters"),
        ({"runtimeClasses": ["kata"]}, "runtimeClasses[0]: 'kata' is not a mapping of fields"),
        (
            {"runtimeClasses": {"match": "a"}},
            "runtimeClasses: {'match': 'a'} is not a list; begin each of its lines with -",
        ),
        (
            {"runtimeClasses": [{"match": "a", "emptyDir": "block"}]},
            "runtimeClasses[0].emptyDir: 'block' is unknown; use shared-fs, block-plain or block-encrypted",
        ),
        (
            {"runtimeClasses": [{"match": "a", "blockStorageClass": "Fast"}]},
            "runtimeClasses[0].blockStorageClass: 'Fast' is not a name of Kubernetes; use a-z, 0-9, - and .",
        ),
        ({"repair": "maybe"}, "repair: 'maybe' is unknown; use true or false"),
        ({"registry": {"lookup": "maybe"}}, "registry.lookup: 'maybe' is unknown; use true or false"),
        (
            {"registry": {"timeout": 1}},
            "registry.timeout: there is no such field; the fields are lookup, allowed, timeoutSeconds, mirrors, "
            "insecure, architecture, pullSecrets",
        ),
        (
            {"registry": {"timeoutSeconds": 60}},
            "registry.timeoutSeconds: 60 is not allowed; input should be less than or equal to 20",
        ),
        (
            {"registry": {"architecture": "linux/arm64"}},
            "registry.architecture: 'linux/arm64' is not an architecture; use one like amd64 or arm64",
        ),
        (
            {"registry": {"insecure": ["http://r.example"]}},
            "registry.insecure[0]: 'http://r.example' is not a host of a registry; use one like registry.example:5000",
        ),
        ({"guards": {"noBoundary": True}}, "guards.noBoundary: True is unknown; use off, warn or deny"),
        (
            {"dataRoot": {"size": "1e9Gi"}},
            "dataRoot.size: '1e9Gi' is not a size; use a quantity of Kubernetes, like 20Gi",
        ),
        (
            {"dataRoot": {"size": "20GB"}},
            "dataRoot.size: '20GB' is not a size; use a quantity of Kubernetes, like 20Gi",
        ),
        (
            {"dataRoot": {"size": "-1Gi"}},
            "dataRoot.size: '-1Gi' is not a size; use a quantity of Kubernetes, like 20Gi",
        ),
        ({"dataRoot": {"size": "63Mi"}}, "dataRoot.size: '63Mi' is too small; use at least 64Mi"),
        ({"dataRoot": {"size": "17Ti"}}, "dataRoot.size: '17Ti' is too large; use at most 16Ti"),
        ({"dataRoot": {"size": 20}}, "dataRoot.size: 20 is not a text; put it into quotes"),
        (
            {"dataRoot": {"kind": "disk"}},
            "dataRoot.kind: 'disk' is unknown; use auto, memory, loop, block or virtiofs",
        ),
        (
            {"dataRoot": {"kind": "block"}},
            "dataRoot.kind: the kind block needs a storage class; give a runtime class its blockStorageClass",
        ),
        (
            {"dataRoot": {"kind": "memory"}},
            "dataRoot.size: the kind memory needs a size, which is taken from the memory; use one like 4Gi",
        ),
        (
            {"images": [{"match": "x", "version": "latest"}]},
            "images[0].version: 'latest' is not a version; use up to three numbers, like 27.5.1",
        ),
        (
            {"images": [{"match": "x", "program": "podman"}]},
            "images[0].program: 'podman' is unknown; use dockerd, buildkitd, containerd, dagger or earthly",
        ),
        (
            {"images": [{"match": "x", "user": -1}]},
            "images[0].user: -1 is not allowed; input should be greater than or equal to 0",
        ),
        ({"delivery": "init"}, "deliveryImage: the delivery init needs an image; name one, or use inline"),
        (
            {"delivery": "image", "deliveryImage": "a image"},
            "deliveryImage: 'a image' is not an image; use a reference, like registry.example/kata-dind:1.0",
        ),
        (
            {"registryMirrors": ["mirror.example"]},
            "registryMirrors[0]: 'mirror.example' is not a URL of a registry; use one like https://mirror.example",
        ),
        (
            {"registryMirrors": ["https://mirror.example/docker"]},
            "registryMirrors[0]: 'https://mirror.example/docker' has more than a host and a port, which dockerd "
            "refuses; use one like https://mirror.example",
        ),
        (
            {"registryMirrors": ["https://me:secret@mirror.example"]},
            "registryMirrors[0]: 'https://me:secret@mirror.example' has more than a host and a port, which dockerd "
            "refuses; use one like https://mirror.example",
        ),
        (
            {"registryMirrors": ["https://mirror.example:0"]},
            "registryMirrors[0]: 'https://mirror.example:0' is not a URL of a registry; use one like "
            "https://mirror.example",
        ),
        ({"repair": [], "images": []}, "repair: [] is unknown; use true or false"),
        ({"delivery": ["image"]}, "delivery: ['image'] is unknown; use inline, image or init"),
        ({"deliveryImage": ["x"]}, "deliveryImage: ['x'] is not a text"),
        (
            {"registryMirrors": ["https://mirror.example:99999"]},
            "registryMirrors[0]: 'https://mirror.example:99999' is not a URL; use one like https://mirror.example",
        ),
        (
            {"certificates": [{"host": "a.example"}]},
            "certificates[0]: it needs the name of a ConfigMap or of a Secret; use configMap or secret, one of them",
        ),
        (
            {"certificates": [{"host": "a.example", "secret": "x", "configMap": "y"}]},
            "certificates[0]: it needs the name of a ConfigMap or of a Secret; use configMap or secret, one of them",
        ),
        (
            {"certificates": [{"host": "../..", "secret": "x"}]},
            "certificates[0].host: '../..' is not a host of a registry; use one like registry.example:5000",
        ),
        (
            {"certificates": [{"host": "a.example", "secret": "x"}, {"host": "a.example", "secret": "y"}]},
            "certificates[1].host: 'a.example' is there twice; leave one of them out",
        ),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_is_allowed(data: Any, refusal: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_policy(data)
    assert caught.value.summary == f"policy: {refusal}"
    assert caught.value.exit_code == 2


def test_a_long_value_is_not_shown_as_a_whole() -> None:
    with pytest.raises(SpecError) as caught:
        parse_policy({"dataRoot": {"size": "9" * 100_000}})
    assert len(caught.value.summary) < 200


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Policy.model_json_schema()["properties"], "match", "size", "host", "x"]), inner
            )
        ),
        max_leaves=10,
    )
)
def test_anything_is_a_policy_or_one_line(data: Any) -> None:
    try:
        parse_policy(data)
    except SpecError as error:
        assert error.summary.startswith("policy: ")
        assert error.summary.isprintable()


def test_the_schema_takes_what_the_parser_takes() -> None:
    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    data = from_yaml(WHOLE)
    validator.validate(data)
    validator.validate({})
    refused: list[dict[str, Any]] = [{"runtime_classes": []}, {"guards": {"hostDocker": "never"}}, {"images": [{}]}]
    assert not [wrong for wrong in refused if validator.is_valid(wrong)]


def test_the_schema_describes_each_field() -> None:
    schema = policy_schema()
    models = {"Policy": schema, **schema["$defs"]}
    undescribed = [
        f"{name}.{field}"
        for name, model in models.items()
        for field, properties in model.get("properties", {}).items()
        if "description" not in properties and "$ref" not in properties
    ]
    assert undescribed == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), ("4.1", (4, 1, 0)), ("4.1.0", (4, 1, 0)), ("3.31.2", (3, 31, 2)), ("27", (27, 0, 0))],
)
def test_versions_have_three_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


def test_patterns() -> None:
    assert matches("kata-*", "kata-qemu")
    assert matches("kata-[cq]*", "kata-clh")
    assert matches("kata-?", "kata-\n")
    assert not matches("kata", "kata-qemu")
    assert not matches("kata.qemu", "kata-qemu")


def explained(**entry: Any) -> Any:
    return explain_policy(parse_policy({"runtimeClasses": [{"match": "kata-qemu", "version": "4.1.0", **entry}]}))[0]


@pytest.mark.parametrize(
    ("entry", "kind", "because"),
    [
        ({}, "loop", "nothing better is there"),
        ({"emptyDir": "block-plain"}, "block-plain", "Kata makes a disk of each plain emptyDir"),
        ({"blockStorageClass": "fast"}, "block", "the storage class `fast` gives block devices"),
        ({"virtiofsFit": True}, "", "overlay works on the share"),
        ({"version": "3.13.0"}, "", "can't mount a loop disk (kata#10808)"),
        ({"match": "kata-fc"}, "", "shares no directories with its guest, so its pods are left as they are"),
        ({"match": "kata-qemu-tdx"}, "", "confidential handler"),
        ({"match": "kata-qemu-nvidia-gpu-runtime-rs"}, "block-plain", "Kata makes a disk"),
        ({"match": "kata-openvmm-azure-runtime-rs", "blockStorageClass": "fast"}, "loop", "nothing better"),
    ],
)
def test_a_policy_is_explained_by_what_a_pod_gets(entry: dict[str, Any], kind: str, because: str) -> None:
    found = explained(**entry)
    assert [each.kind for each in found.kinds] == [kind]
    assert because in found.kinds[0].because


@pytest.mark.parametrize(
    ("data_root", "entry", "kind", "because"),
    [
        ("memory", {"emptyDir": "block-plain"}, "memory", "the policy asks for it"),
        ("loop", {"emptyDir": "block-plain", "blockStorageClass": "fast"}, "loop", "the policy asks for it"),
        ("loop", {"sharing": "none", "emptyDir": "block-plain"}, "loop", ""),
        ("loop", {"sharing": "none", "blockStorageClass": "fast"}, "", "there is no place for a loop disk"),
        ("block", {"blockStorageClass": "fast"}, "block", "the storage class `fast`"),
        ("virtiofs", {}, "", "overlay does not work on the share"),
        ("virtiofs", {"virtiofsFit": True}, "", "overlay works on the share"),
        ("loop", {"virtiofsFit": True}, "", "overlay works on the share"),
    ],
)
def test_the_policys_kind_decides(data_root: str, entry: dict[str, Any], kind: str, because: str) -> None:
    classes = [{"match": "kata-qemu", "version": "4.1.0", **entry}]
    policy = parse_policy({"runtimeClasses": classes, "dataRoot": {"kind": data_root, "size": "4Gi"}})
    (found,) = explain_policy(policy)[0].kinds
    assert found.kind == kind
    assert because in found.because


def test_a_pattern_is_explained_by_the_classes_of_kata_that_come_to_it() -> None:
    policy = parse_policy(
        {"runtimeClasses": [{"match": "kata-qemu*", "kata": False}, {"match": "kata-*", "version": "4.1"}]}
    )
    not_katas, others = explain_policy(policy)
    assert (not_katas.is_kata, not_katas.kinds) == (False, ())
    kinds = {name: kind.kind for kind in others.kinds for name in kind.classes}
    assert kinds == {
        **dict.fromkeys(("kata-clh", "kata-clh-azure", "kata-clh-azure-runtime-rs", "kata-clh-runtime-rs"), "loop"),
        **{"kata-dragonball": "loop", "kata-openvmm-azure-runtime-rs": "loop", "kata-fc": "", "kata-remote": ""},
    }
    assert others.warnings == ()


def test_a_pattern_with_a_handler_or_of_other_names_stands_for_its_classes() -> None:
    policy = parse_policy(
        {
            "runtimeClasses": [
                {"match": "kata-*", "handler": "kata-clh", "version": "4.1"},
                {"match": "isolated-*", "version": "4.1"},
            ]
        }
    )
    katas, others = explain_policy(policy)
    assert [(kind.classes, kind.kind) for kind in (*katas.kinds, *others.kinds)] == [
        (("kata-*",), "loop"),
        (("isolated-*",), "loop"),
    ]
    assert katas.about.startswith("the RuntimeClass `kata-*` has by the policy the handler `kata-clh`, which runs")
    assert katas.warnings == ()
    assert others.warnings == (
        "handler: `isolated-*` is not one of Kata's own; name the one that it is based on, like kata-qemu",
    )


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        ({"version": None}, "version: it is not given"),
        ({"match": "kata-dind"}, "handler: `kata-dind` is not one of Kata's own"),
        ({"match": "Kata"}, "match: the name of a RuntimeClass has a-z"),
        ({"virtiofsFit": True, "sharing": "none"}, "virtiofsFit: it does nothing with the sharing none"),
        ({"enableAnnotations": ["virtio_*"]}, "enableAnnotations: with virtio_fs_extra_args"),
        ({"directAssigned": ["x"]}, "directAssigned: from Kata 3.26 on"),
        (
            {"match": "kata-openvmm-azure-runtime-rs", "blockStorageClass": "fast"},
            "blockStorageClass: whether OpenVMM can plug in",
        ),
        (
            {"match": "kata-openvmm-azure-runtime-rs", "emptyDir": "block-plain"},
            "emptyDir: whether OpenVMM can plug in",
        ),
        ({"version": "3.13.0"}, "version: the guest kernel of Kata 3.13 can't mount a loop disk"),
        (
            {"match": "kata-qemu-runtime-rs", "version": "3.30"},
            "version: before 3.31, Kata's Rust runtime runs virtiofsd",
        ),
    ],
)
def test_what_looks_like_a_mistake_is_said(entry: dict[str, Any], warning: str) -> None:
    assert [text for text in explained(**entry).warnings if text.startswith(warning)]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"match": "kata-qemu-runtime-rs", "directAssigned": ["x"]},
        {"version": "3.25.0", "directAssigned": ["x"]},
        {"match": "kata-dind", "handler": "kata-qemu"},
        {"virtiofsFit": True},
    ],
)
def test_what_is_right_has_no_warning(entry: dict[str, Any]) -> None:
    assert explained(**entry).warnings == ()


@pytest.mark.parametrize(
    ("earlier", "later", "is_covered"),
    [
        ("kata-*", "kata-qemu", True),
        ("kata-*", "kata-qemu-*", True),
        ("kata-*", "kata-*", True),
        ("*", "kata-?", True),
        ("kata-qemu", "kata-*", False),
        ("kata-?", "kata-*", False),
        ("kata-?", "kata-?", True),
        ("kata-?", "kata-a", True),
        ("kata-[*]", "kata-*", False),
    ],
)
def test_what_is_never_reached_is_said(earlier: str, later: str, is_covered: bool) -> None:
    policy = parse_policy({"runtimeClasses": [{"match": earlier}, {"match": later}]})
    said = f"it is never reached, since {earlier!r} stands before it"
    assert (explain_policy(policy)[1].warnings == (said,)) is is_covered
    images = parse_policy({"images": [{"match": earlier}, {"match": later}]})
    assert bool([text for text in policy_warnings(images) if text.startswith("images[1]")]) is is_covered


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        ({"runtimeClasses": []}, "runtimeClasses: none of them is Kata's, so nothing is ever repaired"),
        (
            {"images": [{"match": "x", "entrypoint": ["a"]}]},
            "images[0]: it names no program, so its other fields do nothing",
        ),
        ({"deliveryImage": "x"}, "deliveryImage: it is not used, since the delivery is inline"),
        (
            {"dataRoot": {"kind": "virtiofs"}},
            "dataRoot.kind: no runtime class has virtiofsFit, so no pod can get the kind virtiofs",
        ),
    ],
)  # fmt: skip
def test_warnings_about_the_rest(data: dict[str, Any], warning: str) -> None:
    assert policy_warnings(parse_policy(data)) == [warning]


def test_the_default_policy_has_no_warning() -> None:
    assert policy_warnings(Policy()) == []


def test_this_room_alone_knows_pydantic_in_its_policy() -> None:
    room = Path(__file__).parents[3] / "src" / "kata_dind" / "pod"
    assert [path.name for path in sorted(room.glob("*.py")) if "pydantic" in path.read_text()] == ["policy.py"]


def test_no_registry_is_asked_unless_the_policy_says_so() -> None:
    assert not Policy().registry.lookup
    assert parse_policy({"registry": {"lookup": True}}).registry.lookup


def test_what_looks_like_a_mistake_about_registries_is_said() -> None:
    registry = {"lookup": True, "allowed": ["*", "https://r.example"], "insecure": ["s.example"]}
    said = policy_warnings(parse_policy({"registry": registry}))
    assert [each.partition(":")[0] for each in said] == ["registry.allowed[0]", "registry.allowed[1]"]
    registry = {"lookup": True, "allowed": ["r.example/team"], "insecure": ["r.example", "s.example"]}
    [one] = policy_warnings(parse_policy({"registry": registry}))
    assert one.startswith("registry.insecure[1]: 's.example' is not one of registry.allowed")
    [one] = policy_warnings(parse_policy({"registry": {"lookup": True, "allowed": []}}))
    assert "no registry is asked" in one
