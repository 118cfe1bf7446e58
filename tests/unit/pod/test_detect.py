"""Which containers of a pod run a program with a data root: one golden case per shape, with near misses beside it."""

from __future__ import annotations

from typing import Any

import pytest

from kata_dind.pod.detect import detect
from kata_dind.pod.model import Backing, Detection, Launch, Outcome, Program, Severity
from kata_dind.pod.policy import Policy, parse_policy
from tests.unit.pod.pods import (
    DIGEST,
    ONE_HOST_PATH,
    PRIVILEGED,
    container,
    detected,
    empty_dir,
    only_engine,
    paths,
    pod,
    privileged,
)

SOCKET: dict[str, Any] = {"volumes": [{"name": "sock", "hostPath": {"path": "/var/run/docker.sock"}}]}


def summary(detection: Detection) -> list[tuple[str, str, str, list[str]]]:
    """The container, the program, how it starts, and the data roots of each engine."""
    return [
        (f"{engine.list}/{engine.container}", str(engine.program), str(engine.launch), paths(engine))
        for engine in detection.engines
    ]


def ids(detection: Detection) -> list[str]:
    return [finding.id for finding in detection.findings]


# ---- The shapes of the CI systems.


def arc_pod(list_name: str = "initContainers") -> dict[str, Any]:
    dind = privileged(
        "docker:dind",
        "dind",
        args=["dockerd", "--host=unix:///var/run/docker.sock", "--group=$(DOCKER_GROUP_GID)"],
        env={"DOCKER_GROUP_GID": "123"},
        mounts={"/home/runner/_work": "work", "/var/run": "dind-sock", "/home/runner/externals": "dind-externals"},
    )
    init = container(
        "ghcr.io/actions/actions-runner:latest", "init-dind-externals", command=["cp"], args=["-r", "a", "b"]
    )
    runner = container(
        "ghcr.io/actions/actions-runner:latest",
        "runner",
        command=["/home/runner/run.sh"],
        env={"DOCKER_HOST": "unix:///var/run/docker.sock", "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS": "120"},
        mounts={"/home/runner/_work": "work", "/var/run": "dind-sock"},
    )
    volumes = [empty_dir("work"), empty_dir("dind-sock"), empty_dir("dind-externals")]
    if list_name == "initContainers":
        dind["restartPolicy"] = "Always"
        return pod(runner, volumes=volumes, initContainers=[init, dind])
    return pod(runner, dind, volumes=volumes, initContainers=[init])


@pytest.mark.parametrize("list_name", ["initContainers", "containers"])
def test_arc(list_name: str) -> None:
    detection = detect(arc_pod(list_name), Policy())
    assert summary(detection) == [(f"{list_name}/dind", "dockerd", "image", ["/var/lib/docker"])]
    (engine,) = detection.engines
    assert engine.entrypoint == ("dockerd-entrypoint.sh",)
    assert engine.command[:2] == ("dockerd-entrypoint.sh", "dockerd")
    assert engine.command[3] == "--group=123"
    assert engine.privileged
    assert detection.is_kata
    root = engine.roots[0]
    assert (root.mount, root.backing, root.outcome) == (None, Backing.VIRTIOFS, Outcome.FAILS)
    assert engine.evidence[0] == "the image docker:dind is a Docker daemon"


def test_arcs_legacy_controller() -> None:
    args = ["dockerd", "--host=unix:///run/docker.sock", "--group=$(DOCKER_GROUP_GID)", "--mtu", "1400"]
    docker = privileged("docker:dind", "docker", args=args, mounts={"/run": "var-run"})
    runner = container("summerwind/actions-runner:latest", "runner", mounts={"/run": "var-run"})
    assert summary(detected(runner, docker)) == [("containers/docker", "dockerd", "image", ["/var/lib/docker"])]
    runner = privileged("summerwind/actions-runner-dind:latest", "runner")
    engine = only_engine(runner)
    assert (engine.launch, engine.entrypoint) == (Launch.IMAGE, ("/bin/bash", "-c", "entrypoint-dind.sh"))
    rootless = only_engine(container("summerwind/actions-runner-dind-rootless", "runner"))
    assert (rootless.rootless, paths(rootless)) == (True, ["/home/runner/.local/share/docker"])


