"""`kata-dind seed`, on seeds whose files are real and hold a few bytes; no machine is booted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kata_dind.backend.plan import plan_to_json
from kata_dind.backend.plan_file import write_plan
from kata_dind.cli.completion import seed_names
from kata_dind.errors import SeedUnfit
from kata_dind.host.process import find_tool
from kata_dind.seeding import making
from kata_dind.spec import SandboxSpec
from kata_dind.store.marks import mark_files
from kata_dind.store.sandboxes import Record, create_record
from kata_dind.store.seeds import Seed, list_seeds, new_seed_directory, publish_seed, use_seed
from tests.plans import plan_with
from tests.unit.cli.conftest import CommandLine

needs_zstd = pytest.mark.skipif(not find_tool("zstd"), reason="zstd is not installed")

PLAN = plan_to_json(plan_with())


class SeedBackend:
    """What of a backend the verbs ask, of seeds that have no machine."""

    def __init__(self) -> None:
        self.snapshots = self
        self.unfit = ""
        self.adopted: list[str] = []

    def require_fit(self, seed: Seed) -> None:
        if self.unfit:
            raise SeedUnfit(self.unfit, id="seed.unfit", details="QEMU: 9; here 7")

    def adopt_seed(self, facts: dict[str, Any], directory: Path) -> list[str]:
        if not facts["plan"]:
            raise KeyError("plan")
        self.adopted += sorted(facts["files"])
        (directory / "layer.qcow2").write_bytes(b"made anew")
        return ["layer.qcow2"]


@pytest.fixture(autouse=True)
def seed_backend(monkeypatch: pytest.MonkeyPatch) -> SeedBackend:
    """The backend of all seeds here."""
    made = SeedBackend()
    for room in ("keeping", "carrying"):
        monkeypatch.setattr(f"kata_dind.seeding.{room}.load_backend", lambda name: made)
    return made


def make(seed_id: str, **facts: Any) -> Seed:
    with new_seed_directory() as directory:
        (directory / "memory").write_bytes(b"memory of the machine")
        (directory / "layer.qcow2").write_bytes(b"child")
        files = mark_files(directory, ["memory", "layer.qcow2"])
        known = {"backend": "vm", "plan": PLAN, "created": 1.0, "children": ["layer.qcow2"], "images": ["one:1"],
                 "verdict": {"docker_version": "28.5.2"}, "files": files, **facts}  # fmt: skip
        return publish_seed(directory, seed_id, known)


@pytest.fixture
def web(home: object) -> Seed:
    """The seed `web`."""
    return make("web")


def uses(name: str, seed_id: str) -> Record:
    """A sandbox whose disks lie over a seed's."""
    record = create_record(name)
    write_plan(record.directory, plan_with(seed=seed_id))
    return record


def test_ls(cli: CommandLine, web: Seed) -> None:
    make("_0123", images=[])
    uses("demo", "web")
    header, named, internal = (line.split() for line in cli("seed", "ls").stdout.splitlines())
    assert header == ["NAME", "DOCKER", "DATA", "ROOT", "MEMORY", "IMAGES", "DISK", "OWN", "AGE", "USED", "BY"]
    assert [*named[:5], named[-1]] == ["web", "28.5.2", "block", "2.0G", "one:1", "demo"]
    assert (internal[0], internal[4], internal[-1]) == ("_0123", "-", "-")
    assert cli("seed", "ls", "-q").stdout == "web\n_0123\n"
    rows = json.loads(cli("seed", "ls", "--json").stdout)
    assert [(row["seed_id"], row["name"], row["used_by"]) for row in rows] == [
        ("web", "web", ["demo"]),
        ("_0123", "", []),
    ]


def test_disk_that_others_have_too_is_not_its_own(cli: CommandLine, web: Seed, home: Path) -> None:
    (row,) = json.loads(cli("seed", "ls", "--json").stdout)
    (home / "cached").hardlink_to(web.directory / "memory")
    (after,) = json.loads(cli("seed", "ls", "--json").stdout)
    assert after["disk_bytes"] == row["disk_bytes"]
    assert row["own_bytes"] - after["own_bytes"] == (web.directory / "memory").stat().st_blocks * 512 > 0


