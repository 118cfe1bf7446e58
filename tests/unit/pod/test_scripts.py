from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata_dind.pod.hand_mounts import HandMount
from kata_dind.pod.launches import FoundLaunch, Script, read_launch
from kata_dind.pod.scripts import LONGEST_SCRIPT, expanded, parse_script


def words_of(text: str) -> list[list[str]]:
    return [expanded(command.words, {}, ()) for command in parse_script(text).main]


def launched(text: str, *positional: str, files: dict[str, str] | None = None, **variables: str) -> FoundLaunch:
    def find(path: str) -> Script | None:
        return Script(files[path], f"the script {path}") if files and path in files else None

    return read_launch(["sh", "-c", text, *positional], variables, find)


def started(text: str, *positional: str, **variables: str) -> list[tuple[str, ...]]:
    return [start.words for start in launched(text, *positional, files=None, **variables).starts]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", [["a", "b"]]),
        ("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]]),
        ("a; b && c || d | e & f\ng", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"], ["g"]]),
        ("a # b\nc#d", [["a"], ["c#d"]]),
        ("a \\\n b", [["a", "b"]]),
        ("a >x 2>&1 <y b", [["a", "b"]]),
        ("a &>x b &", [["a", "b"]]),
        ("a 2 > x", [["a", "2"]]),
        ("a '$X' \"$X\" $X \\$X", [["a", "$X", "$X", "$X", "$X"]]),
        ("if a; then b; elif c; then d; else e; fi", [["a"], ["b"], ["c"], ["d"], ["e"]]),
        ("while a; do b; done < x", [["a"], ["b"]]),
        ("! a", [["a"]]),
        ("{ a; b; } && (c; d)", [["a"], ["b"], ["c"], ["d"]]),
        ("case $1 in a|b) c ;; (d) e;; *) f; esac; g", [["c"], ["e"], ["f"], ["g"]]),
        ("case x in\n  dockerd)\n    a\n    ;;\nesac", [["a"]]),
        ("echo if then", [["echo", "if", "then"]]),
        ("a $(b; c) `d` ${E:-f}", [["a", "$(b; c)", "$(d)", "f"]]),
        ('a "$(b "c d")" e', [["a", '$(b "c d")', "e"]]),
        ("cat <<EOF\ndockerd\nEOF\na", [["cat"], ["a"]]),
        ("cat <<-'EOF' | b\n\tdockerd\n\tEOF\na", [["cat"], ["b"], ["a"]]),
        ("cat <<A <<B\n1\nA\n2\nB\na", [["cat"], ["a"]]),
        ("a <<< dockerd", [["a"]]),
        ("a\r\nb\r\n", [["a"], ["b"]]),
        ("", []),
        (";;; &&& )) ((", []),
    ],
)
def test_a_script_is_taken_apart(text: str, words: list[list[str]]) -> None:
    assert words_of(text) == words


ARRAYS = [
    ('args=(dockerd --data-root /x); exec "${args[@]}"', ("dockerd", "--data-root", "/x")),
    ("args=(dockerd --data-root /x)\n${args[*]}", ("dockerd", "--data-root", "/x")),
    ('args=(--debug)\nargs+=(--data-root "/x y")\ndockerd "${args[@]}"', ("dockerd", "--debug", "--data-root", "/x y")),
    (
        'declare -a args=(\n  dockerd  # the daemon\n  --data-root=/x\n)\n"${args[@]}"',
        ("dockerd", "--data-root=/x"),
    ),
    ('f() { local -a a=("$@"); a+=(--debug); exec "${a[@]}"; }\nf dockerd -g /x', ("dockerd", "-g", "/x", "--debug")),
    ('ROOT=/x; a=(-g "$ROOT"); dockerd "${a[@]}" &', ("dockerd", "-g", "/x")),
    ('WORDS="--debug -g /x"; a=(dockerd $WORDS); "${a[@]}"', ("dockerd", "--debug", "-g", "/x")),
    ('a=(dockerd); a+=(--debug); set -- "${a[@]}" -g /x; exec "$@"', ("dockerd", "--debug", "-g", "/x")),
    ('a=([0]=dockerd [1]=--debug); "${a[0]}" "${a[1]}" -g "/x"', ("dockerd", "--debug", "-g", "/x")),
    ('a=(dockerd --label=x[1]=y "" [5]=--debug); "${a[@]}"', ("dockerd", "--label=x[1]=y", "", "--debug")),
    ('a=(x dockerd --debug); "${a[@]:1}"', ("dockerd", "--debug")),
    ('a=(); dockerd ${a[@]+"${a[@]}"} "${a[@]}" -g /x', ("dockerd", "-g", "/x")),
    ("a=(dockerd --debug); $a -g /x", ("dockerd", "-g", "/x")),
    ('A="--debug"; A+=" -g /x"; dockerd $A', ("dockerd", "--debug", "-g", "/x")),
    ('a=(dockerd --debug); sh -c "exec ${a[*]}"', ("dockerd", "--debug")),
    ("a=(dockerd --debug", ()),
]