def test_arcs_kubernetes_mode_runs_none() -> None:
    env = {"ACTIONS_RUNNER_CONTAINER_HOOKS": "/home/runner/k8s/index.js"}
    runner = container("ghcr.io/actions/actions-runner", "runner", command=["/home/runner/run.sh"], env=env)
    assert summary(detected(runner)) == []


def test_gitlab_runner() -> None:
    script = "if [ -x /usr/local/bin/bash ]; then\n\texec /usr/local/bin/bash\nelse\n\techo shell not found\nfi"
    build = privileged(
        "docker:24.0.5-cli", "build", command=["sh", "-c", script], env={"DOCKER_HOST": "tcp://docker:2376"}
    )
    service = privileged("docker:24.0.5-dind", "svc-0", stdin=True, env={"DOCKER_TLS_CERTDIR": "/certs"})
    detection = detected(build, service)
    assert summary(detection) == [("containers/svc-0", "dockerd", "image", ["/var/lib/docker"])]
    assert detection.engines[0].version == (24, 0, 5)
    # The job's image may be the daemon's: the runner gives it a shell.
    assert summary(detected(privileged("docker:24-dind", "build", command=["sh", "-c", script]))) == []
    by_hand = container("registry.example/re-hosted/docker-dind:24", "docker", args=["--tls=false", "--mtu=1450"])
    assert summary(detected(by_hand)) == [("containers/docker", "dockerd", "image", ["/var/lib/docker"])]
    entry = container(
        "docker:24-dind", "svc-0", command=["sh", "-c", "env -u DOCKER_HOST dockerd-entrypoint.sh --tls=false"]
    )
    assert summary(detected(entry)) == [("containers/svc-0", "dockerd", "script", ["/var/lib/docker"])]


def test_tekton() -> None:
    server = privileged(
        "mirror.gcr.io/library/docker" + DIGEST,
        "sidecar-server",
        args=["--storage-driver=vfs", "--userland-proxy=false", "--debug"],
        env={"DOCKER_TLS_CERTDIR": "/certs"},
    )
    step = container(
        "docker" + DIGEST,
        "step-build",
        command=["/tekton/bin/entrypoint"],
        args=["-wait_file", "/x", "-entrypoint", "docker", "--", "build", "."],
        env={"DOCKER_HOST": "tcp://localhost:2376"},
    )
    engine = only_engine(step, server)
    assert (engine.container, engine.version, engine.launch) == ("sidecar-server", (), Launch.IMAGE)
    assert "its arguments are dockerd's, as in `--storage-driver=vfs`" in engine.evidence
    assert [setting.driver for setting in engine.storage_settings] == ["vfs"]


def test_jenkins() -> None:
    client = container(
        "docker:19.03.1", "docker", command=["sleep"], args=["99d"], mounts={"/var/run": "docker-socket"}
    )
    daemon = privileged("docker:19.03.1-dind", "docker-daemon", mounts={"/var/run": "docker-socket"})
    detection = detected(client, daemon, volumes=[empty_dir("docker-socket")])
    assert summary(detection) == [("containers/docker-daemon", "dockerd", "image", ["/var/lib/docker"])]
    assert summary(detected(privileged("docker:dind", "docker", command=["cat"], tty=True))) == []


def test_argo() -> None:
    main = container(
        "docker:19.03.13",
        "main",
        command=["/var/run/argo/argoexec", "emissary", "--loglevel", "info", "--", "sh", "-c"],
        args=["until docker ps; do sleep 3; done; docker run --rm debian:latest cat /etc/hosts"],
        env={"DOCKER_HOST": "127.0.0.1"},
    )
    dind = privileged("docker:19.03.13-dind", "dind", command=["dockerd-entrypoint.sh"], env={"DOCKER_TLS_CERTDIR": ""})
    assert summary(detected(main, dind)) == [("containers/dind", "dockerd", "command", ["/var/lib/docker"])]
    dind["command"] = ["/var/run/argo/argoexec", "emissary", "--", "dockerd-entrypoint.sh"]
    engine = only_engine(main, dind)
    assert engine.command == ("dockerd-entrypoint.sh",)


