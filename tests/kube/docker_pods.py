"""Pods with Docker in them, as people write them, and what has to work in each."""

from __future__ import annotations

import time
from typing import Any

from tests.kube.objects import pod
from tests.kube.running import RunningPod

SIZE_MIB = 512
EVICTION_SECONDS = 12
"""Kubelet looks for what is larger than its limit every ten seconds."""
RUN = "docker load --quiet --input /usr/share/kata-dind/hello.tar && docker run --rm kata-dind/hello echo ran"
_LIMIT = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
_DOCKERFILE = "FROM kata-dind/hello\\nRUN rm /hello.sh && echo built >/built\\n"
_FROM_SCRATCH = """FROM scratch
COPY busybox /bin/busybox
COPY Dockerfile /gone
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox rm /gone && echo built >/built"]
""".replace("\n", "\\n")
# 28.5 still has the builder that needs no BuildKit, whose client is a package of its own.
_BUILD = f"printf '{_DOCKERFILE}' | DOCKER_BUILDKIT=0 docker build --tag built -"
_CHECK = f'[ "$(docker run --rm --memory=64m built sh -c "{_LIMIT}")" = {64 << 20} ]'
_JOB = f"{RUN}\n{_BUILD}\n{_CHECK}\ndocker run --rm built cat /built"


def dind(image: str, *, runtime_class: str = "kata-qemu", **annotations: str) -> dict[str, Any]:
    """Return a pod that runs Docker; it is ready when Docker answers."""
    return pod("dind", "ci", _spec(runtime_class, containers=[_daemon(image)]), annotations=_named(annotations))


def rootless(image: str, **annotations: str) -> dict[str, Any]:
    """Return a pod that runs Docker without root."""
    container = {**_daemon(image), "env": [{"name": "DOCKER_HOST", "value": "unix:///run/user/1000/docker.sock"}]}
    return pod("dind", "ci", _spec(containers=[container]), annotations=_named(annotations))


def buildkit(image: str, *, runtime_class: str = "kata-qemu", **annotations: str) -> dict[str, Any]:
    """Return a pod that runs BuildKit without Docker; it is ready when BuildKit answers."""
    container = _daemon(image)
    container["readinessProbe"]["exec"] = {"command": ["buildctl", "debug", "workers"]}
    return pod("dind", "ci", _spec(runtime_class, containers=[container]), annotations=_named(annotations))


def runner(image: str, client: str, *, runtime_class: str = "kata-qemu", **annotations: str) -> dict[str, Any]:
    """Return a pod in the shape of ARC's: Docker as a native sidecar, and a job that uses it and ends."""
    socket = {"name": "dind-sock", "mountPath": "/var/run"}
    sidecar = {
        **_daemon(image),
        "args": ["dockerd", "--host=unix:///var/run/docker.sock"],
        "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["docker", "info"]}, "failureThreshold": 24, "periodSeconds": 5},
        "volumeMounts": [socket],
    }
    del sidecar["readinessProbe"]
    job = {
        "name": "runner",
        "image": client,
        "command": ["sh", "-euxc", _JOB],
        "env": [{"name": "DOCKER_HOST", "value": "unix:///var/run/docker.sock"}],
        "volumeMounts": [socket],
    }
    volumes = [{"name": "dind-sock", "emptyDir": {}}]
    spec = _spec(runtime_class, initContainers=[sidecar], containers=[job], volumes=volumes)
    return pod("arc-runner", "ci", {**spec, "restartPolicy": "Never"}, annotations=_named(annotations))


def gitlab_job(image: str, client: str, **annotations: str) -> dict[str, Any]:
    """Return a pod in the shape of GitLab Runner's, which runs the job in `build` by exec, and then deletes the pod."""
    # All containers get the variables of the job.
    variables = [{"name": "DOCKER_HOST", "value": "tcp://127.0.0.1:2375"}, {"name": "DOCKER_TLS_CERTDIR", "value": ""}]
    shell = {"image": client, "command": ["sh", "-c", "exec sleep infinity"], "env": variables}
    arguments = ["--host=tcp://127.0.0.1:2375", "--tls=false"]
    service = {**_daemon(image), "name": "svc-0", "args": arguments, "stdin": True, "env": variables}
    containers = [{"name": "build", **shell}, {"name": "helper", **shell}, service]
    return pod(
        "runner-job", "ci", {**_spec(containers=containers), "restartPolicy": "Never"}, annotations=_named(annotations)
    )


def check_docker(pod: RunningPod, *, limits: bool = True) -> None:
    """Load an image, build one from it, and run containers, one with a memory limit."""
    said = pod.succeed(RUN)
    assert said.splitlines()[-1] == "ran", said
    pod.succeed(_BUILD)
    said = pod.succeed("docker run --rm built cat /built")
    assert said.splitlines()[-1] == "built", said  # without root there is a warning before it
    assert pod.run("docker run --rm built cat /hello.sh")[0] != 0
    if limits:
        said = pod.succeed(f"docker run --rm --memory=64m kata-dind/hello sh -c '{_LIMIT}'")
        assert said.split() == [f"{64 << 20}"]


def check_buildkit(pod: RunningPod) -> None:
    """Build an image, for which a container runs."""
    files = f"mkdir -p /build && cp /usr/bin/busybox /build/ && printf '{_FROM_SCRATCH}' >/build/Dockerfile"
    local = "--local context=/build --local dockerfile=/build --output type=local,dest=/out"
    pod.succeed(f"{files} && buildctl build --frontend dockerfile.v0 {local}")
    assert pod.succeed("cat /out/built").strip() == "built"
    assert pod.run("ls /out/gone")[0] != 0


def keep_writing(pod: RunningPod) -> None:
    """Let a container of Docker's run and write until somebody ends it."""
    pod.succeed(f"{RUN} && docker run --detach kata-dind/hello sh -c 'while :; do echo x >>/x; sync; done'")


def check_full(pod: RunningPod, path: str = "/var/lib/docker") -> None:
    """Fill its disk to the last byte: it is full for those inside, and kubelet has nothing to say against it."""
    size_mib = int(pod.succeed(f"df -Pm {path}").split()[-5])
    assert SIZE_MIB * 0.8 <= size_mib <= SIZE_MIB
    code, said = pod.run(f"dd if=/dev/zero of={path}/filler bs=1M 2>&1")
    assert code != 0
    assert "No space left on device" in said
    time.sleep(EVICTION_SECONDS)
    status = pod.read()["status"]
    assert (status["phase"], status.get("reason")) == ("Running", None)
    assert [each["restartCount"] for each in status["containerStatuses"]] == [0] * len(status["containerStatuses"])
    pod.succeed(f"rm {path}/filler")


def _daemon(image: str) -> dict[str, Any]:
    probe = {"exec": {"command": ["docker", "info"]}, "periodSeconds": 1, "timeoutSeconds": 5}
    return {"name": "dind", "image": image, "securityContext": {"privileged": True}, "readinessProbe": probe}


def _spec(runtime_class: str = "kata-qemu", **fields: Any) -> dict[str, Any]:
    return {"runtimeClassName": runtime_class, **fields}


def _named(annotations: dict[str, str]) -> dict[str, str]:
    return {f"kata-dind.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