@pytest.mark.parametrize(("text", "words"), ARRAYS)
def test_arrays_of_bash_are_followed(text: str, words: tuple[str, ...]) -> None:
    assert started(text) == ([words] if words else [])


def test_an_array_that_only_stands_there_starts_nothing() -> None:
    assert started('dockers=(dockerd); echo "${dockers[@]}"') == []
    assert started("f=(dockerd); f() { true; }; true") == []
    assert started("x+=dockerd; true y+=dockerd") == []


def test_arrays_that_double_again_and_again_cost_little() -> None:
    text = "a=(x y)\n" + 'a=("${a[@]}" "${a[@]}")\n' * 2000 + 'true "${a[@]}" "${a[@]}"\n' * 200 + "dockerd --debug"
    begun = time.process_time()
    assert started(text) == [("dockerd", "--debug")]
    assert time.process_time() - begun < 2


def test_functions_stand_apart() -> None:
    script = parse_script("f() { a; { b; }; }\nfunction g { c; }\nh() (d)\ne")
    assert {name: [command.words for command in body] for name, body in script.functions.items()} == {
        "f": [["a"], ["b"]],
        "g": [["c"]],
        "h": [["d"]],
    }
    assert [command.words for command in script.main] == [["e"]]


@pytest.mark.parametrize(
    "text",
    [
        "dockerd",
        "dockerd &",
        "set -e; dockerd > /var/log/docker.log 2>&1 &",
        "dockerd &>/dev/null & sleep 5; make test",
        "true && dockerd",
        "false || dockerd",
        "exec dockerd",
        "nohup dockerd >/dev/null &",
        "sudo -E dockerd &",
        "(dockerd &)",
        "{ dockerd & }",
        "if [ -n x ]; then dockerd & fi",
        "for i in 1 2 3; do dockerd && break; done",
        "while ! docker info; do dockerd & sleep 1; done",
        "case $1 in start) dockerd & ;; esac",
        "start() { dockerd & }\nstart",
        "function start { dockerd & }; start",
        "a() { b; }; b() { dockerd; }; a",
        "eval 'dockerd &'",
        "sh -c 'dockerd &'",
        "bash <<EOF\ndockerd &\nEOF",
        "echo 'dockerd &' | sh",
        "cat > /start.sh <<EOF\ndockerd &\nEOF\nsh /start.sh",
        "printf '%s' 'dockerd' > /start.sh; chmod +x /start.sh; /start.sh",
        "DOCKERD=dockerd; $DOCKERD &",
        "export X=1 Y=dockerd; ${Y} &",
        "${UNSET:-dockerd} &",
        "timeout 60 dockerd",
        "X=1 dockerd",
        "/usr/local/bin/dockerd --debug",
        'exec "$@"',
        'set -- dockerd "$@"; exec "$@"',
        "\\dockerd",
        "'dockerd'",
        "docker\\\nd",
        "command dockerd",
        "trap 'kill $!' EXIT; dockerd & wait",
        "[ -x /usr/bin/dockerd ] && dockerd",
        "su root -c dockerd",
        "service docker start",
        "dockerd-entrypoint.sh dockerd &",
    ],
)
def test_a_line_that_starts_dockerd(text: str) -> None:
    assert len(started(text, "sh", "dockerd")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "echo dockerd",
        "echo 'starting; dockerd &'",
        "# dockerd",
        "true # && dockerd",
        "pgrep dockerd",
        "ps aux | grep dockerd",
        "until docker info; do sleep 1; done",
        "until pgrep -x dockerd >/dev/null; do sleep 1; done",
        "while [ ! -S /var/run/docker.sock ]; do echo waiting for dockerd; sleep 1; done",
        "pkill dockerd; killall dockerd",
        "docker run --privileged docker:dind dockerd",
        "docker exec dind dockerd --version",
        "kubectl exec pod -- dockerd",
        "cat <<EOF\ndockerd &\nEOF",
        "cat <<'EOF' > /etc/motd\n$(dockerd)\ndockerd\nEOF\nsleep 1",
        "cat > /start.sh <<EOF\ndockerd &\nEOF\nchmod +x /start.sh",
        "which dockerd || exit 1",
        "command -v dockerd",
        "[ -x /usr/bin/dockerd ]",
        "test -f dockerd && echo yes",
        "dockerd --version",
        "if dockerd --help | grep -q storage; then echo yes; fi",
        "apt-get install -y dockerd",
        "tail -f /var/log/dockerd.log",
        "start() { dockerd & }",
        "X=dockerd",
        "export DAEMON=dockerd",
        "for x in dockerd containerd; do pkill $x; done",
        "case $1 in dockerd) echo no;; buildkitd|dockerd) echo no;; esac",
        "trap 'pkill dockerd' EXIT",
        "ls > dockerd",
        "wc < dockerd",
        "echo hi >dockerd",
        "systemctl status docker",
        "nsenter -t 1 -a dockerd",
        'echo "$(dockerd)"',
        "git clone https://example.com/dockerd",
        "''",
        "if then else fi done esac } )",
    ],
)
def test_a_script_that_only_mentions_dockerd(text: str) -> None:
    assert started(text) == []


