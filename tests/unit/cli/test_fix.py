"""`kata-dind fix` on files and standard input: what is printed in each format, and how it exits."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from kata_dind.manifest import parse_yaml
from kata_dind.vocabulary import FixOutput
from tests.unit.cli.conftest import CommandLine, Outcome
from tests.unit.cli.manifests import DIND, HELM, HOST_PATH, ON_THE_NODE, PLAIN, SERVICE

_PROGRAM = "import sys; from kata_dind.__main__ import main; sys.argv[0] = 'kata-dind'; sys.exit(main())"


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory of the test's own."""
    directory = home / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def documents(text: str) -> list[Any]:
    return list(parse_yaml(text))


def mount_paths(pod: dict[str, Any]) -> list[str]:
    [container] = pod["spec"]["containers"]
    return [mount["mountPath"] for mount in container.get("volumeMounts", ())]


def piped(*argv: str, stdin: str = "") -> Outcome:
    """Run the real program with a pipe at each end."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *argv], input=stdin, capture_output=True, text=True, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


# --- yaml


def test_the_whole_input_is_printed_and_only_the_pod_is_changed(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{DIND}---\n{SERVICE}---\n{PLAIN}")
    outcome = cli("fix", "-f", "all.yaml")
    assert outcome.exit_code == 0
    assert outcome.stdout.endswith(f"---\n{SERVICE}---\n{PLAIN}")
    assert "# A pod of ours; this comment stays.\n" in outcome.stdout
    assert "runtimeClassName: kata-qemu   # a VM\n" in outcome.stdout
    pod, service, plain = documents(outcome.stdout)
    assert "/var/lib/docker" in str(pod)
    assert [service, plain] == [*documents(SERVICE), *documents(PLAIN)]
    assert "kata-dind: 2 pods, 1 with Docker, 1 repaired" in outcome.stderr


@pytest.mark.parametrize("text", [PLAIN, SERVICE, ON_THE_NODE, f"---\n{SERVICE}...\n---\n# nothing\n---\n{PLAIN}"])
def test_what_needs_nothing_is_printed_to_the_byte(cli: CommandLine, here: Path, text: str) -> None:
    (here / "all.yaml").write_text(text)
    outcome = cli("fix", "-f", "all.yaml")
    assert (outcome.exit_code, outcome.stdout) == (0, text)
    assert cli("fix", "--check", "all.yaml").exit_code == 0


def test_what_is_repaired_needs_nothing_more(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND)
    once = cli("fix", "-f", "pod.yaml", "--quiet")
    assert once.stderr == ""
    (here / "pod.yaml").write_text(once.stdout)
    assert cli("fix", "-f", "pod.yaml").stdout == once.stdout
    assert cli("fix", "-f", "pod.yaml", "--check").exit_code == 0


def test_standard_input_is_read_from_a_pipe_and_a_file(here: Path) -> None:
    (here / "pod.yaml").write_text(DIND)
    expected = piped("fix", "-f", "pod.yaml")
    assert expected.stdout != DIND
    assert piped("fix", "-f", "-", stdin=DIND).stdout == expected.stdout
    with (here / "pod.yaml").open() as file:
        argv = [sys.executable, "-c", _PROGRAM, "fix", "-"]
        done = subprocess.run(argv, stdin=file, capture_output=True, text=True, check=True)
    assert done.stdout == expected.stdout


def test_files_are_joined_as_documents(cli: CommandLine, here: Path) -> None:
    (here / "a.yaml").write_text(SERVICE.rstrip("\n"))
    (here / "b.yaml").write_text(PLAIN)
    (here / "c.json").write_text(json.dumps(documents(SERVICE)[0]))
    outcome = cli("fix", "-f", "a.yaml", "-f", "b.yaml", "-f", "c.json", "-f", "./a.yaml")
    assert documents(outcome.stdout) == [*documents(SERVICE), *documents(PLAIN), *documents(SERVICE) * 2]


def test_json_stays_json(cli: CommandLine, here: Path) -> None:
    (here / "list.json").write_text(
        json.dumps({"kind": "List", "apiVersion": "v1", "items": documents(DIND)}, indent=4)
    )
    outcome = cli("fix", "-f", "list.json")
    [pod] = json.loads(outcome.stdout)["items"]
    assert "/var/lib/docker" in json.dumps(pod)


# --- the other formats


@pytest.mark.parametrize("tool", [["patch", "-p1"], ["git", "apply"]])
@pytest.mark.parametrize("name", ["all.yaml", "with space.yaml"])
def test_a_diff_can_be_applied(cli: CommandLine, here: Path, tool: list[str], name: str) -> None:
    text = "---\n".join([SERVICE, DIND, DIND, PLAIN, SERVICE, PLAIN, DIND]).rstrip("\n")
    (here / "sub").mkdir()
    (here / "sub" / name).write_text(text)
    expected = cli("fix", "-f", f"sub/{name}").stdout
    diff = cli("fix", "-f", str(here / "sub" / name), "-o", "diff").stdout
    assert f"--- a/sub/{name}" in diff
    subprocess.run(tool, input=diff.encode(), check=True, capture_output=True)
    assert (here / "sub" / name).read_text().rstrip("\n") == expected.rstrip("\n")


def test_a_diff_of_what_needs_nothing_is_empty(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{PLAIN}---\n{SERVICE}")
    assert cli("fix", "all.yaml", "-o", "diff").stdout == ""


def test_a_patch_makes_what_yaml_prints(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{SERVICE}---\n{DIND}")
    [entry] = json.loads(cli("fix", "all.yaml", "-o", "patch").stdout)
    assert {name: entry[name] for name in ("file", "document", "kind", "namespace", "name")} == {
        "file": "all.yaml",
        "document": 1,
        "kind": "Pod",
        "namespace": "build",
        "name": "ci",
    }
    expected = documents(cli("fix", "all.yaml").stdout)[1]
    assert jsonpatch.apply_patch(documents(DIND)[0], entry["patch"]) == expected


def test_json_has_what_was_found(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{DIND}---\n{PLAIN}---\n{HOST_PATH}")
    answer = json.loads(cli("fix", "all.yaml", "--json", "--check").stdout)
    assert answer == json.loads(cli("fix", "all.yaml", "-o", "json").stdout)
    assert answer["format"] == 1
    assert answer["summary"] == {
        "documents": 3,
        "pods": 3,
        "with_engines": 2,
        "need_repair": 2,
        "repaired": 1,
        "unrepaired": 1,
        "unreadable_files": 0,
        "changed_files": [],
    }
    broken, plain, on_host = answer["pods"]
    [engine] = broken["engines"]
    [root] = engine["data_roots"]
    assert (engine["container"], engine["program"], engine["version"]) == ("dind", "dockerd", "27")
    assert (root["path"], root["backing"]) == ("/var/lib/docker", "virtiofs")
    assert (broken["needs_repair"], plain["needs_repair"], on_host["needs_repair"]) == (True, False, True)
    assert (plain["engines"], plain["findings"], plain["repair"]["patch"]) == ([], [], [])
    assert (on_host["repair"]["patch"], on_host["repair"]["is_whole"]) == ([], False)
    assert all(finding["id"] and finding["message"] for finding in broken["findings"])


def test_explain_tells_what_runs_where_its_data_lands_and_what_changes(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{DIND}---\n{PLAIN}")
    outcome = cli("fix", "all.yaml", "-o", "explain")
    text = " ".join(outcome.stdout.split())
    assert outcome.stdout.startswith("all.yaml:2: Pod build/ci\n")
    for said in ("The container `dind` runs a Docker daemon (dockerd 27)", "`kata-qemu` is Kata's", "/var/lib/docker"):
        assert said in text
    assert "The repair makes its data root of the kind loop: " in text
    assert text.endswith("2 pods in all; 1 with Docker, 1 to be repaired.")
    assert max(map(len, outcome.stdout.splitlines())) <= 100
    assert cli("fix", "-o", "explain", "all.yaml").stdout == outcome.stdout


def test_explain_says_that_there_is_nothing(cli: CommandLine, here: Path) -> None:
    (here / "web.yaml").write_text(PLAIN)
    assert cli("fix", "web.yaml", "-o", "explain").stdout == "No Docker is in 1 pod.\n"


def test_github_gets_annotations_with_lines(cli: CommandLine, here: Path) -> None:
    (here / "a,b%.yaml").write_text(f"{SERVICE}---\n{DIND}")
    lines = cli("fix", "a,b%.yaml", "-o", "github").stdout.splitlines()
    assert lines
    for line in lines:
        command, _, message = line.removeprefix("::").partition("::")
        assert command.startswith(("error file=a%2Cb%25.yaml,line=", "warning file=", "notice file="))
        assert ",title=kata-dind " in command
        assert message.startswith("Pod build/ci: ")
        assert int(command.partition("line=")[2].partition(",")[0]) > SERVICE.count("\n")


def test_sarif_has_a_result_for_each_finding(cli: CommandLine, here: Path) -> None:
    (here / "a pod.yaml").write_text(DIND)
    log = json.loads(cli("fix", "a pod.yaml", "-o", "sarif").stdout)
    [run] = log["runs"]
    assert (log["version"], run["tool"]["driver"]["name"]) == ("2.1.0", "kata-dind")
    [pod] = json.loads(cli("fix", "a pod.yaml", "--json").stdout)["pods"]
    assert [result["ruleId"] for result in run["results"]] == [finding["id"] for finding in pod["findings"]]
    for result in run["results"]:
        assert result["level"] in ("error", "warning", "note")
        [location] = result["locations"]
        physical = location["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "a%20pod.yaml"
        assert physical["region"]["startLine"] >= 1


@pytest.mark.parametrize("output", [*FixOutput])
def test_every_format_is_whole_without_pods(cli: CommandLine, here: Path, output: str) -> None:
    (here / "service.yaml").write_text(SERVICE)
    outcome = cli("fix", "service.yaml", "-o", output, "--quiet")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    if output in ("patch", "json", "sarif"):
        json.loads(outcome.stdout)


def test_a_device_without_an_end_is_not_read_to_it(cli: CommandLine) -> None:
    outcome = cli("fix", "-f", "/dev/zero")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "/dev/zero: it is not text but binary data" in outcome.stderr


# --- check


def test_check_exits_with_1_for_what_needs_a_repair_here_or_elsewhere(cli: CommandLine, here: Path) -> None:
    for name, text, expected in [
        ("broken", DIND, 1),
        ("host", HOST_PATH, 1),
        ("web", PLAIN, 0),
        ("node", ON_THE_NODE, 0),
    ]:
        (here / f"{name}.yaml").write_text(text)
        outcome = cli("fix", "--check", f"{name}.yaml")
        assert (name, outcome.exit_code) == (name, expected)
        assert bool(outcome.stdout) is bool(expected), outcome
        assert (here / f"{name}.yaml").read_text() == text


TASK = """\
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: build, annotations: {%s}}
spec:
  steps: [{name: build, image: "docker:27-cli", script: docker build .}]
  sidecars:
  - {name: server, image: "docker:27-dind", securityContext: {privileged: true}, volumeMounts: [%s]}
  volumes: [{name: v, emptyDir: {medium: Memory}}, {name: plain, emptyDir: {}}]
