from __future__ import annotations

import json
import string
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.spec import (
    Accelerator,
    BackendName,
    DataRootKind,
    Fallback,
    Filesystem,
    NetworkMode,
    SandboxSpec,
    parse_name,
    parse_share,
    parse_size,
    parse_spec,
    require_same,
    spec_from_json,
    spec_to_json,
)
from kata_dind.vocabulary import BACKEND_MODULES

path_parts = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8).filter(
    lambda part: part not in {".", ".."}
)


def refusal(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(**{"name": "demo", **fields})
    assert "\n" not in caught.value.summary
    return caught.value.summary


@pytest.mark.parametrize(
    ("fields", "id"),
    [
        ({"size": "big"}, "spec.wrong-value"),
        ({"name": "Demo"}, "spec.wrong-value"),
        ({"cpus": 0}, "spec.wrong-value"),
        ({"colour": "red"}, "spec.unknown-field"),
        ({"volume": "work", "data_root": "memory"}, "spec.volume-in-memory"),
        ({"seed": "work", "cold": True}, "spec.seed-with-cold"),
        ({"host_ports": ["5432"], "network": "none"}, "spec.host-port-without-network"),
        ({"backend": "kubernetes"}, "backend.not-installed"),
        ({"backend": "kubernets"}, "spec.wrong-value"),
    ],
)
def test_a_refusal_has_the_id_of_its_cause(fields: dict[str, Any], id: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(**{"name": "demo", **fields})
    assert caught.value.id == id


def test_defaults() -> None:
    spec = parse_spec(name="demo")
    assert spec.model_dump() == {
        "name": "demo",
        "backend": BackendName.VM,
        "data_root": DataRootKind.AUTO,
        "volume": "",
        "size": None,
        "filesystem": Filesystem.EXT4,
        "fallback": Fallback.NONE,
        "virtiofs_xattr": True,
        "cpus": 2,
        "memory": "2G",
        "image": "",
        "kernel": None,
        "accelerator": Accelerator.AUTO,
        "network": NetworkMode.NAT,
        "allow_link_local": False,
        "publish_addresses": (),
        "host_ports": (),
        "shares": (),
        "watch": False,
        "cold": False,
        "seed": "",
        "handler": "",
        "allow_shared_kernel": False,
        "allow_known_holes": False,
        "containerd_address": Path("/run/containerd/containerd.sock"),
        "dockerd_args": (),
        "timeout_seconds": 180.0,
    }
    assert (spec.size_bytes, spec.memory_bytes) == (20 << 30, 2 << 30)


def test_words_become_enums_and_shares() -> None:
    spec = parse_spec(
        name="demo", data_root="loop", accelerator="tcg", network="none", shares=["./src:/src:ro", "/a:/b"]
    )
    assert (spec.data_root, spec.accelerator, spec.network) == (DataRootKind.LOOP, Accelerator.TCG, NetworkMode.NONE)
    assert [(share.host_path, share.guest_path, share.read_only) for share in spec.shares] == [
        (Path("src"), PurePosixPath("/src"), True),
        (Path("/a"), PurePosixPath("/b"), False),
    ]


def test_a_spec_survives_json() -> None:
    spec = parse_spec(name="demo", shares=["/a:/b:ro"], kernel="/boot/vmlinuz", dockerd_args=["--debug"])
    assert spec_from_json(spec_to_json(spec)) == spec


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1K", 1024), ("512M", 512 << 20), ("20G", 20 << 30), ("20g", 20 << 30), ("20GB", 20 << 30), ("20Gi", 20 << 30),
     ("20GiB", 20 << 30), ("1.5G", 3 << 29), ("1T", 1 << 40)],
)  # fmt: skip
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "-1", "0", "20", "20X", "-1G", "0G", "0.0001K", "G", "1e3G", "1 G", "1G ", "nanG", "٣G", "1G\n"]
)
def test_sizes_that_are_none(text: str) -> None:
    assert refusal(size=text).startswith(f"--size: {text!r} is ")
    assert refusal(memory=text).endswith("use a number and a unit, like 512M or 20G")


def test_the_size_of_a_disk_is_whole_mebibytes() -> None:
    assert parse_spec(name="demo", size="64.0009765626M").size_bytes == 64 << 20


def test_size_limits() -> None:
    assert parse_spec(name="demo", size="64M", memory="256M")
    assert refusal(size="63.9M") == "--size: '63.9M' is too small; it must be at least 64M"
    assert refusal(memory="255M") == "--memory: '255M' is too small; it must be at least 256M"
    assert refusal(size="17T") == "--size: '17T' is too large; it must be at most 16T"
    assert "too large" in refusal(size="9" * 5000 + "T")