def test_scripts_of_the_pod_are_followed() -> None:
    files = {
        "/scripts/start.sh": "#!/bin/bash\n. /scripts/lib.sh\nrun",
        "/scripts/lib.sh": "run() { /scripts/last.sh --data-root /x & }",
        "/scripts/last.sh": 'exec dockerd "$@"',
    }
    launch = launched("/scripts/start.sh", files=files)
    assert [start.words for start in launch.starts] == [("dockerd", "--data-root", "/x")]
    assert launch.starts[0].said == "the script /scripts/last.sh runs dockerd"
    assert launch.unknown == []
    launch = launched("bash -x /scripts/start.sh", files=files)
    assert len(launch.starts) == 1


def test_scripts_that_call_each_other_end() -> None:
    files = {"/a.sh": "/b.sh", "/b.sh": "/a.sh; dockerd"}
    assert len(launched("/a.sh", files=files).starts) == 1
    assert launched("f() { f; }; f").starts == []


def test_a_script_out_of_reach_is_said() -> None:
    assert launched("/opt/start.sh && make").unknown == ["start.sh"]
    assert launched("./run").unknown == ["run"]
    assert launched("/usr/bin/make").unknown == []
    assert launched("/x.py", files={"/x.py": "#!/usr/bin/env python3\nimport os"}).unknown == ["x.py"]


def test_variables_are_followed() -> None:
    assert started("ROOT=/data; dockerd --data-root=$ROOT/docker &") == [("dockerd", "--data-root=/data/docker")]
    assert started("dockerd --data-root ${ROOT:-/data}") == [("dockerd", "--data-root", "/data")]
    assert started("dockerd --data-root ${ROOT:-/data}", ROOT="/x") == [("dockerd", "--data-root", "/x")]
    assert started("dockerd --data-root $ROOT") == [("dockerd", "--data-root", "$ROOT")]
    assert started(': "${ROOT:=/data}"; dockerd --data-root "$ROOT"') == [("dockerd", "--data-root", "/data")]
    assert started('set -- dockerd "$@"; exec "$@"') == [("dockerd",)]
    assert started('set -- dockerd "$@"; exec "$@"', "sh", "--debug") == [("dockerd", "--debug")]
    assert started("FLAGS='-s vfs  -D'; dockerd $FLAGS") == [("dockerd", "-s", "vfs", "-D")]
    assert started("dockerd $EMPTY --debug", EMPTY="") == [("dockerd", "--debug")]
    assert started('dockerd "$FLAGS"', FLAGS="-s vfs") == [("dockerd", "-s vfs")]
    assert started("$RUN &", RUN="exec dockerd --debug") == [("dockerd", "--debug")]
    assert started("A=$B; dockerd $A", B="-s vfs") == [("dockerd", "-s", "vfs")]
    assert started("dockerd $1 $0 ${1}", "name", "--debug") == [("dockerd", "--debug", "name", "--debug")]
    assert started("dockerd '$ROOT'", ROOT="/x") == [("dockerd", "$ROOT")]
    assert started('shift; exec dockerd "$@"', "sh", "a", "--debug") == [("dockerd", "--debug")]
    assert launched("export DOCKER_DRIVER=vfs; dockerd").starts[0].variables["DOCKER_DRIVER"] == "vfs"
    assert launched("DOCKER_DRIVER=vfs dockerd").starts[0].variables["DOCKER_DRIVER"] == "vfs"


