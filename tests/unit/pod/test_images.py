from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.images import CERTAIN, LIKELY, Image, Known, known_image, parse_image
from kata_dind.pod.model import Program

DIGEST = "sha256:" + "0752ca4e" * 8


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ("docker", Image("", "docker", "", "")),
        ("docker:27-dind", Image("", "docker", "27-dind", "")),
        ("library/docker:dind", Image("", "library/docker", "dind", "")),
        (f"mirror.gcr.io/library/docker@{DIGEST}", Image("mirror.gcr.io", "library/docker", "", DIGEST)),
        (f"docker:27-dind@{DIGEST}", Image("", "docker", "27-dind", DIGEST)),
        ("localhost/docker:dind", Image("localhost", "docker", "dind", "")),
        ("registry:5000/docker:dind", Image("registry:5000", "docker", "dind", "")),
        ("registry:5000/docker", Image("registry:5000", "docker", "", "")),
        ("[2001:db8::1]:5000/library/docker:dind", Image("[2001:db8::1]:5000", "library/docker", "dind", "")),
        ("[::1]/docker:dind", Image("[::1]", "docker", "dind", "")),
        ("localhost:5000", Image("", "localhost", "5000", "")),
        ("Registry.Example/docker", Image("Registry.Example", "docker", "", "")),
        ("a/b/c/d-e__f.g--h:v1", Image("", "a/b/c/d-e__f.g--h", "v1", "")),
    ],
)
def test_a_reference_is_taken_apart(reference: str, image: Image) -> None:
    assert parse_image(reference) == image


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "evil/docker:27-dind;rm",
        "evil/docker:27-dind;rm -rf /",
        "docker:27-dind\n",
        "\ndocker:27-dind",
        "docker:$(TAG)",
        "${REGISTRY}/docker:dind",
        "{{ .Values.image }}",
        "Docker:dind",
        "registry.example/Docker:dind",
        "docker:-dind",
        "docker:" + "a" * 129,
        "docker@sha256:123",
        f"docker@{DIGEST}@{DIGEST}",
        "docker:a:b",
        "/docker",
        "docker/",
        "a//docker",
        "a__b/c___d:x",
        "[::1/docker:dind",
        "registry.example:port/docker",
        "dócker:dind",
        "docker:dínd",
        "docker:dind\u0661",
        "\ud800",
        "d" * 1025,
    ],
)
def test_what_no_runtime_accepts_is_no_reference(reference: str) -> None:
    assert parse_image(reference) is None
    assert known_image(reference) == Known()


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("docker:dind", ()),
        ("docker:27-dind", (27,)),
        ("docker:27.5.1-dind", (27, 5, 1)),
        ("docker:28.1-dind-alpine3.21", (28, 1)),
        ("docker:dind-alpine3.20", ()),
        ("docker:stable-dind", ()),
        ("docker:20.10-dind-nvidia", (20, 10)),
        ("docker:dind-27", ()),
        ("docker:18.09-dind", (18, 9)),
        ("docker:19.03.13-dind", (19, 3, 13)),
        (f"docker:29-dind@{DIGEST}", (29,)),
        ("public.ecr.aws/docker/library/docker:27-dind", (27,)),
        ("registry.example:5000/mirror/library/docker:26-dind", (26,)),
        ("registry.example/dockerhub-proxy/docker:24.0.5-dind", (24, 0, 5)),
        # Since 23 the plain name is the daemon's.
        ("docker", ()),
        ("docker:latest", ()),
        ("docker:23", (23,)),
        ("docker:27.0", (27, 0)),
        ("docker:24-git", (24,)),
        ("docker:29-alpine3.22", (29,)),
        ("docker.io/library/docker:28", (28,)),
    ],
)
def test_the_official_daemon(reference: str, version: tuple[int, ...]) -> None:
    known = known_image(reference)
    assert (known.program, known.weight, known.version) == (Program.DOCKERD, CERTAIN, version)
    assert (known.entrypoint, known.user, known.rootless) == (("dockerd-entrypoint.sh",), 0, False)


@pytest.mark.parametrize("tag", ["dind-rootless", "27-dind-rootless", "29.1-dind-rootless"])
def test_the_rootless_daemon(tag: str) -> None:
    known = known_image(f"docker:{tag}")
    assert (known.program, known.weight, known.user, known.rootless) == (Program.DOCKERD, CERTAIN, 1000, True)


@pytest.mark.parametrize(
    "reference",
    [
        "docker:cli",
        "docker:27-cli",
        "docker:24.0.5-cli",
        "docker:28-cli-alpine3.21",
        "docker:19.03.1",
        "docker:20.10",
        "docker:20.10.24-git",
        "docker:18.09",
        "docker:1.12",
        "docker:stable",
        "registry.example/mirror/docker:20.10",
        "docker:29-windowsservercore",
        "gcr.io/cloud-builders/docker",
    ],
)
def test_the_official_client(reference: str) -> None:
    known = known_image(reference)
    assert (known.program, known.weight, known.is_client) == (None, 0, True)