@given(number=st.integers(1, 10**6), unit=st.sampled_from("KMGT"), suffix=st.sampled_from(["", "i", "iB", "B"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, suffix: str) -> None:
    assert parse_size(f"{number}{unit}{suffix}") == number * 1024 ** ("KMGT".index(unit) + 1)


@given(st.text())
def test_any_text_is_a_size_above_zero_or_refused(text: str) -> None:
    try:
        assert parse_size(text) > 0
    except ValueError as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize("name", ["a", "0", "ci-1", "a" * 40])
def test_names(name: str) -> None:
    assert parse_name(name) == name == parse_spec(name=name).name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a/b", "..", ".", "a_b", "ä", "a" * 41, "a\n", "a b", "\uff11", "a\0"]
)
def test_names_that_are_none(name: str) -> None:
    message = (
        f"name: {name!r} is not a name; use 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit"
    )
    assert refusal(name=name) == message
    with pytest.raises(SpecError) as caught:
        parse_name(name)
    assert caught.value.summary == message


@given(st.text())
def test_a_name_is_a_plain_file_name(name: str) -> None:
    try:
        parse_name(name)
    except SpecError:
        return
    assert Path(name).name == name
    assert name.isascii()
    assert not name.startswith("-")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", (Path("/a"), PurePosixPath("/b"), False)),
        ("/a:/b:ro", (Path("/a"), PurePosixPath("/b"), True)),
        ("/a:b:/c", (Path("/a:b"), PurePosixPath("/c"), False)),
        ("./a:/b/./c//d/", (Path("a"), PurePosixPath("/b/c/d"), False)),
        ("ro:/ro:ro", (Path("ro"), PurePosixPath("/ro"), True)),
        ("/home/me/src", (Path("/home/me/src"), PurePosixPath("/home/me/src"), False)),
        ("/home/me/src:ro", (Path("/home/me/src"), PurePosixPath("/home/me/src"), True)),
    ],
)
def test_shares(text: str, expected: tuple[Path, PurePosixPath, bool]) -> None:
    share = parse_share(text)
    assert (share.host_path, share.guest_path, share.read_only) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a share"),
        (":ro", "is not a share"),
        (".", "must be absolute"),
        ("src:ro", "must be absolute"),
        ("/etc", "guest's own /etc"),
        ("/a/../b", "without '..'"),
        ("/a:", "is not a share"),
        (":/b", "is not a share"),
        ("/a::ro", "is not a share"),
        ("/a:b", "must be absolute"),
        ("/a:/b/../c", "without '..'"),
        ("/a://b", "must be absolute"),
        ("/a:/b:rw", "writable without that"),
        ("/a:/", "guest's own /"),
        ("/a:/usr/bin/", "guest's own /usr/bin"),
        ("/a:/proc/1", "guest's own /proc/1"),
        ("/a:/var/lib/docker/x", "guest's own"),
        ("/a\n:/b", "control character"),
    ],
)
def test_shares_that_are_none(text: str, reason: str) -> None:
    message = refusal(shares=[text])
    assert message.startswith("--share: ")
    assert repr(text) in message
    assert reason in message


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        (["/a:/x", "/b:/x"], "'/x' is used twice"),
        (["/a:/x", "/b:/x/y"], "'/x/y' is used inside '/x'"),
        (["/a:/x/y", "/b:/z", "/c:/x/"], "'/x/y' is used inside '/x'"),
    ],
)
def test_shares_that_nest(shares: list[str], reason: str) -> None:
    assert reason in refusal(shares=shares)


def test_shares_beside_each_other() -> None:
    assert len(parse_spec(name="demo", shares=["/a:/x", "/a:/xy", "/a:/y/x"]).shares) == 3


@given(st.lists(path_parts, min_size=1, max_size=4), st.lists(path_parts, min_size=1, max_size=4), st.booleans())
def test_a_share_is_read_as_it_is_written(host_parts: list[str], guest_parts: list[str], read_only: bool) -> None:
    assume(guest_parts[0] not in {"dev", "proc", "sys"} and len(guest_parts) > 2 and guest_parts[0] != "var")
    host, guest = "/" + "/".join(host_parts), "/" + "/".join(guest_parts)
    share = parse_share(f"{host}:{guest}{':ro' if read_only else ''}")
    assert (str(share.host_path), str(share.guest_path), share.read_only) == (host, guest, read_only)


