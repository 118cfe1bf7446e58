from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.argv import FROM_SCRIPT, Word, expand, place_of, read_shell_call, unwrap
from kata_dind.pod.flags import flag_of, flags_weight
from kata_dind.pod.launches import FoundLaunch, read_launch
from kata_dind.pod.model import Program
from kata_dind.pod.starters import is_starter

VARIABLES = {"GID": "123", "A": "$(GID)", "EMPTY": ""}


def launched(*words: str, **variables: str) -> FoundLaunch:
    return read_launch(words, variables, lambda path: None)


def started(*words: str, **variables: str) -> list[tuple[Program, tuple[str, ...]]]:
    return [(start.program, start.words) for start in launched(*words, **variables).starts]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--group=$(GID)", "--group=123"),
        ("$(GID)$(GID)", "123123"),
        ("$(A)", "$(GID)"),  # once, not again
        ("$(EMPTY)", ""),
        ("$(UNSET)", "$(UNSET)"),
        ("$$(GID)", "$(GID)"),
        ("$$$(GID)", "$123"),
        ("$$", "$"),
        ("a$", "a$"),
        ("$GID", "$GID"),
        ("${GID}", "${GID}"),
        ("$(GID", "$(GID"),
        ("$(GID $$", "$(GID $"),
        ("$(date +%s)", "$(date +%s)"),
        ("$", "$"),
        ("", ""),
    ],
)
def test_variables_as_kubernetes_expands_them(text: str, expanded: str) -> None:
    assert expand(text, VARIABLES) == expanded


def test_a_word_knows_its_place() -> None:
    word = Word("dockerd", 3)
    assert (word, place_of(word), place_of("dockerd")) == ("dockerd", 3, FROM_SCRIPT)


@pytest.mark.parametrize(
    "wrapper",
    [
        "",
        "exec",
        "exec -a name",
        "nohup",
        "setsid --wait",
        "sudo -E",
        "sudo -u root -n",
        "sudo FOO=bar",
        "env -u DOCKER_HOST",
        "env -i A=B C=D",
        "env --unset=DOCKER_HOST --",
        "nice -n 5",
        "nice",
        "ionice -c 2 -n 0",
        "timeout -s KILL 60",
        "time -p",
        "su-exec root",
        "gosu root",
        "chpst -u root",
        "stdbuf -oL",
        "tini --",
        "/sbin/tini -s -g -p SIGTERM --",
        "/usr/bin/dumb-init --rewrite 15:3 --",
        "catatonit -P --",
        "docker-init --",
        "/init",
        "with-contenv",
        "busybox",
        "/usr/bin/dind",
        "dind env A=B nohup",
        "/var/run/argo/argoexec emissary --loglevel info --log-format text --",
        "/tekton/bin/entrypoint -wait_file /x -entrypoint",
        "start-stop-daemon --start --background --exec",
        "flock /var/lock/x",
        "setpriv --reuid 0 --",
        "unshare -m",
        "/opt/wrapper/bin/secrets -v --",
        "vault-env",
        "command",
        "A=B C=D",
    ],
)
def test_a_daemon_behind_a_wrapper(wrapper: str) -> None:
    words = [*wrapper.split(), "/usr/bin/dockerd", "--debug"]
    assert started(*words) == [(Program.DOCKERD, ("/usr/bin/dockerd", "--debug"))]


@pytest.mark.parametrize(
    "line",
    [
        "cat",
        "sleep infinity",
        "tail -f /dev/null",
        "docker run docker:dind dockerd",
        "docker exec x -- dockerd",
        "kubectl exec x -- dockerd",
        "ssh host dockerd",
        "chroot /host dockerd",
        "nsenter -t 1 -m -- dockerd",
        "pgrep dockerd",
        "pkill -9 dockerd",
        "which dockerd",
        "command -v dockerd",
        "echo dockerd",
        "grep dockerd /proc/1/cmdline",
        "dockerd --version",
        "dockerd -v",
        "dockerd --help",
        "dockerd --validate --config-file /etc/docker/daemon.json",
        "buildkitd --version",
        "containerd config default",
        "containerd --version",
        "service docker status",
        "service docker stop",
        "service nginx start",
        "systemctl status docker",
        "systemctl enable docker",
        "systemctl start nginx",
        "dockerd-entrypoint.sh docker info",
        "dockerd-entrypoint.sh sleep infinity",
        "dockerd-entrypoint.sh build .",
        "docker-entrypoint.sh dockerd-exporter",
        "bash",
        "sh",
        "sudo -v",
        "env",
        "tini --",
        "exec",
        "",
    ],
)
def test_what_starts_none(line: str) -> None:
    assert started(*line.split()) == []


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("dockerd-entrypoint.sh", Program.DOCKERD),
        ("dockerd-entrypoint.sh dockerd --debug", Program.DOCKERD),
        ("dockerd-entrypoint.sh --mtu=1450", Program.DOCKERD),
        ("docker-entrypoint.sh dockerd", Program.DOCKERD),
        ("/usr/local/bin/dockerd-entrypoint.sh /bin/drone-docker", Program.DOCKERD),
        ("wrapdocker", Program.DOCKERD),
        ("sh /usr/local/bin/dockerd-entrypoint.sh dockerd", Program.DOCKERD),
        ("bash -x /usr/local/bin/dockerd-entrypoint.sh", Program.DOCKERD),
        ("/usr/local/share/docker-init.sh sleep infinity", Program.DOCKERD),
        ("dockerd-rootless.sh --experimental", Program.DOCKERD),
        ("rootlesskit --net=slirp4netns --mtu 1500 --disable-host-loopback dockerd", Program.DOCKERD),
        ("service docker start", Program.DOCKERD),
        ("sudo service docker start", Program.DOCKERD),
        ("/etc/init.d/docker start", Program.DOCKERD),
        ("systemctl start docker", Program.DOCKERD),
        ("systemctl enable --now docker.service", Program.DOCKERD),
        ("rc-service docker start", Program.DOCKERD),
        ("docker daemon -s vfs", Program.DOCKERD),
        ("/envbox docker", Program.DOCKERD),
        ("buildkitd --addr unix:///run/buildkit/buildkitd.sock", Program.BUILDKITD),
        ("rootlesskit buildkitd", Program.BUILDKITD),
        ("buildctl-daemonless.sh build --frontend dockerfile.v0", Program.BUILDKITD),
        ("containerd --root /data", Program.CONTAINERD),
        ("dagger-entrypoint.sh --addr tcp://0.0.0.0:8080", Program.DAGGER),
        ("dagger-engine --config /etc/dagger/engine.toml", Program.DAGGER),
    ],
)
def test_programs_and_their_starters(line: str, program: Program) -> None:
    assert [start.program for start in launched(*line.split()).starts] == [program]


