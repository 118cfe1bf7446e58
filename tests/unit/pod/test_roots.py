from __future__ import annotations

import json
from typing import Any

import pytest

from kata_dind.pod.model import Engine, Program, StorageSetting
from tests.unit.pod.pods import container, detected, only_engine, paths, privileged

DAEMON_JSON = "/etc/docker/daemon.json"


def root_of(*args: str, **fields: Any) -> tuple[str, str]:
    (root,) = only_engine(privileged("docker:28-dind", args=list(args), **fields)).roots
    return root.path, root.said_by


@pytest.mark.parametrize(
    ("args", "root"),
    [
        ([], "/var/lib/docker"),
        (["--data-root=/x"], "/x"),
        (["--data-root", "/x"], "/x"),
        (["--data-root /x"], "/x"),
        (["dockerd", "--debug", "--data-root", "/x/"], "/x"),
        (["-g", "/x"], "/x"),
        (["-g/x"], "/x"),
        (["-g=/x"], "/x"),
        (["--graph=/x"], "/x"),
        (["--graph", "//x//y/../z"], "/x/z"),
        (["--data-root=$(ROOT)/docker"], "/data/docker"),
        (["--data-root=/x", "--data-root=/y"], "/y"),
        (["--data-rooted=/x"], "/var/lib/docker"),
        (["--data-root"], "/var/lib/docker"),
        (["--group=/x"], "/var/lib/docker"),
    ],
)
def test_a_root_by_flag(args: list[str], root: str) -> None:
    assert root_of(*args, env={"ROOT": "/data"})[0] == root


@pytest.mark.parametrize(
    ("word", "roots", "said"),
    [
        ("-g /x", 0, "for `-g` with the value ` /x`, whose space is a part of the path"),
        ("--data-root /x", 1, "for a flag of that whole name, which it does not have, and exits"),
    ],
)
def test_a_flag_with_its_value_in_one_word_is_told_as_pflag_reads_it(word: str, roots: int, said: str) -> None:
    found = detected(privileged("docker:28-dind", args=[word]))
    assert len(found.engines[0].roots) == roots
    assert [said in each.message for each in found.findings if each.id == "root.one-word"] == [True]


def test_what_said_it_is_told() -> None:
    assert root_of("--data-root=/x") == ("/x", "`--data-root`")
    assert root_of("-g/x") == ("/x", "`-g`")
    assert root_of() == ("/var/lib/docker", "dockerd's default")


@pytest.mark.parametrize("value", ["$UNSET/docker", "$(UNSET)", "relative", "", "/a\0b"])
def test_a_root_that_is_not_known(value: str) -> None:
    detection = detected(privileged("docker:28-dind", args=[f"--data-root={value}"]))
    assert detection.engines[0].roots == ()
    assert [finding.id for finding in detection.findings] == ["root.unknown"]


def mounting(path: str, name: str = "config", *, sub_path: str = "", **config_map: Any) -> dict[str, Any]:
    """A container that mounts a ConfigMap at a path."""
    mount = {"name": "v", "mountPath": path, **({"subPath": sub_path} if sub_path else {})}
    spec = {"volumes": [{"name": "v", "configMap": {"name": name, **config_map}}]}
    return {"containers": [privileged("docker:28-dind", volumeMounts=[mount])], **spec}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/etc/docker", {}),
        ("/etc/docker/", {}),
        ("/etc", {"items": [{"key": "other.json", "path": "docker/daemon.json"}]}),
        (DAEMON_JSON, {"sub_path": "daemon.json"}),
        (DAEMON_JSON, {"sub_path": "mine", "items": [{"key": "other.json", "path": "mine"}]}),
    ],
)
def test_a_root_by_daemon_json(path: str, more: dict[str, Any]) -> None:
    data = json.dumps({"data-root": "/x", "storage-driver": "vfs"})
    config_maps = {"config": {"daemon.json": data, "other.json": data}}
    spec = mounting(path, **more)
    engine = only_engine(*spec.pop("containers"), config_maps=config_maps, **spec)
    assert paths(engine) == ["/x"]
    assert engine.roots[0].said_by == "`data-root` of /etc/docker/daemon.json"
    assert engine.storage_settings == (StorageSetting("vfs", (), False, in_script=True, in_file=DAEMON_JSON),)


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '{"data-root": 1}', "[" * 100_000, "{}" + " " * 70_000])
def test_a_daemon_json_that_says_nothing(content: str) -> None:
    spec = mounting("/etc/docker")
    engine = only_engine(*spec.pop("containers"), config_maps={"config": {"daemon.json": content}}, **spec)
    assert paths(engine) == ["/var/lib/docker"]