def test_inspect(cli: CommandLine, web: Seed, seed_backend: SeedBackend) -> None:
    facts = json.loads(cli("seed", "inspect", "web", "--json").stdout)
    assert (facts["name"], facts["fits"], facts["unfit_reason"], facts["images"]) == ("web", True, None, ["one:1"])
    seed_backend.unfit = "the seed 'web' does not fit this host"
    facts = json.loads(cli("seed", "inspect", "web", "--json").stdout)
    assert (facts["fits"], facts["unfit_reason"]) == (False, "the seed 'web' does not fit this host (QEMU: 9; here 7)")
    assert "does not fit this host (QEMU: 9; here 7)" in cli("seed", "inspect", "web").stdout
    outcome = cli("seed", "inspect", "other")
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        "kata-dind: there is no seed 'other' (there are: web)\nhint: kata-dind seed build other\n",
    )


def test_rm_removes_all_or_none(cli: CommandLine, web: Seed) -> None:
    make("db")
    record = uses("demo", "web")
    outcome = cli("seed", "rm", "db", "web")
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        "kata-dind: the seed 'web' is used by the sandbox demo\nhint: kata-dind rm demo\n",
    )
    record.remove()
    with use_seed("web"):
        assert cli("seed", "rm", "db", "web").exit_code == 2
    assert cli("seed", "rm", "db", "absent").exit_code == 2
    assert [seed.name for seed in list_seeds()] == ["db", "web"]
    assert cli("seed", "rm", "db", "web", "db").exit_code == 0
    assert list_seeds() == []


def test_verify(cli: CommandLine, web: Seed) -> None:
    make("db")
    assert cli("seed", "verify").stdout == "db: ok\nweb: ok\n"
    assert cli("seed", "verify", "web", "web").stdout == "web: ok\n"
    (web.directory / "memory").write_bytes(b"Memory of the machine")
    outcome = cli("seed", "verify")
    assert (outcome.exit_code, outcome.stdout) == (3, "db: ok\n")
    assert "the seed 'web' is damaged: the file memory has changed since the seed was made" in outcome.stderr
    outcome = cli("seed", "verify", "--json")
    assert outcome.exit_code == 3
    assert json.loads(outcome.stdout) == [{"id": "db", "ok": True}, {"id": "web", "ok": False}]


@needs_zstd
def test_export_and_import(cli: CommandLine, web: Seed, home: Path, seed_backend: SeedBackend) -> None:
    file = str(home / "web.seed")
    assert cli("seed", "export", "web", file).exit_code == 0
    outcome = cli("seed", "import", file)
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        "kata-dind: there is a seed 'web' already\nhint: kata-dind seed rm web\n",
    )
    seed_backend.unfit = "the seed 'copy' does not fit this host"
    outcome = cli("seed", "import", file, "copy")
    assert (outcome.exit_code, outcome.stdout) == (0, "copy\n")
    assert "the seed 'copy' does not fit this host (QEMU: 9; here 7)" in outcome.stderr
    assert seed_backend.adopted == ["memory"]
    assert cli("seed", "verify", "copy").stdout == "copy: ok\n"
    copied = json.loads(cli("seed", "inspect", "copy", "--json").stdout)
    assert (copied["name"], copied["created"], len(copied["files"])) == ("copy", 1.0, 2)
    assert cli("seed", "rm", "web").exit_code == 0
    assert cli("seed", "import", file).stdout == "web\n"


@needs_zstd
def test_an_internal_seed_is_imported_by_a_name_only(cli: CommandLine, home: Path) -> None:
    make("_0123")
    file = str(home / "file")
    assert cli("seed", "export", "_0123", file).exit_code == 0
    assert "NAME: '_0123' is not a name" in cli("seed", "import", file).stderr
    assert cli("seed", "import", file, "mine").exit_code == 0


