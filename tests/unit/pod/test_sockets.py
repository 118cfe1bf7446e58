"""A socket in an emptyDir that containers share: on virtio-fs the kernel refuses whoever did not make it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.pod.checks import BLOCK_PLAIN, Json, container_of, dind, finding_ids, mount, pod, repaired


def shared(source: Json, *, daemons: str = "/var/run", clients: str = "/var/run", **more: Any) -> Json:
    """A pod whose daemon and client have a volume in common."""
    daemon = dind(volumeMounts=[mount("sock", daemons), mount("data", "/var/lib/docker")])
    client = {"name": "build", "image": "docker:27-cli", "volumeMounts": [mount("sock", clients)]}
    return pod(daemon, client, volumes=[{"name": "sock", **source}, {"name": "data", "emptyDir": {}}], **more)


def socket_volume(document: Json) -> Json:
    return next(volume for volume in document["spec"]["volumes"] if volume["name"] == "sock")


@pytest.mark.parametrize("source", [{"emptyDir": {}}, {"emptyDir": None}, {}, {"emptyDir": {"sizeLimit": "8Mi"}}])
@pytest.mark.parametrize("path", ["/var/run", "/run", "/run/docker/"])
def test_it_goes_into_memory(source: Json, path: str) -> None:
    result, after = repaired(shared(source, daemons=path, clients="/sock"))
    assert socket_volume(after)["emptyDir"] == {**(source.get("emptyDir") or {}), "medium": "Memory"}
    assert "socket.on-share" in finding_ids(result)
    again, _ = repaired(after)
    assert (again.patch, again.findings) == ((), ())


def named(where: str, **more: Any) -> Json:
    """A pod whose daemon is told to listen at /sockets/docker.sock, in some way."""
    words: dict[str, Json] = {
        "args": {"args": ["--host=unix:///sockets/docker.sock"]},
        "short": {"args": ["dockerd", "-H", "unix:///sockets/docker.sock"]},
        "script": {"command": ["sh", "-c", "exec dockerd -H 'unix:///sockets/docker.sock' -H tcp://0.0.0.0:2375"]},
        "variable": {"env": [{"name": "DOCKER_HOST", "value": "unix:///sockets/docker.sock"}]},
    }
    document = shared({"emptyDir": {}}, daemons="/sockets", clients="/sockets", **more)
    container_of(document, "dind").update(words[where])
    return document


@pytest.mark.parametrize("where", ["args", "short", "script", "variable"])
def test_a_socket_anywhere_goes_into_memory(where: str) -> None:
    result, after = repaired(named(where))
    assert socket_volume(after)["emptyDir"] == {"medium": "Memory"}
    assert "socket.on-share" in finding_ids(result)
    assert not result.unrepaired


def test_a_socket_among_other_data_is_said_and_left() -> None:
    document = named("args")
    container_of(document, "build")["workingDir"] = "/sockets/src"
    result, after = repaired(document)
    assert socket_volume(after) == {"name": "sock", "emptyDir": {}}
    (finding,) = result.gave_up
    assert finding.id == "socket.on-share"
    assert finding.hint.startswith("Give the sockets an emptyDir of their own, with `medium: Memory`")


def test_a_socket_of_another_directory_moves_nothing() -> None:
    document = named("args")
    container_of(document, "dind")["args"] = ["--host=unix:///sockets2/docker.sock", "--host=unix:///run/docker.sock"]
    _, after = repaired(document)
    assert "medium" not in socket_volume(after)["emptyDir"]


@pytest.mark.parametrize(
    "document",
    [
        shared({"emptyDir": {"medium": "Memory"}}),
        shared({"hostPath": {"path": "/srv"}}),
        shared({"emptyDir": {}}, daemons="/work"),
    ],
)
def test_what_is_no_emptydir_on_the_share_stays(document: Json) -> None:
    result, after = repaired(document)
    assert socket_volume(after) == socket_volume(document)
    assert "socket.on-share" not in finding_ids(result)


def test_one_container_alone_reaches_its_own_sockets() -> None:
    document = shared({"emptyDir": {}})
    del container_of(document, "build")["volumeMounts"]
    result, after = repaired(document)
    assert "medium" not in socket_volume(after)["emptyDir"], result.reasons


@pytest.mark.parametrize(
    "policy", [BLOCK_PLAIN, {"runtimeClasses": [{"match": "kata*", "version": "3.30.0"}]}], ids=["disks", "before 4.0"]
)
def test_where_an_emptydir_is_the_guests_own_it_stays(policy: Json) -> None:
    result, after = repaired(shared({"emptyDir": {}}), policy)
    assert "medium" not in socket_volume(after)["emptyDir"], result.reasons


def test_a_good_data_root_needs_no_more_than_that() -> None:
    document = shared({"emptyDir": {}})
    document["spec"]["volumes"][1]["emptyDir"] = {"medium": "Memory"}
    result, after = repaired(document)
    assert (result.kind, len(result.patch)) == ("socket", 2)
    assert after["metadata"]["annotations"]["kata-dind.io/repaired"].endswith(" socket: the sockets of dind")