def test_a_daemon_json_that_is_not_at_hand_is_said() -> None:
    spec = mounting("/etc/docker")
    detection = detected(*spec.pop("containers"), config_maps={"another": {"daemon.json": "{}"}}, **spec)
    assert [finding.id for finding in detection.findings] == ["root.config-unread"]
    spec = mounting("/etc/other")
    assert detected(*spec.pop("containers"), **spec).findings == ()


def test_a_flag_beats_daemon_json() -> None:
    spec = mounting("/cfg")
    (one,) = spec.pop("containers")
    one["args"] = ["--config-file", "/cfg/daemon.json", "--data-root=/y"]
    engine = only_engine(one, config_maps={"config": {"daemon.json": '{"data-root": "/x"}'}}, **spec)
    assert paths(engine) == ["/y"]
    one["args"] = ["--config-file=/cfg/daemon.json"]
    engine = only_engine(one, config_maps={"config": {"daemon.json": '{"graph": "/x"}'}}, **spec)
    assert paths(engine) == ["/x"]


def test_a_daemon_json_that_a_script_writes() -> None:
    text = 'echo \'{"data-root": "/x"}\' > /etc/docker/daemon.json; dockerd'
    assert paths(only_engine(privileged("docker:28-dind", command=["sh", "-c", text]))) == ["/x"]


@pytest.mark.parametrize(
    ("image", "fields", "root"),
    [
        ("docker:28-dind-rootless", {}, "/home/rootless/.local/share/docker"),
        ("docker:28-dind-rootless", {"securityContext": {"runAsUser": 1000}}, "/home/rootless/.local/share/docker"),
        ("docker:28-dind-rootless", {"securityContext": {"runAsUser": 0}}, "/var/lib/docker"),
        ("docker:28-dind-rootless", {"env": {"XDG_DATA_HOME": "/data"}}, "/data/docker"),
        ("docker:28-dind-rootless", {"env": {"HOME": "/h"}}, "/h/.local/share/docker"),
        ("docker:28-dind-rootless", {"args": ["--data-root=/x"]}, "/x"),
        ("moby/buildkit", {}, "/var/lib/buildkit"),
        ("moby/buildkit", {"args": ["--root", "/x"]}, "/x"),
        ("moby/buildkit:rootless", {}, "/home/user/.local/share/buildkit"),
        ("moby/buildkit:rootless", {"args": ["--root=/x"]}, "/x"),
        ("moby/buildkit", {"command": ["buildctl-daemonless.sh"], "env": {"BUILDKITD_FLAGS": "--root '/x'"}}, "/x"),
        ("registry.dagger.io/engine:v0.18", {}, "/var/lib/dagger"),
        ("registry.dagger.io/engine:v0.18", {"args": ["--root", "/x"]}, "/x"),
        ("earthly/buildkitd:v0.8", {}, "/tmp/earthly"),
        ("earthly/buildkitd:v0.8", {"env": {"EARTHLY_TMP_DIR": "/x"}}, "/x"),
        ("earthly/earthly:v0.8", {}, "/tmp/earthly"),
        ("plugins/docker", {}, "/var/lib/docker"),
        ("plugins/gar", {"env": {"PLUGIN_STORAGE_PATH": "/drone/docker"}}, "/drone/docker"),
        ("docker:28-dind", {"env": {"PLUGIN_STORAGE_PATH": "/drone/docker"}}, "/var/lib/docker"),
        ("gcr.io/x/kubekins-e2e:v1", {"env": {"DOCKER_IN_DOCKER_ENABLED": "true"}}, "/docker-graph"),
        ("jetbrains/teamcity-agent", {"env": {"DOCKER_IN_DOCKER": "start"}}, "/var/lib/docker"),
        ("ghcr.io/coder/envbox", {}, "/var/lib/coder/docker"),
        ("x/y", {"command": ["containerd", "--root", "/x"]}, "/x"),
        ("x/y", {"command": ["containerd"]}, "/var/lib/containerd"),
        ("x/y", {"command": ["wrapdocker"], "env": {"DOCKER_DAEMON_ARGS": "--data-root /x -s vfs"}}, "/x"),
        ("x/y", {"command": ["service", "docker", "start"], "env": {"DOCKER_OPTS": "-g /x"}}, "/x"),
    ],
)
def test_the_roots_of_products(image: str, fields: dict[str, Any], root: str) -> None:
    assert paths(only_engine(container(image, **fields))) == [root]