"""


def test_a_task_whose_class_is_elsewhere_fails_the_check_if_it_would_be_broken_on_kata(
    cli: CommandLine, here: Path
) -> None:
    (here / "task.yaml").write_text(TASK % ("", ""))
    outcome = cli("fix", "--check", "task.yaml")
    assert outcome.exit_code == 1
    broken, whose, hint = outcome.stdout.splitlines()
    assert broken.startswith(
        "task.yaml:7: warning: Task build: Under a RuntimeClass of Kata's, such as `kata`, `server` keeps the data"
    )
    assert "Tekton makes a pod for each run of a task" in whose
    assert whose.endswith("[pod.incomplete]")
    assert "webhook" in hint
    [pod] = json.loads(cli("fix", "--check", "task.yaml", "--json").stdout)["pods"]
    assert (pod["needs_repair"], pod["is_kata"], pod["runtime_class"]) == (True, False, "")
    assert (pod["repair"]["kind"], pod["repair"]["patch"], pod["repair"]["is_whole"]) == ("loop", [], False)
    told = " ".join(cli("fix", "task.yaml", "-o", "explain").stdout.split())
    assert "Its RuntimeClass is named elsewhere." in told
    assert "left alone" not in told


@pytest.mark.parametrize(
    ("annotations", "mounts"),
    [
        ("kata-dind.io/repair: 'no'", ""),  # somebody has decided
        ("", "{name: v, mountPath: /var/lib/docker}"),  # it works
    ],
)
def test_a_task_that_needs_nothing_passes_the_check(
    cli: CommandLine, here: Path, annotations: str, mounts: str
) -> None:
    (here / "task.yaml").write_text(TASK % (annotations, mounts))
    outcome = cli("fix", "--check", "task.yaml", "--quiet")
    assert (outcome.exit_code, outcome.stdout) == (0, "")


def test_a_task_is_judged_by_the_policys_first_class_of_kata(cli: CommandLine, here: Path) -> None:
    (here / "task.yaml").write_text(TASK % ("", "{name: plain, mountPath: /var/lib/docker}"))
    (here / "policy.yaml").write_text(
        "runtimeClasses: [{match: kata-fc}, {match: 'vm-*', handler: kata-qemu, emptyDir: block-plain}, {match: kata}]"
    )
    assert cli("fix", "--check", "task.yaml").exit_code == 1
    assert cli("fix", "--check", "task.yaml", "--policy", "policy.yaml").exit_code == 0


def test_what_could_name_a_class_and_does_not_passes_the_check(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND.replace("  runtimeClassName: kata-qemu   # a VM\n", ""))
    (here / "config.toml").write_text(
        '[[runners]]\nname = "r"\n[runners.kubernetes]\nprivileged = true\n'
        '[[runners.kubernetes.services]]\nname = "docker:27-dind"\n'
    )
    outcome = cli("fix", "--check", "pod.yaml", "config.toml")
    assert (outcome.exit_code, outcome.stdout) == (0, "")
    assert "2 with Docker" in outcome.stderr


def test_check_names_the_place_of_a_finding(cli: CommandLine, here: Path) -> None:
    (here / "all.yaml").write_text(f"{SERVICE}---\n{DIND}")
    first = cli("fix", "--check", "all.yaml").stdout.splitlines()[0]
    assert first.startswith("all.yaml:")
    assert " Pod build/ci: `dind` keeps the data of Docker in `/var/lib/docker`: " in first
    assert first.endswith("]")


def test_check_has_the_same_exit_code_in_every_format(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND)
    assert {cli("fix", "--check", "pod.yaml", "-o", output).exit_code for output in FixOutput} == {1}


# --- directories


def test_a_directory_is_read_to_its_bottom_without_what_is_hidden(cli: CommandLine, here: Path) -> None:
    for name in ("top.yaml", "a/b/c.yml", "a/d.json", ".git/e.yaml", "a/.f.yaml", "a/readme.md", "a/g.toml"):
        (here / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "m" / name).write_text(json.dumps(documents(PLAIN)[0]))
    answer = json.loads(cli("fix", "-f", "m", "--json").stdout)
    assert [pod["file"] for pod in answer["pods"]] == ["m/a/b/c.yml", "m/a/d.json", "m/top.yaml"]


def test_one_bad_file_of_a_directory_does_not_hide_the_others(cli: CommandLine, here: Path) -> None:
    (here / "a.yaml").write_text("a: [")
    (here / "b.yaml").write_text(DIND)
    outcome = cli("fix", "--check", ".")
    assert outcome.exit_code == 2
    assert "./b.yaml:" in outcome.stdout
    assert outcome.stderr.startswith("kata-dind: ./a.yaml:")


# --- bad input


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "what to read is missing"),
        (["-f", "gone.yaml"], "gone.yaml: it cannot be read: No such file or directory"),
        (["-f", "empty"], "empty: there are no manifests in this directory"),
        (["-f", "https://example.org/pod.yaml"], "https://example.org/pod.yaml: it is a URL"),
        (["-f", "binary.yaml"], "binary.yaml: it is not text"),
        (["-f", "latin.yaml"], "latin.yaml: it is not text in UTF-8"),
        (["-f", "broken.yaml"], "broken.yaml:10: it is not YAML: "),
        (["-f", "helm.yaml"], "helm.yaml:1: this is a template, not a manifest yet"),
        (["-f", "pod.yaml", "-o", "xml"], "--output: 'xml' is not one of yaml, diff"),
        (["-f", "pod.yaml", "--policy", "gone"], "gone: it cannot be read"),
        (["-f", "pod.yaml", "--policy", "wrong.yaml"], "wrong.yaml: "),
        (["-f", "pod.yaml", "--policy", "broken.yaml"], "broken.yaml:10: it is not YAML: "),
        (["-f", "-", "--in-place"], "--in-place: standard input can't be changed"),
        (["-f", "pod.yaml", "--in-place", "--check"], "--in-place changes files, and --check does not"),
        (["-f", "pod.yaml", "--in-place", "-o", "yaml"], "--in-place changes files, and -o yaml does not"),
        (["-f", "pod.yaml", "--all"], "files and a cluster can't be read at once"),
        (["--all", "-o", "diff"], "-o diff is for files"),
        (["--all", "--in-place"], "--in-place is for files"),
    ],
)
def test_bad_input_is_told_in_one_line(cli: CommandLine, here: Path, argv: list[str], said: str) -> None:
    (here / "empty").mkdir()
    (here / "pod.yaml").write_text(DIND)
    (here / "binary.yaml").write_bytes(b"\x7fELF\0\0")
    (here / "latin.yaml").write_bytes("kind: Bücher".encode("latin-1"))
    (here / "broken.yaml").write_text(f"{SERVICE}---\nkind: Pod\nspec: [\n")
    (here / "helm.yaml").write_text(HELM)
    (here / "wrong.yaml").write_text("repair: 7")
    outcome = cli("fix", *argv)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"kata-dind: {said}"), outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len([line for line in outcome.stderr.splitlines() if not line.startswith("hint: ")]) == 1


def test_nothing_is_printed_of_a_file_that_breaks_off(cli: CommandLine, here: Path) -> None:
    """Else `kubectl apply` would get a part of it."""
    (here / "all.yaml").write_text(f"{DIND}---\n{SERVICE}---\na: [\n")
    for output in FixOutput:
        outcome = cli("fix", "all.yaml", "-o", output)
        assert (outcome.exit_code, documents(outcome.stdout) if output == "yaml" else []) == (2, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND)
    (here / "pod.yaml").chmod(0)
    assert "Permission denied" in cli("fix", "pod.yaml").stderr


# --- pipes, terminals


def test_a_reader_that_leaves_early_gets_no_complaint(here: Path) -> None:
    (here / "all.yaml").write_text("---\n".join([SERVICE] * 3000))
    argv = [sys.executable, "-c", _PROGRAM, "fix", "--quiet", "all.yaml"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == b""
        program.wait()
    assert program.returncode == 141


def test_what_would_move_a_terminals_cursor_is_not_printed_to_people(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(DIND.replace("name: ci", r'name: "ci\e[2J"'))
    for output in ("explain", "findings"):
        outcome = cli("fix", "pod.yaml", "-o", output)
        assert "\x1b" not in outcome.stdout + outcome.stderr


def test_as_a_plugin_of_kubectl_it_is_named_as_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = here / "kubectl-kata_dind"
    plugin.write_text(f"#!{sys.executable}\nfrom kata_dind.entry import main\nmain()\n")
    plugin.chmod(0o755)
    shown = subprocess.run([plugin, "fix", "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: kubectl kata-dind fix [OPTIONS] [FILE...]\n")
    done = subprocess.run([plugin, "fix", "--nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip().endswith("see kubectl kata-dind fix --help")) == (2, True)


def test_a_byte_order_mark_and_windows_line_ends_stay(cli: CommandLine, here: Path) -> None:
    text = f"\ufeff{DIND}---\n{SERVICE}".replace("\n", "\r\n")
    (here / "pod.yaml").write_bytes(text.encode())
    assert cli("fix", "-i", "pod.yaml").exit_code == 0
    after = (here / "pod.yaml").read_bytes().decode()
    assert after != text
    assert after.startswith("\ufeff# A pod")
    assert after.endswith(SERVICE.replace("\n", "\r\n"))
    assert after.replace("\r\n", "").count("\n") == 0
    assert len(documents(io.StringIO(after).read())) == 2


def test_config_maps_of_the_same_file_are_read(cli: CommandLine, here: Path) -> None:
    """The ConfigMap stands behind the pod, and standard input can't be read twice."""
    pod = DIND.replace(
        "    securityContext:",
        "    volumeMounts: [{name: config, mountPath: /etc/docker}]\n    securityContext:",
    )
    pod += "  volumes: [{name: config, configMap: {name: docker}}]\n"
    data = json.dumps({"daemon.json": json.dumps({"data-root": "/data/docker"})})
    config_map = f"kind: ConfigMap\nmetadata: {{name: docker, namespace: build}}\ndata: {data}\n"
    answer = json.loads(piped("fix", "-", "--json", stdin=f"{pod}---\n{config_map}").stdout)
    assert [root["path"] for root in answer["pods"][0]["engines"][0]["data_roots"]] == ["/data/docker"]