def test_buildkite_and_buildkit() -> None:
    sidecar = privileged("docker:dind", "sidecar-0", command=["dockerd-entrypoint.sh"])
    assert summary(detected(sidecar)) == [("containers/sidecar-0", "dockerd", "command", ["/var/lib/docker"])]
    builder = privileged("moby/buildkit:v0.16.0", "buildkitd", mounts={"/var/lib/buildkit": "cache"})
    engine = only_engine(builder, volumes=[empty_dir("cache")])
    assert (engine.program, engine.version, engine.entrypoint) == (Program.BUILDKITD, (0, 16, 0), ("buildkitd",))
    assert engine.roots[0].mount is not None
    assert engine.roots[0].mount.volume == "cache"
    rootless = only_engine(container("moby/buildkit:rootless", args=["--oci-worker-no-process-sandbox"]))
    assert (rootless.rootless, rootless.privileged, rootless.user) == (True, False, 1000)
    # Its client.
    assert summary(detected(container("moby/buildkit", command=["buildctl"], args=["build"]))) == []
    assert summary(detected(container("moby/buildkit", command=["buildctl-daemonless.sh"]))) != []


def test_drone_and_woodpecker() -> None:
    plugin = privileged("plugins/ecr:20", "step-1", env={"PLUGIN_REPO": "x"})
    engine = only_engine(plugin)
    assert engine.entrypoint == ("/usr/local/bin/dockerd-entrypoint.sh", "/bin/drone-ecr")
    assert summary(detected(privileged("plugins/docker", env={"PLUGIN_DAEMON_OFF": "true"}))) == []
    # A step with commands of its own does not run the plugin.
    commands = ["/bin/sh", "-c", 'echo "$CI_SCRIPT" | base64 -d | /bin/sh -e']
    assert summary(detected(privileged("plugins/docker", command=commands))) == []
    assert summary(detected(privileged("woodpeckerci/plugin-docker-buildx:5"))) != []
    assert summary(detected(privileged("plugins/slack"))) == []


def test_daemons_behind_a_variable() -> None:
    agent = privileged("jetbrains/teamcity-agent:2023.05-linux-sudo", env={"DOCKER_IN_DOCKER": "start"})
    assert summary(detected(agent)) == [("containers/c", "dockerd", "variable", ["/var/lib/docker"])]
    assert summary(detected(privileged("jetbrains/teamcity-agent"))) == []
    assert summary(detected(privileged("jetbrains/teamcity-agent", env={"DOCKER_IN_DOCKER": "stop"}))) == []
    image = "gcr.io/k8s-staging-test-infra/kubekins-e2e:v2024"
    env = {"DOCKER_IN_DOCKER_ENABLED": "true"}
    ways: tuple[dict[str, Any], ...] = (
        {"command": ["runner.sh"], "args": ["make"]},
        {"args": ["make"]},
        {"command": ["/tools/entrypoint"]},
        {},
    )
    for fields in ways:
        found = summary(detected(privileged(image, env=env, **fields)))
        assert found == [("containers/c", "dockerd", "variable", ["/docker-graph"])], fields
    assert summary(detected(privileged(image, env=env, command=["make"]))) == []
    assert summary(detected(privileged(image, command=["runner.sh"]))) == []
    # The variables tell, whatever the image is called.
    assert len(detected(privileged("acme/agent", env={"DOCKER_IN_DOCKER": "start"})).engines) == 1
    krte = privileged("acme/krte", args=["cat"], env=env, mounts={"/docker-graph": "graph"})
    assert len(detected(krte, volumes=[empty_dir("graph")]).engines) == 1


def test_a_variable_of_the_preset_of_prow() -> None:
    one = pod(privileged("gcr.io/k8s-staging-test-infra/krte:v1", command=["wrapper.sh"], args=["bash", "-c", "make"]))
    assert summary(detect(one, Policy())) == []
    one["metadata"]["labels"] = {"preset-dind-enabled": "true"}
    assert summary(detect(one, Policy())) == [("containers/c", "dockerd", "variable", ["/docker-graph"])]


