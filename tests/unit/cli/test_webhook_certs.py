"""`kata-dind webhook certs`, without a cluster: files, and what is refused before anything is done."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from tests.unit.cli.conftest import CommandLine

SERVICE = ("webhook", "certs", "--service", "kata-dind", "--namespace", "ci")
CLUSTER = ("--secret", "tls", "--configuration", "kata-dind")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


def test_files_are_made_once(cli: CommandLine, tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    first = cli(*SERVICE, "--also", "localhost", "--output", str(directory))
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith("the certificate of kata-dind.ci.svc ends on ")
    assert modes(directory) == {"ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o600}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    before = (directory / "tls.crt").read_text()
    second = cli(*SERVICE, "--output", str(directory))
    assert second.stdout.startswith("nothing to do: ")
    assert (directory / "tls.crt").read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda directory: (directory / "ca.crt").unlink(), id="a file is missing"),
        pytest.param(lambda directory: (directory / "tls.key").write_text("no key"), id="the key is of another one"),
        pytest.param(lambda directory: (directory / "tls.crt").write_bytes(b"\xff"), id="not a certificate"),
    ],
)
def test_files_that_are_not_good_are_made_again(cli: CommandLine, tmp_path: Path, change: object) -> None:
    directory = tmp_path / "tls"
    cli(*SERVICE, "--output", str(directory))
    assert callable(change)
    change(directory)
    assert cli(*SERVICE, "--output", str(directory), "--check").exit_code == 1
    assert json.loads(cli(*SERVICE, "--output", str(directory), "--json").stdout)["changed"]
    assert cli(*SERVICE, "--output", str(directory), "--check").exit_code == 0


def test_other_names_and_a_longer_life_make_new_files(cli: CommandLine, tmp_path: Path) -> None:
    output = ("--output", str(tmp_path / "tls"))
    cli(*SERVICE, *output)
    assert cli(*SERVICE, *output, "--also", "10.0.0.1", "--check").exit_code == 1
    assert cli(*SERVICE, *output, "--days", "400", "--renew-before", "100", "--check").exit_code == 1


def test_a_dry_run_writes_nothing(cli: CommandLine, tmp_path: Path) -> None:
    outcome = cli(*SERVICE, "--output", str(tmp_path / "tls"), "--dry-run")
    assert (outcome.exit_code, outcome.stdout) == (
        0,
        f"to do: make a certificate for kata-dind.ci.svc in {tmp_path / 'tls'}\n",
    )
    assert not (tmp_path / "tls").exists()


def test_a_directory_that_cannot_be_written_is_said(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "tls.key").mkdir()
    outcome = cli(*SERVICE, "--output", str(tmp_path / "tls"))
    assert outcome.exit_code == 3
    assert "the certificate can't be written to" in outcome.stderr
    assert modes(tmp_path / "tls").keys() == {"tls.key"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--secret", "tls"), "--configuration is missing"),
        (("--configuration", "kata-dind"), "--secret is missing"),
        ((*CLUSTER, "--output", "here"), "leave out --secret, --configuration"),
        ((*CLUSTER, "--days", "30", "--renew-before", "30"), "--renew-before: 30 days"),
        ((*CLUSTER, "--days", "3650"), "--days: 3650 is more than 825"),
        ((*CLUSTER, "--days", "0"), "--days"),
        ((*CLUSTER, "--also", "a_b"), "--also: 'a_b' is neither a DNS name nor an address"),
        (("--secret", "../x", "--configuration", "x"), "--secret: '../x' is not a name of Kubernetes"),
        (("--service", "a.b", *CLUSTER), "--service: 'a.b' is not a name of Kubernetes; use up to 63 of"),
    ],
)
def test_wrong_options_are_said(cli: CommandLine, options: tuple[str, ...], said: str) -> None:
    outcome = cli(*SERVICE, *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr


def test_without_a_cluster_it_is_said_where_one_was_looked_for(cli: CommandLine) -> None:
    outcome = cli(*SERVICE, *CLUSTER)
    assert outcome.exit_code == 6
    assert "neither a kubeconfig nor a pod's service account was found" in outcome.stderr
    assert "give --kubeconfig FILE, or set KUBECONFIG" in outcome.stderr