def test_a_containers_user_counts_before_the_pods() -> None:
    def engine_of(own: int | None, pods: int | None) -> Engine:
        fields: dict[str, Any] = {} if own is None else {"securityContext": {"runAsUser": own}}
        spec: dict[str, Any] = {} if pods is None else {"securityContext": {"runAsUser": pods}}
        return only_engine(container("docker:dind-rootless", **fields), **spec)

    engines = [engine_of(own, pods) for own, pods in ((None, 0), (0, 1000), (1000, 0), (None, 1000))]
    assert [engine.user for engine in engines] == [0, 0, 1000, 1000]
    assert [engine.rootless for engine in engines] == [False, False, True, True]
    # A boolean is no user.
    assert only_engine(container("docker:dind", securityContext={"runAsUser": True})).user == 0


def test_buildkits_file_of_settings() -> None:
    toml = 'root = "/x"\n[worker.oci]\n  snapshotter = "native"\n'
    mount = {"name": "v", "mountPath": "/etc/buildkit"}
    volumes = [{"name": "v", "configMap": {"name": "bk"}}]
    one = container("moby/buildkit", volumeMounts=[mount])
    engine = only_engine(one, volumes=volumes, config_maps={"bk": {"buildkitd.toml": toml}})
    assert paths(engine) == ["/x"]
    assert [setting.driver for setting in engine.storage_settings] == ["native"]
    engine = only_engine(one, volumes=volumes, config_maps={"bk": {"buildkitd.toml": "root = ["}})
    assert paths(engine) == ["/var/lib/buildkit"]


@pytest.mark.parametrize(
    ("image", "command", "roots"),
    [
        ("x/y", "containerd & dockerd", ["/var/lib/docker", "/var/lib/containerd"]),
        ("x/y", "containerd --root /c & dockerd --data-root /d", ["/d", "/c"]),
        ("docker:29-dind", "containerd & dockerd", ["/var/lib/docker", "/var/lib/containerd"]),
        ("docker:28-dind", "containerd & dockerd", ["/var/lib/docker"]),
        ("docker:29-dind", "dockerd", ["/var/lib/docker"]),
        ("x/y", "systemctl start docker", ["/var/lib/docker", "/var/lib/containerd"]),
        ("x/y", "/usr/local/share/docker-init.sh sleep infinity", ["/var/lib/docker", "/var/lib/containerd"]),
    ],
)
def test_docker_29_beside_a_containerd_has_two_roots(image: str, command: str, roots: list[str]) -> None:
    engine = only_engine(privileged(image, command=["sh", "-c", command]))
    assert paths(engine) == roots
    assert engine.program is Program.DOCKERD
    assert [root.is_standalone_containerds for root in engine.roots] == [False, True][: len(roots)]


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"args": ["--storage-driver=vfs"]}, [("vfs", [("args", 0)], False)]),
        ({"args": ["dockerd", "--storage-driver", "vfs"]}, [("vfs", [("args", 1), ("args", 2)], False)]),
        ({"args": ["--storage-driver vfs"]}, [("vfs", [("args", 0)], False)]),
        ({"args": ["--debug", "-s", "vfs"]}, [("vfs", [("args", 1), ("args", 2)], False)]),
        ({"args": ["-svfs"]}, [("vfs", [("args", 0)], False)]),
        ({"args": ["-s=vfs"]}, [("vfs", [("args", 0)], False)]),
        ({"command": ["dockerd", "-s", "vfs"]}, [("vfs", [("command", 1), ("command", 2)], False)]),
        ({"command": ["dockerd"], "args": ["-s", "vfs"]}, [("vfs", [("args", 0), ("args", 1)], False)]),
        ({"command": ["dockerd", "-s"], "args": ["vfs"]}, [("vfs", [("command", 1), ("args", 0)], False)]),
        (
            {"command": ["sh", "-c", 'exec dockerd "$@"', "sh", "-s", "vfs"]},
            [("vfs", [("command", 4), ("command", 5)], False)],
        ),
        ({"env": {"A": "1", "DOCKER_DRIVER": "vfs"}}, [("vfs", [("env", 1)], True)]),
        (
            {"env": {"DOCKER_DRIVER": "vfs"}, "args": ["--storage-driver=overlay2"]},
            [("vfs", [("env", 0)], True), ("overlay2", [("args", 0)], False)],
        ),
        ({"env": {"DOCKER_DRIVER": ""}}, []),
        ({"args": ["--storage-opt=a", "--storage-drivers=x"]}, []),
    ],
)
def test_what_names_a_storage_driver(fields: dict[str, Any], settings: list[Any]) -> None:
    engine = only_engine(privileged("docker:28-dind", **fields))
    found = [
        (one.driver, [pointer[3:] for pointer in one.pointers], one.is_variable) for one in engine.storage_settings
    ]
    assert found == settings
    assert not any(one.in_script for one in engine.storage_settings)
    assert all(pointer[:3] == engine.pointer for one in engine.storage_settings for pointer in one.pointers)