def test_other_starters() -> None:
    for command in (
        ["sh", "-c", "service docker start && make"],
        ["/usr/local/share/docker-init.sh", "sleep", "infinity"],
        ["bash", "-lc", "sudo /etc/init.d/docker start; exec runner"],
        ["supervisorctl", "start", "dockerd"],
    ):
        assert len(detected(privileged("acme/image", command=command)).engines) == 1, command
    workspace = privileged("codercom/enterprise-base:ubuntu", command=["/sbin/init"])
    assert summary(detected(workspace)) == [
        ("containers/c", "dockerd", "command", ["/var/lib/docker", "/var/lib/containerd"])
    ]
    assert len(detected(privileged("nestybox/ubuntu-jammy-systemd-docker")).engines) == 1
    assert summary(detected(privileged("ubuntu:24.04", command=["/sbin/init"]))) == []
    assert summary(detected(privileged("codercom/enterprise-base:ubuntu", command=["sh", "-c", "coder agent"]))) == []
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "dockerd >/dev/null &"]}}}
    assert len(detected(privileged("acme/image", command=["sleep", "1d"], lifecycle=hook)).engines) == 1


def test_engines_of_dagger_and_earthly() -> None:
    dagger = privileged("registry.dagger.io/engine:v0.18.4", args=["--oci-max-parallelism", "num-cpu"])
    assert summary(detected(dagger)) == [("containers/c", "dagger", "image", ["/var/lib/dagger"])]
    assert summary(detected(privileged("earthly/buildkitd:v0.8"))) == [
        ("containers/c", "earthly", "image", ["/tmp/earthly"])
    ]
    assert summary(detected(privileged("earthly/earthly:v0.8", env={"NO_BUILDKIT": "1"}))) == []


def test_a_claim_template_is_a_volume() -> None:
    dagger = privileged("registry.dagger.io/engine:v0.18.4", mounts={"/var/lib/dagger": "data"})
    claim = {"metadata": {"name": "data"}, "spec": {"volumeMode": "Filesystem"}}
    root = only_engine(dagger, claim_templates=[claim]).roots[0]
    assert root.mount is not None
    assert (root.mount.volume, root.mount.volume_pointer) == ("data", None)


def test_kestras_rootless_image_as_root() -> None:
    context = {"privileged": True, "runAsUser": 0}
    engine = only_engine(container("docker:dind-rootless", args=["--log-level=fatal"], securityContext=context))
    assert (engine.rootless, engine.user, paths(engine)) == (False, 0, ["/var/lib/docker"])
    engine = only_engine(privileged("docker:dind-rootless", args=["--log-level=fatal", "--group=1000"]))
    assert (engine.rootless, engine.user) == (True, 1000)


def test_binderhubs_words() -> None:
    args = ["dockerd", "--storage-driver=overlay2", "-H unix:///var/run/dind/docker.sock"]
    assert len(detected(privileged("docker:19.03.5-dind", "dind", args=args)).engines) == 1


def test_image_and_flags_are_enough() -> None:
    """Seen in the field: neither privileges nor capabilities are written."""
    assert len(detected(container("docker:dind", args=["--host=tcp://0.0.0.0:2375", "--tls=false"])).engines) == 1


def test_a_name_of_ones_own() -> None:
    image = "registry.example:5000/platform/build-engine" + DIGEST
    assert len(detected(privileged(image, args=["--storage-driver=overlay2"])).engines) == 1
    assert len(detected(container(image, args=["dockerd"])).engines) == 1
    assert len(detected(container(image, args=["--userland-proxy=false"])).engines) == 1
    own = privileged(image, mounts={"/var/lib/docker": "data"})
    assert len(detected(own, volumes=[empty_dir("data")]).engines) == 1
    assert detected(own, volumes=[{"name": "data", "hostPath": {"path": "/x"}}]).engines == ()
    assert detected(privileged(image, args=["--metrics-addr=:8080"])).engines == ()
    assert detected(container(image, args=["-H", "tcp://x"])).engines == ()
    assert detected(container(image)).engines == ()