@given(st.text(alphabet=st.sampled_from("/.:aro\n")))
def test_a_guest_path_is_absolute_and_normal_whatever_is_typed(text: str) -> None:
    try:
        share = parse_share(text)
    except ValueError:
        return
    assert share.guest_path.is_absolute()
    assert ".." not in share.guest_path.parts
    assert len(share.guest_path.parts) > 1


def test_flags_for_dockerd() -> None:
    flags = ("--debug", "--registry-mirror=http://a b/?c=--host", "--feature=containerd-snapshotter=true", "--label=")
    assert parse_spec(name="demo", dockerd_args=[*flags]).dockerd_args == flags


@pytest.mark.parametrize(
    "flag", ["", "-", "--", "---debug", "debug", "-D", "-DH=tcp://0.0.0.0", "-H", "-g", "--Debug", "--=x", "overlay2"]
)
def test_flags_for_dockerd_that_are_none(flag: str) -> None:
    assert refusal(dockerd_args=["--debug", flag]) == (
        f"--dockerd-arg: {flag!r} is not a long flag of dockerd; "
        "use --NAME or --NAME=VALUE, like --registry-mirror=https://mirror.example"
    )


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("host", "the sandbox's endpoint is the way to dockerd"),
        ("data-root", "choose what lies under it by --data-root"),
        ("graph", "choose what lies under it by --data-root"),
        ("config-file", "share the file as /etc/docker/daemon.json instead"),
    ],
)
def test_flags_for_dockerd_that_are_ours(name: str, instead: str) -> None:
    for flag in (f"--{name}", f"--{name}=x"):
        assert refusal(dockerd_args=[flag]) == f"--dockerd-arg: {flag!r} is set by kata-dind itself; {instead}"
    assert parse_spec(name="demo", dockerd_args=[f"--{name}s"])


def test_a_flag_for_dockerd_has_no_control_character() -> None:
    assert refusal(dockerd_args=["--label=a\nb"]) == "--dockerd-arg: '--label=a\\nb' contains a control character"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filesystem": "btrfs"}, "--filesystem: 'btrfs' is unknown; use ext4 or xfs"),
        ({"fallback": "native"}, "--fallback: 'native' is unknown; use none, vfs or fuse-overlayfs"),
        ({"dockerd_args": "--debug"}, "--dockerd-arg: '--debug' is not a list"),
        ({"data_root": "9p"}, "--data-root: '9p' is unknown; use auto, memory, loop, block or virtiofs"),
        ({"backend": "xen"}, "--backend: 'xen' is unknown; use vm or containerd"),
        ({"backend": 5}, "--backend: '5' is unknown; use vm or containerd"),
        (
            {"backend": "kubernetes"},
            "--backend: 'kubernetes' is not available in this installation; use vm or containerd",
        ),
        ({"accelerator": "hvf"}, "--accel: 'hvf' is unknown; use auto, kvm or tcg"),
        ({"network": "host"}, "--network: 'host' is unknown; use none or nat"),
        ({"cpus": 0}, "--cpus: 0 is not allowed; input should be greater than or equal to 1"),
        ({"timeout_seconds": 0}, "--timeout: 0 is not allowed; input should be greater than 0"),
        ({"kernel": ""}, "--kernel: '' is not a path"),
        (
            {"image": "-x"},
            "--image: '-x' is not an image; use a reference from `kata-dind image ls`, like docker:28-dind",
        ),
        ({"size": 20}, "--size: 20 is not a text"),
        (
            {"publish_addresses": ["localhost"]},
            "--publish-address: 'localhost' is not an address; use an address of this host, like 192.168.1.5, or "
            "0.0.0.0 for all of them",
        ),
        (
            {"publish_addresses": ["224.0.0.1"]},
            "--publish-address: '224.0.0.1' is not an address that a port can be published on; use an address of this "
            "host, like 192.168.1.5, or 0.0.0.0 for all of them",
        ),
        ({"shares": "/a:/b"}, "--share: '/a:/b' is not a list"),
    ],
)
def test_refusals_name_the_option_the_value_and_what_is_allowed(fields: dict[str, Any], message: str) -> None:
    assert refusal(**fields) == message


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    message = refusal(dataroot="loop")
    assert message.startswith("dataroot: there is no such field; the fields are name, backend, data_root, ")


def test_a_spec_does_not_change() -> None:
    spec = parse_spec(name="demo")
    with pytest.raises(ValueError, match="frozen"):
        spec.size = "1G"


# --- what was given