def test_runtime_classes_of_the_same_file_name_their_handlers(cli: CommandLine, here: Path) -> None:
    runtime_class = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: vm}\nhandler: kata-qemu\n"
    (here / "all.yaml").write_text(f"{DIND.replace('kata-qemu ', 'vm ')}---\n{runtime_class}")
    assert cli("fix", "--check", "all.yaml").exit_code == 1
    (here / "all.yaml").write_text(DIND.replace("kata-qemu ", "vm "))
    assert cli("fix", "--check", "all.yaml").exit_code == 0


def test_a_pod_that_is_made_elsewhere_is_named_with_its_maker(cli: CommandLine, here: Path) -> None:
    """ARC's chart adds the container itself, so that these values have no place for the repair."""
    values = "containerMode: {type: dind}\ntemplate:\n  spec:\n    runtimeClassName: kata-qemu\n"
    values += "    containers: [{name: runner, image: 'ghcr.io/actions/actions-runner:latest'}]\n"
    values = f"githubConfigUrl: https://github.com/example/x\n{values}"
    (here / "values.yaml").write_text(values)
    outcome = cli("fix", "--check", "values.yaml")
    assert outcome.exit_code == 1
    assert "[pod.made-elsewhere]" in outcome.stdout
    assert "webhook" in outcome.stdout
    assert cli("fix", "values.yaml").stdout == values