def test_a_word_that_is_a_variable() -> None:
    one = container(
        "acme/x", command=["$(DAEMON)"], args=["$(FLAGS)"], env={"DAEMON": "dockerd", "FLAGS": "--data-root=/x"}
    )
    assert paths(only_engine(one)) == ["/x"]
    assert detected(container("acme/x", command=["$(APP)"], env={"APP": "/app"})).engines == ()


def test_devices_at_the_data_root_count_as_volumes() -> None:
    one = privileged("acme/x", volumeDevices=[{"name": "data", "devicePath": "/var/lib/docker"}])
    assert len(detected(one, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "x"}}]).engines) == 1


# ---- What is left alone.


@pytest.mark.parametrize(
    "one",
    [
        container("docker:27-cli", command=["docker"], args=["build", "."]),
        container("docker:27-cli", args=["-H", "tcp://docker:2375", "info"]),
        container("docker:20.10", args=["--host=tcp://docker:2375", "info"]),
        container("docker:27", args=["docker", "build", "."]),
        container("docker:27", args=["build", "."]),
        privileged("docker:27-dind", command=["cat"], tty=True),
        privileged("docker:27-dind", command=["sleep", "infinity"]),
        privileged("docker:27-dind", args=["sleep", "infinity"]),
        privileged("docker:27-dind", command=["tail"], args=["-f", "/dev/null"]),
        privileged("docker:27-dind", command=["sh"], tty=True, stdin=True),
        privileged("docker:27-dind", command=["docker", "info"]),
        privileged("docker:27-dind", command=["sh", "-c", "docker build . && docker push x"]),
        privileged("docker:27-dind", args=["sh", "-c", "cp /usr/local/bin/docker /shared"]),
        privileged("acme/ci-dind:1", args=["cat"]),
        container("pytorch/torchserve:0.9", args=["serve"]),
        container("pytorch/torchserve:0.9", command=["/usr/local/bin/dockerd-entrypoint.sh"], args=["serve"]),
        container("acme/model:1", command=["/usr/local/bin/dockerd-entrypoint.sh"], args=["serve"]),
        container("acme/model:1", command=["/usr/local/bin/dockerd-entrypoint.sh"]),
        container("alpine", command=["sh", "-c", "echo 'dockerd is not here'; pgrep dockerd; sleep 1"]),
        privileged("gcr.io/cadvisor/cadvisor", mounts={"/var/lib/docker": "host"}),
        privileged("fluent/fluent-bit", mounts={"/var/lib/docker/containers": "host"}),
        privileged("meltwater/docker-cleanup", mounts={"/var/lib/docker": "host"}),
        privileged("gcr.io/kaniko-project/executor", args=["--insecure-registry=x", "--registry-mirror=y"]),
        container("evil/docker:27-dind;rm"),
        container("docker:27-dind\n"),
        container("a." * 8000 + "!dind"),
        privileged("flannel/flannel", args=["--ip-masq", "--kube-subnet-mgr"]),
        container(""),
    ],
)
def test_what_is_none(one: dict[str, Any]) -> None:
    assert detected(one, volumes=ONE_HOST_PATH) == Detection((), (), "kata-qemu", True)


def test_users_of_the_hosts_socket() -> None:
    for image in ("docker:27", "docker:latest", "docker", "docker" + DIGEST):
        one = container(image, mounts={"/var/run/docker.sock": "sock"})
        assert detected(one, **SOCKET).engines == (), image
    # A daemon may have the socket, too.
    assert len(detected(privileged("docker:27-dind", mounts={"/s": "sock"}), **SOCKET).engines) == 1


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (container("quay.io/podman/stable", command=["podman", "system", "service"]), "Podman"),
        (container("acme/x", command=["podman", "build"]), "Podman"),
        (privileged("kindest/node:v1.30"), "kind"),
        (privileged("rancher/k3s:v1.30", args=["server"]), "k3s"),
    ],
)
def test_other_runtimes_are_a_note(one: dict[str, Any], name: str) -> None:
    detection = detected(one)
    assert (detection.engines, ids(detection)) == ((), ["pod.other-runtime"])
    assert detection.findings[0].severity is Severity.NOTE
    assert name in detection.findings[0].message
    assert detected(one, runtime_class="").findings == ()