def test_what_was_given_is_told_from_what_is_a_default() -> None:
    assert parse_spec(name="demo").given == frozenset()
    assert parse_spec(name="demo", cpus=2, shares=[], seed="").given == {"cpus", "shares", "seed"}
    assert parse_spec(name="demo", size=None, kernel=None).given == frozenset()


def test_what_is_settled_does_not_count_as_given() -> None:
    spec = parse_spec(name="demo", cpus=2, size="5G").settled(cpus=4, memory="3G", name="other")
    assert (spec.name, spec.cpus, spec.memory_bytes >> 30) == ("other", 4, 3)
    assert spec.given == {"cpus", "size"}
    assert isinstance(spec, SandboxSpec)
    with pytest.raises(ValueError, match="frozen"):
        spec.cpus = 2
    without = spec.without("size", "memory")
    assert (without.size, without.memory, without.cpus) == (None, "2G", 4)
    assert without.given == {"cpus"}


def test_a_spec_is_kept_with_what_was_given() -> None:
    spec = parse_spec(name="demo", cpus=2, network="none", shares=["/a:/b:ro"], kernel="/boot/k", seed="web")
    kept = spec_to_json(spec.settled(memory="3G"))
    assert kept == {**spec.model_dump(mode="json"), "memory": "3G", "given": sorted(spec.given)}
    again = spec_from_json(json.loads(json.dumps(kept)))
    assert again == spec.settled(memory="3G")
    assert again.given == {"cpus", "network", "shares", "kernel", "seed"}


def test_a_spec_that_an_earlier_version_kept_gave_what_is_no_default() -> None:
    spec = parse_spec(name="demo", cpus=4, network="nat", shares=["/a:/b"], timeout_seconds=180, kernel="/boot/k")
    again = spec_from_json(spec.model_dump(mode="json"))
    assert again == spec
    assert again.given == {"cpus", "shares", "kernel"}


def test_what_is_kept_is_checked() -> None:
    with pytest.raises(SpecError, match="colour: there is no such field"):
        spec_from_json({"name": "demo", "colour": "red", "given": []})


def test_what_was_given_may_not_differ_from_what_there_is() -> None:
    had = {"cpus": (4,), "image": ("dind:1", "0123"), "accelerator": ("tcg",), "dockerd_args": (("--debug",),),
           "kernel": (None,), "virtiofs_xattr": (True,)}  # fmt: skip
    require_same(parse_spec(name="demo"), had, of="it")
    same = {"cpus": 4, "image": "0123", "accelerator": "auto", "dockerd_args": ["--debug"]}
    require_same(parse_spec(name="demo", **same), had, of="it")
    for fields, message in (
        ({"cpus": 2}, "--cpus: 2 is not what the seed 'web' has (4); leave it out"),
        ({"image": "x"}, "--image: 'x' is not what the seed 'web' has ('dind:1'); leave it out"),
        ({"accelerator": "kvm"}, "--accel: 'kvm' is not what the seed 'web' has ('tcg'); leave it out"),
        ({"dockerd_args": []}, "--dockerd-arg: none is not what the seed 'web' has ('--debug'); leave it out"),
        ({"kernel": "/boot/k"}, "--kernel: '/boot/k' is not what the seed 'web' has (none); leave it out"),
        ({"virtiofs_xattr": False}, "--virtiofs-xattr: off is not what the seed 'web' has (on); leave it out"),
    ):
        with pytest.raises(SpecError) as caught:
            require_same(parse_spec(name="demo", **fields), had, of="the seed 'web'")
        assert caught.value.summary == message


def test_ports_of_the_host() -> None:
    assert parse_spec(name="demo", host_ports=["5432", "1", 65535]).host_ports == (5432, 1, 65535)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        *(([text], f"{text!r} is not a port; it must be a number from 1 to 65535")
          for text in ("0", "65536", "-1", "", "http", "٣", "1 ", "1e3", "08000000", "5432:5432")),
        ([0], "'0' is not a port; it must be a number from 1 to 65535"),
        (["53"], "53 is where the guest asks for names, which it needs; use another port"),
        (["80", "080"], "80 is given twice"),
    ],
)  # fmt: skip
def test_ports_of_the_host_that_are_none(ports: list[str | int], message: str) -> None:
    assert refusal(host_ports=ports) == f"--host-port: {message}"


def test_a_field_that_the_backend_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKEND_MODULES, "containerd", "nowhere")
    assert parse_spec(name="demo", backend="containerd", cpus=4).backend is BackendName.CONTAINERD
    assert refusal(backend="containerd", seed="web") == (
        "--seed: only the backend vm has this option, and this sandbox is for containerd; leave it out"
    )