def test_gitlab_runners_settings_are_read(cli: CommandLine, here: Path) -> None:
    text = '[[runners]]\n  executor = "kubernetes"   # ours\n  [runners.kubernetes]\n    privileged = true\n'
    text += '    runtime_class_name = "kata-qemu"\n    [[runners.kubernetes.services]]\n      name = "docker:27-dind"\n'
    (here / "config.toml").write_text(text)
    found = json.loads(cli("fix", "config.toml", "--json").stdout)["pods"]
    assert [engine["program"] for pod in found for engine in pod["engines"]] == ["dockerd"]
    assert cli("fix", "config.toml", "--check").exit_code == 1
    (here / "pod.yaml").write_text(DIND)
    mixed = cli("fix", "config.toml", "pod.yaml")
    assert (mixed.exit_code, mixed.stdout) == (2, "")
    assert mixed.stderr.startswith("kata-dind: config.toml: it is TOML, which can't be printed among other files")


def test_a_pod_that_refuses_the_repair_needs_none(cli: CommandLine, here: Path) -> None:
    refused = DIND.replace("namespace: build}", 'namespace: build, annotations: {kata-dind.io/repair: "no"}}')
    refused = refused.replace("docker:27-dind", "docker:29-dind")
    (here / "pod.yaml").write_text(refused)
    assert cli("fix", "--check", "pod.yaml").exit_code == 0
    assert cli("fix", "pod.yaml").stdout == refused