def test_a_likely_daemon_is_a_note_until_an_annotation_says_so() -> None:
    one = container("registry.example/team/docker:27", "daemon")
    detection = detected(one)
    assert (detection.engines, ids(detection)) == ((), ["pod.likely-daemon"])
    assert detection.findings[0].hint == "Annotate the pod with kata-dind.io/container: daemon if it does."
    for wish in ({"kata-dind.io/container": "daemon"}, {"kata-dind.io/repair": "true"}):
        assert len(detected(one, annotations=wish).engines) == 1
    assert detected(one, annotations={"kata-dind.io/repair": "false"}).engines == ()
    # Anything more makes it certain.
    assert len(detected(privileged("registry.example/team/docker:27")).engines) == 1
    client = container("x", "client", env={"DOCKER_HOST": "tcp://localhost:2375"})
    assert len(detected(one, client).engines) == 1


def test_an_annotation_names_what_nothing_shows() -> None:
    one = privileged("acme/devbox", "box", command=["/opt/start"])
    assert detected(one).engines == ()
    engine = only_engine(one, container("acme/x", "other"), annotations={"kata-dind.io/container": "box"})
    assert (engine.container, engine.program, engine.launch) == ("box", Program.DOCKERD, Launch.COMMAND)
    assert engine.entrypoint == ()


# ---- The recipe by hand.

BY_HAND = """
apk add --no-cache e2fsprogs
truncate -s 20G /scratch/docker.img
mkfs.ext4 -q -F /scratch/docker.img
mkdir -p /var/lib/docker
mount -o loop /scratch/docker.img /var/lib/docker
exec dockerd --host=unix:///var/run/docker.sock
"""


def test_the_recipe_done_by_hand() -> None:
    engine = only_engine(privileged("docker:dind", command=["sh", "-ec"], args=[BY_HAND]))
    assert (engine.by_hand, engine.launch) == (True, Launch.SCRIPT)
    assert (engine.roots[0].backing, engine.roots[0].outcome) == (Backing.DISK, Outcome.WORKS)
    assert "its own script mounts a disk or a tmpfs on /var/lib/docker first" in engine.evidence


@pytest.mark.parametrize(
    "text",
    [
        "mkfs.ext4 /dev/xvdb; mount /dev/xvdb /var/lib/docker; dockerd-entrypoint.sh dockerd",
        "dd if=/dev/zero of=/d bs=1M count=1; mke2fs /d; mount /d /var/lib/docker; exec dockerd-entrypoint.sh",
        "mkfs.xfs /dev/vdb; mount /dev/vdb /mnt; exec dockerd --data-root /mnt/docker",
        "mkfs.xfs /dev/vdb; mount /dev/vdb /mnt; mount --bind /mnt/d /var/lib/docker; exec dockerd",
        "mount -t tmpfs -o size=8G tmpfs /var/lib/docker; exec dockerd",
    ],
)
def test_more_recipes(text: str) -> None:
    engine = only_engine(privileged("docker:dind", command=["sh", "-ec", text]))
    assert (engine.by_hand, engine.roots[0].outcome) == (True, Outcome.WORKS)


@pytest.mark.parametrize(
    "text",
    [
        "mkfs.ext4 /d.img; mount -o loop /d.img /mnt/docker; exec dockerd",
        "exec dockerd & mkfs.ext4 /d.img; mount -o loop /d.img /var/lib/docker",
        "echo mount -o loop /d.img /var/lib/docker; exec dockerd",
        "mount --bind /scratch /var/lib/docker; exec dockerd",
        "mount -o loop /d.img /var/lib/docker/tmp; exec dockerd",
        "mount -o loop /d.img /var/lib/docker; umount /var/lib/docker; exec dockerd",
        "mount -t tmpfs tmpfs /var/lib/docker; exec dockerd --data-root /data",
    ],
)
def test_near_misses_of_the_recipe(text: str) -> None:
    engine = only_engine(privileged("docker:dind", command=["sh", "-ec", text]))
    assert (engine.by_hand, engine.roots[0].outcome) == (False, Outcome.FAILS)