def test_a_daemon_json_that_the_script_writes_is_kept() -> None:
    text = 'cat > /etc/docker/daemon.json <<EOF\n{"data-root": "$ROOT"}\nEOF\ndockerd'
    assert launched(text, ROOT="/x").starts[0].files == {"/etc/docker/daemon.json": '{"data-root": "/x"}'}
    text = """echo '{"data-root": "/x"}' | sudo tee /etc/docker/daemon.json > /dev/null; dockerd"""
    assert launched(text).starts[0].files["/etc/docker/daemon.json"] == '{"data-root": "/x"}'
    assert launched('dockerd; echo "{}" > /etc/docker/daemon.json').starts[0].files == {}


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        ("mount -o loop /d.img /var/lib/docker", [HandMount("/var/lib/docker", False, "/d.img")]),
        ("mount /d.img /var/lib/docker/", [HandMount("/var/lib/docker", False, "/d.img")]),
        ("mount -t ext4 -o loop,noatime /d.img /x", [HandMount("/x", False, "/d.img")]),
        ('DEV=$(losetup -f --show /d.img); mount "$DEV" /x', [HandMount("/x", False, "$(losetup -f --show /d.img)")]),
        ("sudo mount /dev/xvdb /x", [HandMount("/x", False, "/dev/xvdb")]),
        ("mountpoint -q /x || mount /dev/vdb /x", [HandMount("/x", False, "/dev/vdb", unless_mounted=True)]),
        ("mount -t tmpfs tmpfs /x", [HandMount("/x", True, "tmpfs")]),
        ("mount -t tmpfs -o size=10G none /x", [HandMount("/x", True, "none")]),
        (
            "mount /dev/vdb /mnt; mount --bind /mnt/d /x",
            [HandMount("/mnt", False, "/dev/vdb"), HandMount("/x", False, "/mnt/d")],
        ),
        ("mount --bind /share /x", [HandMount("/x", False, "/share", is_fit=False)]),
        ("mount -o bind /share /x", [HandMount("/x", False, "/share", is_fit=False)]),
        ("mount -t overlay overlay /x", [HandMount("/x", False, "overlay", is_fit=False)]),
        ("mount -t 9p share /x", [HandMount("/x", False, "share", is_fit=False)]),
        ("mount -t nfs server:/x /x", [HandMount("/x", False, "server:/x", is_fit=False)]),
        ("mount --make-rshared /", []),
        ("mount /x", []),
        ("mount", []),
        ("mount /dev/vdb /x; umount /x", []),
        ("echo mount /dev/vdb /x", []),
    ],
)
def test_mounts_by_hand(text: str, mounts: list[HandMount]) -> None:
    assert list(launched(text + "; dockerd").starts[0].mounts) == mounts


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("grep -q ' /x ' /proc/mounts || mount /dev/vdb /x", True),
        ("mount | grep -q /x || mount /dev/vdb /x", True),
        ("if ! findmnt /x; then mount /dev/vdb /x; fi", True),
        ("grep -q /x /etc/passwd; mount /dev/vdb /x", False),
        ("mountpoint -q /y || mount /dev/vdb /x", False),
        ("mount /dev/vdb /x; mountpoint -q /x", False),
    ],
)
def test_a_script_that_asks_before_it_mounts(text: str, asks: bool) -> None:
    assert [mount.unless_mounted for mount in launched(text + "; dockerd").starts[0].mounts] == [asks]


def test_a_mount_after_the_start_does_not_count() -> None:
    assert launched("dockerd & mount /dev/vdb /var/lib/docker").starts[0].mounts == ()


SHELL_PIECES = ["'", '"', "\\", "$(", "${", ")", "}", "`", "<<EOF\n", "EOF\n", "#", "\n", ";", "&&", "|", "(", "{", " "]
SHELL_PIECES += [
    "case x in ",
    "esac",
    "f() ",
    "dockerd",
    "if ",
    "fi",
    "$@",
    "eval ",
    "sh -c ",
    "mount ",
    "> /x",
    "set -- ",
]


@settings(deadline=2000)
@given(st.lists(st.sampled_from(SHELL_PIECES), max_size=60).map("".join) | st.text(max_size=300))
def test_no_text_stops_it(text: str) -> None:
    parse_script(text)
    launched(text)


@pytest.mark.parametrize(
    "piece", [*SHELL_PIECES, "${a", "$(a", "<<A ", "a\n", "a=$a$a;", '"${', "f() { f; }; f; ", "$a"]
)
def test_a_long_text_costs_little(piece: str) -> None:
    text = (piece * 30_000)[:30_000]
    start = time.process_time()
    launched(text)
    assert time.process_time() - start < 1


def test_a_longer_text_is_not_read() -> None:
    launch = launched("dockerd" + " " * LONGEST_SCRIPT)
    assert (launch.starts, launch.unknown) == ([], ["its command"])