def test_a_driver_in_a_script_cant_be_taken_out() -> None:
    for text in ("dockerd -s vfs", "export DOCKER_DRIVER=vfs; dockerd"):
        engine = only_engine(privileged("docker:28-dind", command=["sh", "-c", text]))
        (setting,) = engine.storage_settings
        assert (setting.driver, setting.pointers, setting.in_script) == ("vfs", (), True)


def test_a_plugins_driver_and_buildkits() -> None:
    engine = only_engine(container("plugins/docker", env={"PLUGIN_STORAGE_DRIVER": "vfs"}))
    assert engine.storage_settings == (StorageSetting("vfs", ((*engine.pointer, "env", 0),), True),)
    engine = only_engine(container("moby/buildkit", args=["--oci-worker-snapshotter=native"]))
    assert engine.storage_settings == (StorageSetting("native", ((*engine.pointer, "args", 0),), False),)
    engine = only_engine(container("docker:28-dind", env={"PLUGIN_STORAGE_DRIVER": "vfs"}))
    assert engine.storage_settings == ()


def test_the_last_variable_of_a_name_counts() -> None:
    one = container("docker:28-dind")
    one["env"] = [{"name": "DOCKER_DRIVER", "value": "vfs"}, {"name": "DOCKER_DRIVER", "value": "overlay2"}]
    (setting,) = only_engine(one).storage_settings
    entries = (("spec", "containers", 0, "env", 0), ("spec", "containers", 0, "env", 1))
    assert (setting.driver, setting.pointers) == ("overlay2", entries)


def test_variables_of_a_config_map() -> None:
    one = container("docker:28-dind", envFrom=[{"configMapRef": {"name": "ci"}, "prefix": "DOCKER_"}])
    (setting,) = only_engine(one, config_maps={"ci": {"DRIVER": "vfs"}}).storage_settings
    assert (setting.driver, setting.pointers, setting.in_script) == ("vfs", (), True)
    one = container("docker:28-dind", args=["--data-root=$(ROOT)"])
    one["env"] = [{"name": "ROOT", "valueFrom": {"configMapKeyRef": {"name": "ci", "key": "root"}}}]
    assert paths(only_engine(one, config_maps={"ci": {"root": "/x"}})) == ["/x"]
    assert paths(detected(one).engines[0]) == []


def test_a_word_that_another_flag_takes_is_no_flag() -> None:
    engine = only_engine(container("docker:28-dind", args=["--data-root", "--storage-driver=vfs", "--debug"]))
    assert (paths(engine), engine.storage_settings) == ([], ())
    engine = only_engine(container("docker:28-dind", args=["--host", "-g", "--data-root", "/x", "-s", "vfs"]))
    assert (paths(engine), [setting.driver for setting in engine.storage_settings]) == (["/x"], ["vfs"])