def test_a_recipe_that_never_mounts() -> None:
    """The image's VOLUME is a mount, and so is the pod's volume."""
    text = "mkfs.ext4 /d.img; mountpoint -q /var/lib/docker || mount -o loop /d.img /var/lib/docker; exec dockerd"
    assert not only_engine(privileged("docker:28-dind", command=["sh", "-c", text])).by_hand
    assert only_engine(privileged("acme/x", command=["sh", "-c", text])).by_hand
    one = privileged("acme/x", command=["sh", "-c", text], mounts={"/var/lib/docker": "v"})
    assert not only_engine(one, volumes=[empty_dir("v")]).by_hand
    text = text.replace("/var/lib/docker", "/data") + " --data-root /data"
    assert only_engine(privileged("docker:28-dind", command=["sh", "-c", text])).by_hand


def test_a_script_that_covers_the_root_with_a_share() -> None:
    text = "mount --bind /scratch /var/lib/docker; exec dockerd-entrypoint.sh"
    engine = only_engine(privileged("docker:28-dind", command=["sh", "-c", text]))
    assert (engine.covered, engine.by_hand) == (True, False)
    assert not only_engine(privileged("docker:28-dind")).covered


def test_the_recipe_in_a_config_map() -> None:
    mounts = {"/scripts": "scripts"}
    volumes = [{"name": "scripts", "configMap": {"name": "runner-scripts", "defaultMode": 0o755}}]
    one = privileged("docker:dind", command=["/scripts/start.sh"], mounts=mounts)
    config_maps = {"runner-scripts": {"start.sh": "#!/bin/sh\n" + BY_HAND}}
    engine = only_engine(one, volumes=volumes, config_maps=config_maps)
    assert (engine.by_hand, engine.launch) == (True, Launch.SCRIPT)
    assert "the script start.sh of the ConfigMap runner-scripts runs dockerd" in engine.evidence
    # Out of reach, it can't be known what the script does: only that it may start the daemon.
    detection = detected(one, volumes=volumes)
    assert (detection.engines, ids(detection)) == ((), ["pod.likely-daemon"])
    # A script that starts none, in an image that would.
    config_maps = {"runner-scripts": {"start.sh": "exec sleep infinity # dockerd"}}
    assert detected(one, volumes=volumes, config_maps=config_maps) == Detection((), (), "kata-qemu", True)
    # No image, no word of it in the pod: the script alone tells.
    one = container("acme/x", command=["bash", "/scripts/start.sh"], mounts=mounts)
    assert len(detected(one, volumes=volumes, config_maps={"runner-scripts": {"start.sh": "dockerd"}}).engines) == 1


def test_the_guest_entrypoint_is_left_working() -> None:
    command = ["/bin/sh", "-c", "#!/bin/sh\n# anything", "kata-dind", "dockerd-entrypoint.sh"]
    engine = only_engine(
        privileged("docker:dind", command=command, args=["--debug"], env={"KATA_DIND_DATA_ROOT": "loop"})
    )
    assert (engine.wrapped, engine.launch, engine.roots[0].outcome) == (True, Launch.COMMAND, Outcome.WORKS)
    assert engine.command == ("dockerd-entrypoint.sh", "--debug")


def test_the_guest_entrypoint_tells_what_it_is_for() -> None:
    command = ["/bin/sh", "-c", "#!/bin/sh", "kata-dind", "/usr/bin/entrypoint.sh", "buildkitd"]
    engine = only_engine(privileged("earthly/buildkitd:v0.8.16", command=command))
    assert (engine.program, engine.version, paths(engine)) == (Program.EARTHLY, (0, 8, 16), ["/tmp/earthly"])
    env = {"KATA_DIND_PROGRAM": "buildkitd", "KATA_DIND_PATH": "/x/"}
    engine = only_engine(privileged("acme/x", command=[*command[:4], "/run.sh"], env=env))
    assert (engine.program, paths(engine), engine.wrapped) == (Program.BUILDKITD, ["/x"], True)