def test_a_guard_that_would_refuse_a_pod_fails_the_check(cli: CommandLine, here: Path) -> None:
    (here / "pod.yaml").write_text(ON_THE_NODE)
    for answer, expected in (("off", 0), ("warn", 0), ("deny", 1)):
        (here / "policy.yaml").write_text(f"guards: {{sharedKernel: {answer}}}")
        outcome = cli("fix", "--check", "pod.yaml", "--policy", "policy.yaml")
        assert (answer, outcome.exit_code) == (answer, expected)
        assert ("[guard.shared-kernel]" in outcome.stdout) is (answer != "off")


def test_in_every_locale_it_is_utf_8(here: Path) -> None:
    text = DIND.replace("this comment", "dieser Kommentar — 日本")
    (here / os.fsdecode(b"\xff.yaml")).write_text(text)
    argv = [sys.executable, "-c", _PROGRAM, "fix", "."]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    for more in ([], ["-o", "json"], ["-o", "findings"]):
        done = subprocess.run([*argv, *more], capture_output=True, check=False, env=environment)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert done.stdout.decode("utf-8")
    assert (
        "dieser Kommentar — 日本"
        in subprocess.run(argv, capture_output=True, check=True, env=environment).stdout.decode()
    )


def test_a_broken_document_of_standard_input_has_its_line() -> None:
    outcome = piped("fix", "-", stdin=f"{SERVICE}---\na: [\n")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("kata-dind: stdin:9: it is not YAML: ")