@pytest.mark.parametrize(
    ("reference", "weight"),
    [
        (f"mirror.gcr.io/library/docker@{DIGEST}", 1),
        ("registry.example/team/docker:27", LIKELY),
        ("registry.example/docker:latest", LIKELY),
        ("docker:nightly", 1),
    ],
)
def test_a_daemon_or_a_client(reference: str, weight: int) -> None:
    known = known_image(reference)
    assert (known.program, known.weight) == (Program.DOCKERD, weight)


@pytest.mark.parametrize(
    ("reference", "weight"),
    [
        ("registry.example/ci/docker-dind:3", CERTAIN),
        ("acme/dind", CERTAIN),
        ("acme/buildkite-dind:v1", CERTAIN),
        ("summerwind/actions-runner-dind:ubuntu-22.04", CERTAIN),
        ("summerwind/actions-runner-dind-rootless", CERTAIN),
        ("codefresh/dind:26.1.4-1.28.8", CERTAIN),
        ("cruizba/ubuntu-dind:latest", CERTAIN),
        ("ghcr.io/coder/envbox:0.6", CERTAIN),
        ("acme/runner:2.3-dind", LIKELY),
        ("acme/dockerd:1", CERTAIN),
    ],
)
def test_a_name_of_ones_own(reference: str, weight: int) -> None:
    known = known_image(reference)
    assert (known.program, known.weight) == (Program.DOCKERD, weight)


@pytest.mark.parametrize(
    "reference",
    [
        "codefresh/dind-lv-monitor:1",
        "acme/dind-exporter",
        "acme/dind-cleaner:2",
        "acme/dinding",
        "acme/windind",
        "acme/redind:1",
        "pytorch/torchserve:latest",
        "gcr.io/kaniko-project/executor:v1",
        "gcr.io/cadvisor/cadvisor:v0.49",
        "ghcr.io/actions/actions-runner:latest",
        "gitlab/gitlab-runner:latest",
        "tecnativa/docker-socket-proxy",
        "containrrr/watchtower",
        "kindest/node:v1.30.0",
        "quay.io/podman/stable",
        "quay.io/containers/podman:v5",
        "rancher/k3s:v1.30",
        "plugins/kaniko",
        "plugins/slack",
        "ubuntu",
        "docker.io/nginx",
    ],
)
def test_other_images(reference: str) -> None:
    known = known_image(reference)
    assert (known.program, known.weight) == (None, 0)


@pytest.mark.parametrize(
    ("reference", "program"),
    [
        ("moby/buildkit:latest", Program.BUILDKITD),
        ("moby/buildkit:v0.12.5-rootless", Program.BUILDKITD),
        ("docker.io/moby/buildkit:rootless", Program.BUILDKITD),
        ("registry.example/mirror/moby/buildkit:v0.16.0", Program.BUILDKITD),
        ("registry.dagger.io/engine:v0.13.7", Program.DAGGER),
        ("ghcr.io/dagger/engine:v0.18", Program.DAGGER),
        ("earthly/buildkitd:v0.8.0", Program.EARTHLY),
        ("earthly/earthly:v0.8.15", Program.EARTHLY),
        ("earthly/satellite:v0.8.3", Program.EARTHLY),
    ],
)
def test_builders(reference: str, program: Program) -> None:
    known = known_image(reference)
    assert (known.program, known.weight) == (program, CERTAIN)


@pytest.mark.parametrize(
    ("reference", "program"),
    [
        ("plugins/docker", "/bin/drone-docker"),
        ("plugins/docker:20.18.6", "/bin/drone-docker"),
        ("plugins/ecr", "/bin/drone-ecr"),
        ("plugins/gcr", "/bin/drone-gcr"),
        ("plugins/acr", "/bin/drone-acr"),
        ("plugins/gar", "/bin/drone-gar"),
        ("registry.example/mirror/plugins/heroku", "/bin/drone-heroku"),
        ("woodpeckerci/plugin-docker-buildx:5", "/bin/plugin-docker-buildx"),
        ("codeberg.org/woodpecker-plugins/docker-buildx", "/bin/plugin-docker-buildx"),
        ("thegeeklab/drone-docker-buildx", "/bin/drone-docker-buildx"),
    ],
)
def test_plugins_whose_name_shows_nothing(reference: str, program: str) -> None:
    known = known_image(reference)
    assert (known.program, known.weight) == (Program.DOCKERD, CERTAIN)
    assert known.entrypoint == ("/usr/local/bin/dockerd-entrypoint.sh", program)


@pytest.mark.parametrize(
    "reference",
    ["a." * 8000 + "!", "a-" * 8000 + "!", "a" * 16384, "a" * 256, "[" * 16384, ":" * 16384, "@" * 16384, "a/" * 8000],
)
def test_a_long_name_costs_nothing(reference: str) -> None:
    start = time.process_time()
    assert parse_image(reference) is None
    parse_image(reference[-1023:])
    assert time.process_time() - start < 0.05


@given(st.text(max_size=200) | st.from_regex(r"[a-z0-9./:@_-]{0,80}", fullmatch=True))
def test_no_name_stops_it(reference: str) -> None:
    image = parse_image(reference)
    known_image(reference)
    if image is not None:
        again = (image.registry + "/" if image.registry else "") + image.path
        again += (":" + image.tag if image.tag else "") + ("@" + image.digest if image.digest else "")
        assert again == reference