# ---- The frame.


def test_all_lists_of_containers_are_read() -> None:
    one = pod(
        container("x"),
        initContainers=[privileged("docker:dind", "a")],
        ephemeralContainers=[privileged("docker:dind", "b")],
    )
    assert [(engine.list, engine.index) for engine in detect(one, Policy()).engines] == [
        ("initContainers", 0),
        ("ephemeralContainers", 0),
    ]


def test_without_a_class_of_katas_the_engines_are_there_all_the_same() -> None:
    for runtime_class in ("", "runc", "gvisor", "katana"):
        detection = detected(privileged("docker:dind"), runtime_class=runtime_class)
        assert (len(detection.engines), detection.is_kata) == (1, False)
        assert (detection.engines[0].roots[0].backing, detection.runtime_class) == (Backing.UNKNOWN, runtime_class)


def test_privileges() -> None:
    for context, expected in (
        ({"privileged": True}, True),
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, True),
        ({"capabilities": {"add": ["CAP_SYS_ADMIN", "NET_ADMIN"]}}, True),
        ({"capabilities": {"add": ["sys_admin"]}}, True),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, False),
        ({"privileged": "true"}, False),
        ({"privileged": False}, False),
        ({}, False),
    ):
        assert only_engine(container("docker:dind", securityContext=context)).privileged is expected, context


def test_the_policy_knows_images_and_containers() -> None:
    image = "registry.example/ci/toolbox:4"
    policy = parse_policy(
        {
            "images": [
                {"match": "registry.example/ci/*", "program": "dockerd", "version": "27.1", "entrypoint": ["/run.sh"]}
            ]
        }
    )
    engine = only_engine(container(image), policy=policy)
    assert (engine.version, engine.entrypoint, engine.launch) == ((27, 1), ("/run.sh",), Launch.IMAGE)
    assert "the policy says that the image registry.example/ci/toolbox:4 runs dockerd" in engine.evidence
    assert detected(container(image, command=["cat"]), policy=policy).engines == ()
    never = parse_policy({"images": [{"match": "docker:*"}]})
    assert detected(privileged("docker:dind"), policy=never) == Detection((), (), "kata-qemu", True)
    named = parse_policy({"containers": ["dind-*"]})
    assert len(detected(container(image, "dind-1"), policy=named).engines) == 1
    assert detected(container(image, "other"), policy=named).engines == ()


def test_two_programs_in_one_container() -> None:
    engines = detected(privileged("x/y", command=["sh", "-c", "dockerd & buildkitd"])).engines
    assert [engine.program for engine in engines] == [Program.DOCKERD, Program.BUILDKITD]


def test_a_script_calls_the_daemon_past_its_entrypoint() -> None:
    """tuist's fleet does."""
    engine = only_engine(privileged("docker:dind", command=["sh", "-c", "dockerd &\nwait"]))
    assert engine.command == ("dockerd",)
    assert engine.entrypoint == ("dockerd-entrypoint.sh",)
    assert engine.evidence[1] == "its command runs dockerd"


def test_a_script_with_both_ways_is_rootless_for_a_user_only() -> None:
    text = 'if [ $(id -u) != 0 ]; then exec rootlesskit dockerd "$@"; fi; exec dind dockerd "$@"'
    command = ["sh", "-c", text]
    assert paths(only_engine(privileged("acme/x", command=command))) == ["/var/lib/docker"]
    engine = only_engine(container("acme/x", command=command, securityContext={"runAsUser": 1000}))
    assert engine.rootless


def test_privileged_is_a_dict_of_this_pod_only() -> None:
    """The pod is only read."""
    one = arc_pod()
    before = repr(one)
    detect(one, Policy())
    assert repr(one) == before
    assert PRIVILEGED == {"privileged": True}