@needs_zstd
def test_a_bad_import_leaves_nothing(cli: CommandLine, home: Path) -> None:
    make("bare", plan={})
    file = str(home / "bare.seed")
    assert cli("seed", "export", "bare", file).exit_code == 0
    for words, complaint in (
        ((file, "No!"), "NAME: 'No!' is not a name"),
        ((file, "x"), f"FILE: '{file}' does not describe a seed"),
        ((str(home / "absent"), "x"), "FILE: there is no file"),
        (("/etc/passwd", "x"), "FILE: '/etc/passwd' is not a seed"),
    ):
        outcome = cli("seed", "import", *words)
        assert outcome.exit_code == 2
        assert complaint in outcome.stderr
    assert [seed.name for seed in list_seeds()] == ["bare"]
    assert cli("seed", "export", "bare", str(home)).exit_code == 2
    assert cli("seed", "export", "bare", str(home / "absent" / "file")).exit_code == 2


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, SandboxSpec, bool]]:
    """What was built: id, spec, and whether on disks that were there before."""
    calls: list[tuple[str, SandboxSpec, bool]] = []

    def build(seed_id: str, spec: SandboxSpec, source: object, *, disks: Any, fill: Any, report: Any) -> Seed:
        calls.append((seed_id, spec, disks is not None))
        return make(seed_id, **fill(Record("seed", Path("/none"))))

    monkeypatch.setattr(making, "build_seed", build)
    return calls


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put into the machine."""
    things: list[str] = []
    monkeypatch.setattr(making, "give_image", lambda record, image: things.append(image))
    monkeypatch.setattr(making, "give_archive", lambda record, archive: things.append(archive.name))
    monkeypatch.setattr(making, "images_of", lambda record: sorted(things))
    return things


def test_build(cli: CommandLine, built: Sequence[Any], given: list[str], home: Path) -> None:
    (home / "one.tar").touch()
    outcome = cli("seed", "build", "web", "alpine", "kata-dind/hello", "--from-archive", str(home / "one.tar"),
                  "--memory", "1G", "--suite", "trixie")  # fmt: skip
    assert outcome.exit_code == 0
    assert outcome.stdout == "web is ready. Start from it:\n  kata-dind up --seed web\n"
    assert given == ["one.tar", "alpine", "kata-dind/hello"]
    [(seed_id, spec, on_disks)] = built
    assert (seed_id, spec.memory, on_disks) == ("web", "1G", False)
    assert json.loads(cli("seed", "inspect", "web", "--json").stdout)["images"] == sorted(given)
    assert seed_names("w") == ["web"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["web"], "there is a seed 'web' already\nhint: kata-dind seed rm web"),
        (["No!"], "NAME: 'No!' is not a name"),
        (["new", "a b"], "IMAGE: 'a b' is not an image; use a reference, like kata-dind/hello"),
        (["new", "--from-archive", "/absent"], "--from-archive: '/absent' is not a file on this host"),
        (["new", "--from-archive", "/"], "--from-archive: '/' is not a file on this host"),
        (["new", "--from-sandbox", "absent"], "there is no sandbox 'absent'"),
        (["new", "--memory", "1X"], "--memory: '1X' is not a size"),
        *((["new", word, "x"], f"no such option: {word}") for word in ("--share", "--volume", "--seed", "--cold")),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_before_anything_boots(
    words: list[str], complaint: str, cli: CommandLine, web: Seed, built: Sequence[Any]
) -> None:
    outcome = cli("seed", "build", *words)
    assert outcome.exit_code == 2
    assert complaint in outcome.stderr
    assert built == []
    assert [seed.name for seed in list_seeds()] == ["web"]


def test_from_sandbox(
    cli: CommandLine, built: Sequence[Any], given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create_record("demo")
    record.write("spec.json", {"name": "demo", "memory": "3G"})
    assert "the sandbox 'demo' was never started" in cli("seed", "build", "web", "--from-sandbox", "demo").stderr
    write_plan(record.directory, plan_with(image_id="0123abcd"))
    outcome = cli("seed", "build", "web", "--from-sandbox", "demo", "--memory", "1G")
    assert outcome.exit_code == 2
    assert outcome.stderr == "kata-dind: --memory: '1G' is not what the sandbox 'demo' has ('3G'); leave it out\n"
    monkeypatch.setenv("KATA_DIND_CPUS", "4")
    outcome = cli("seed", "build", "web", "--from-sandbox", "demo")
    assert outcome.stderr == "kata-dind: KATA_DIND_CPUS: 4 is not what the sandbox 'demo' has (2); leave it out\n"
    monkeypatch.setenv("KATA_DIND_CPUS", "2")
    with record.owned():
        outcome = cli("seed", "build", "web", "--from-sandbox", "demo")
    assert outcome.stderr == "kata-dind: --from-sandbox: the sandbox 'demo' is running\nhint: kata-dind stop demo\n"
    assert built == []
    assert cli("seed", "build", "web", "--from-sandbox", "demo", "--timeout", "9").exit_code == 0
    [(_, spec, on_disks)] = built
    assert (spec.memory, spec.image, spec.timeout_seconds, on_disks) == ("3G", "0123abcd", 9.0, True)
