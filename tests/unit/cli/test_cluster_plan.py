"""`kata-dind cluster plan`: what is printed, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from kata_dind.cluster.needs import NEWEST, written
from tests.unit.cli.conftest import CommandLine


def test_the_plan_in_prose(cli: CommandLine) -> None:
    outcome = cli("cluster", "plan")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("Kata 4.1.0:\n")
    assert "helm upgrade --install kata-deploy" in outcome.stdout


def test_what_helm_and_kubectl_take(cli: CommandLine) -> None:
    values = yaml.safe_load(cli("cluster", "plan", "-o", "values", "--distribution", "rke2").stdout)
    assert values["k8sDistribution"] == "rke2"
    classes = list(yaml.safe_load_all(cli("cluster", "plan", "-o", "yaml", "--handler", "clh-runtime-rs").stdout))
    assert [each["kind"] for each in classes] == ["RuntimeClass"]


def test_the_files(cli: CommandLine, tmp_path: Path) -> None:
    outcome = cli("cluster", "plan", "--directory", str(tmp_path / "plan"))
    assert f"--values {tmp_path / 'plan'}/kata-deploy-values.yaml" in outcome.stdout
    written = {path.name: path.read_text() for path in (tmp_path / "plan").iterdir()}
    assert written == json.loads(cli("cluster", "plan", "--json").stdout)["files"]
    policy = str(tmp_path / "plan" / "policy.yaml")
    assert cli("policy", "check", policy).exit_code == 0
    trial = str(tmp_path / "plan" / "trial.yaml")
    repaired = json.loads(cli("fix", "-f", trial, "--policy", policy, "-o", "json").stdout)
    assert [each["engines"][0]["program"] for each in repaired["pods"]] == ["dockerd"]


def test_a_directory_that_cannot_be_written(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("cluster", "plan", "--directory", str(tmp_path / "file"))
    assert outcome.exit_code == 3
    assert "the plan can't be written to" in outcome.stderr


def test_what_is_wrong_is_said(cli: CommandLine) -> None:
    for options in (
        ["-o", "toml"],
        ["--kata-version", "1"],
        ["--kata-version", "99.0"],
        ["--handler", "x"],
        ["--distribution", "x"],
    ):
        assert cli("cluster", "plan", *options).exit_code == 2


def test_a_version_that_is_newer_than_what_is_known_is_said(cli: CommandLine) -> None:
    major, minor, _ = NEWEST
    newer = cli("cluster", "plan", "--kata-version", f"{major}.{minor + 1}", "-o", "values")
    assert newer.exit_code == 0
    assert newer.stderr == (
        f"kata-dind: this kata-dind knows Kata up to {written(NEWEST)}, "
        f"so the plan for {major}.{minor + 1}.0 is what that one needs\n"
    )
    assert cli("cluster", "plan", "--kata-version", written(NEWEST)).stderr == ""
    refused = cli("cluster", "plan", "--kata-version", "99.0")
    assert f"knows Kata up to {written(NEWEST)}, and nothing of Kata 99" in refused.stderr


def test_a_cluster_that_cannot_be_reached(cli: CommandLine, tmp_path: Path) -> None:
    outcome = cli("cluster", "check", "--kubeconfig", str(tmp_path / "missing"))
    assert outcome.exit_code == 2
    assert outcome.stderr == f"kata-dind: --kubeconfig: there is no file '{tmp_path / 'missing'}'\n"
