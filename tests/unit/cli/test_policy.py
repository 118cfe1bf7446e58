"""`kata-dind policy`: what a policy means, told to people and to programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kata_dind.pod.policy import Policy
from kata_dind.policies import load_policy
from tests.unit.cli.conftest import CommandLine

_PAGE = Path(__file__).parents[3] / "docs" / "policy.md"


def test_what_is_shown_is_the_policy_that_holds_without_one(cli: CommandLine, home: Path) -> None:
    outcome = cli("policy", "show")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (home / "policy.yaml").write_text(outcome.stdout)
    assert load_policy(str(home / "policy.yaml")) == Policy()
    assert max(map(len, outcome.stdout.splitlines())) <= 120


def test_what_is_shown_in_comments_is_allowed_as_well(cli: CommandLine, home: Path) -> None:
    text = cli("policy", "show").stdout
    (home / "policy.yaml").write_text(
        re.sub(r"(?m)^( *)# ?( *(?:- )?[a-zA-Z]+: )", r"\1\2", text.replace(": []\n#", ":\n#"))
    )
    policy = load_policy(str(home / "policy.yaml"))
    assert (policy.images[0].program, policy.certificates[0].config_map) == ("dockerd", "registry-ca")
    assert policy.runtime_classes[1].handler == "kata-qemu"


def test_a_policy_is_explained(cli: CommandLine, home: Path) -> None:
    (home / "policy.yaml").write_text(
        "runtimeClasses:\n"
        "- {match: vm, handler: kata-qemu, version: 4.1.0, emptyDir: block-plain}\n"
        "- {match: kata-*}\n"
        "- {match: kata-fc}\n"
        "- {match: gvisor, kata: no}\n"
        "guards: {sharedKernel: deny, hostDocker: off}\n"
    )
    outcome = cli("policy", "check", str(home / "policy.yaml"))
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    text = " ".join(outcome.stdout.split())
    assert "vm: Kata" in text
    assert "gets a plain emptyDir, of which Kata makes a disk with vm:" in text
    assert "kata-fc: Kata It is never reached, since 'kata-*' stands before it." in text
    assert "gvisor: not Kata" in text
    assert "Guards: sharedKernel (deny)." in text


def test_a_policy_is_explained_to_programs(cli: CommandLine, home: Path) -> None:
    (home / "policy.yaml").write_text("runtimeClasses: [{match: kata-fc}]\n")
    answer = json.loads(cli("policy", "check", str(home / "policy.yaml"), "--json").stdout)
    [rule] = answer["runtime_classes"]
    assert (rule["match"], rule["is_kata"], [kind["kind"] for kind in rule["kinds"]]) == ("kata-fc", True, [""])
    assert answer["policy"]["dataRoot"] == {"kind": "auto", "size": "20Gi"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("repair: 7", "repair: "),
        ("repairs: true", "repairs: "),
        ("runtimeClasses: [{match: kata, version: x}]", "runtimeClasses[0].version: "),
        ("- a list", ""),
        ("a: [", ":2: it is not YAML"),
        ("repair: true\n---\nrepair: false", "it has 2 documents"),
        ("dataRoot: {size: 1e9Gi}", "dataRoot.size: "),
        ("delivery: init", "deliveryImage: "),
    ],
)
def test_a_mistake_is_told_in_one_line(cli: CommandLine, home: Path, text: str, said: str) -> None:
    (home / "policy.yaml").write_text(text)
    outcome = cli("policy", "check", str(home / "policy.yaml"))
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"kata-dind: {home}/policy.yaml:")
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["gone.yaml", "."])
def test_a_file_that_is_not_there_is_told_in_one_line(
    cli: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(home)
    outcome = cli("policy", "check", name)
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (2, 1)
    assert outcome.stderr.startswith(f"kata-dind: {name}: it cannot be read")


def fields_of(schema: dict[str, Any]) -> set[str]:
    found = set(schema.get("properties", {}))
    return found.union(*(fields_of(model) for model in schema.get("$defs", {}).values()))


def test_the_page_has_every_field_of_the_schema(cli: CommandLine) -> None:
    schema = json.loads(cli("policy", "schema").stdout)
    fields = fields_of(schema)
    assert {"runtimeClasses", "blockStorageClass", "sharedKernel", "deliveryImage"} <= fields
    quoted = re.findall(r"`([a-zA-Z.]+)`", _PAGE.read_text(encoding="utf-8"))
    named = {word for name in quoted for word in name.split(".")}
    assert fields - named == set()


def test_examples_of_the_page_are_policies(home: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", _PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert examples
    for example in examples:
        (home / "policy.yaml").write_text(example)
        load_policy(str(home / "policy.yaml"))


def test_the_variable_names_the_policy_of_fix(cli: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "policy.yaml").write_text("repair: 7")
    (home / "pod.yaml").write_text("kind: Pod\n")
    monkeypatch.setenv("KATA_DIND_POLICY", str(home / "policy.yaml"))
    assert cli("fix", str(home / "pod.yaml")).exit_code == 2