def test_claims_of_the_same_file_tell_their_storage_class(cli: CommandLine, here: Path) -> None:
    """Kata mounts the file systems of this class in the guest, so that overlay works on them."""
    pod = HOST_PATH.replace("hostPath: {path: /srv/docker}", "persistentVolumeClaim: {claimName: docker}")
    claim = "kind: PersistentVolumeClaim\nmetadata: {name: docker, namespace: %s}\nspec: {storageClassName: fast}\n"
    (here / "policy.yaml").write_text("runtimeClasses: [{match: kata-qemu, version: 3.20.0, directAssigned: [fast]}]")
    for namespace, expected in (("build", 0), ("other", 1)):
        (here / "all.yaml").write_text(f"{pod}---\n{claim % namespace}")
        outcome = cli("fix", "--check", "all.yaml", "--policy", "policy.yaml")
        assert (namespace, outcome.exit_code) == (namespace, expected), outcome


def test_what_is_done_by_hand_is_left_alone_until_it_is_to_be_improved(cli: CommandLine, here: Path) -> None:
    script = "truncate -s 20G /disk/d.img; mkfs.ext4 -F /disk/d.img; mount -o loop /disk/d.img /var/lib/docker; "
    script += "exec dockerd-entrypoint.sh"
    pod = DIND + f"    command: [sh, -c, {json.dumps(script)}]\n"
    pod += "    volumeMounts: [{name: disk, mountPath: /disk}]\n  volumes: [{name: disk, emptyDir: {}}]\n"
    (here / "pod.yaml").write_text(pod)
    assert cli("fix", "pod.yaml").stdout == pod
    assert cli("fix", "--check", "pod.yaml").exit_code == 0
    assert "fix --improve` shows" in " ".join(cli("fix", "pod.yaml", "-o", "explain").stdout.split())
    improved = cli("fix", "--check", "--improve", "pod.yaml")
    assert (improved.exit_code, "[pod.improvable]" in improved.stdout) == (1, True)
    told = " ".join(cli("fix", "--improve", "pod.yaml", "-o", "explain").stdout.split())
    assert "The repair makes its data root of the kind loop" in told
    assert "Mind: " not in told