def test_earthlys_buildkitd_is_known_by_its_variable() -> None:
    assert [start.program for start in launched("buildkitd", EARTHLY_TMP_DIR="/tmp/earthly").starts] == [
        Program.EARTHLY
    ]


@pytest.mark.parametrize(
    "shell",
    [
        ["sh", "-c"],
        ["/bin/bash", "-ec"],
        ["bash", "-lc"],
        ["bash", "-euxo", "pipefail", "-c"],
        ["bash", "--login", "-c"],
        ["bash", "-e", "-o", "pipefail", "-c"],
        ["ash", "-c", "--"],
        ["busybox", "sh", "-c"],
        ["tini", "--", "sh", "-c"],
        ["sudo", "bash", "-c"],
        ["env", "A=B", "sh", "-c"],
        ["su", "-c"],
        ["su", "-", "root", "-c"],
    ],
)
def test_a_script_as_an_argument(shell: list[str]) -> None:
    assert started(*shell, "set -e; dockerd --debug &") == [(Program.DOCKERD, ("dockerd", "--debug"))]
    assert started(*shell, "echo dockerd") == []


def test_the_words_of_a_shell() -> None:
    call = read_shell_call(["bash", "-euo", "pipefail", "-c", "TEXT", "NAME", "A"])
    assert (call.text, call.file, call.positional) == ("TEXT", None, ["NAME", "A"])
    call = read_shell_call(["sh", "-x", "/start.sh", "A"])
    assert (call.text, call.file, call.positional) == (None, "/start.sh", ["/start.sh", "A"])
    call = read_shell_call(["sh", "-c"])
    assert (call.text, call.file, call.positional) == (None, None, [])


def test_the_arguments_of_a_script_keep_their_place() -> None:
    words = [Word(word, place) for place, word in enumerate(["sh", "-c", 'exec "$@"', "--", "dockerd", "-s", "vfs"])]
    (start,) = read_launch(words, {}, lambda path: None).starts
    assert [place_of(word) for word in start.words] == [4, 5, 6]
    assert not start.in_script


def test_the_guest_entrypoint_is_known() -> None:
    launch = launched("/bin/sh", "-c", "echo anything", "kata-dind", "dockerd-entrypoint.sh", "--debug")
    assert launch.is_wrapped
    assert [start.words for start in launch.starts] == [("dockerd-entrypoint.sh", "--debug")]
    launch = launched("/kata-dind/entrypoint.sh", "--", "dockerd")
    assert launch.is_wrapped
    assert [start.words for start in launch.starts] == [("dockerd",)]
    assert not launched("/opt/kata-dinding/run.sh", "dockerd").is_wrapped


def test_other_runtimes_are_named() -> None:
    assert launched("podman", "system", "service").other_runtime == "Podman"
    assert launched("k3s", "server").other_runtime == "k3s"
    assert launched("kind", "create", "cluster").other_runtime == "kind"
    assert launched("kind", "version").other_runtime == ""


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--mtu=1450", "--mtu"),
        ("--data-root /x", "--data-root"),
        ("-H unix:///x", "-H"),
        ("-svfs", "-s"),
        ("-g=/x", "-g"),
        ("--debug", "--debug"),
    ],
)
def test_the_flag_in_a_word(word: str, flag: str) -> None:
    assert flag_of(word) == flag


@pytest.mark.parametrize(
    ("line", "weight"),
    [
        ("--storage-driver=vfs", 2),
        ("--storage-driver=vfs --mtu=1450", 3),
        ("--userland-proxy=false", 3),
        ("--insecure-registry=x", 2),
        ("-H tcp://x", 1),
        ("--host=tcp://x --tls=false", 1),
        ("-s vfs", 1),
        ("--metrics-addr=:8080 --config-file=/x", 1),
        ("--ip-masq --kube-subnet-mgr", 1),
        ("--port 80", 0),
        ("serve --data-root /x", 0),
        ("--verbose --data-root=/x", 0),
        ("", 0),
    ],
)
def test_how_much_arguments_look_like_dockerds(line: str, weight: int) -> None:
    assert flags_weight(line.split()) == weight


@given(
    st.lists(st.sampled_from(["env", "-u", "tini", "--", "sudo", "sh", "-c", "dockerd", "x", "-", "A=B", "entrypoint"]))
)
def test_no_words_stop_it(words: list[str]) -> None:
    unwrap(words, is_starter)
    launched(*words)


def test_many_words_cost_little() -> None:
    start = time.process_time()
    for word in ("env", "--", "argoexec", "rootlesskit", "sh", "A=B", "/x/y", "entrypoint"):
        launched(*[word] * 20_000)
    assert time.process_time() - start < 2
