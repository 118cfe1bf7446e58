from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kata_dind.backend.plan import PlannedImage
from kata_dind.backend.plan_file import write_plan
from kata_dind.errors import BootFailed, SandboxError, SpecError
from kata_dind.progress import Event, silent
from kata_dind.seeding import contents, making
from kata_dind.seeding.making import KEPT_INTERNAL, make_seed, prune_internal_seeds, sandboxes_on_seed
from kata_dind.spec import SandboxSpec, parse_spec, spec_to_json
from kata_dind.store.marks import mark_files
from kata_dind.store.sandboxes import Record, create_record
from kata_dind.store.seeds import (
    Seed,
    internal_id,
    list_seeds,
    load_seed,
    new_seed_directory,
    publish_seed,
    remove_seed,
    use_seed,
)
from kata_dind.wire.client import ExecResult
from tests.plans import plan_with

NO_SANDBOX = Record("seed", Path("/none"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own."""
    monkeypatch.setenv("KATA_DIND_STATE_DIR", str(tmp_path / "s"))
    return tmp_path


def make(seed_id: str, *, used_at: float = 0.0, **facts: Any) -> Seed:
    with new_seed_directory() as directory:
        (directory / "memory").write_bytes(b"memory")
        marks = mark_files(directory, ["memory"])
        seed = publish_seed(directory, seed_id, {"plan": {}, "files": marks, **facts})
    os.utime(seed.directory / "in-use.lock", (used_at, used_at))
    return seed


def ids() -> list[str]:
    return [seed.seed_id for seed in list_seeds()]


def test_the_internal_seeds_that_were_used_last_stay_and_so_do_those_that_are_needed() -> None:
    make("web")
    oldest, older, *others = [internal_id(str(number)) for number in range(KEPT_INTERNAL + 3)]
    for age, seed_id in enumerate([oldest, older, *others]):
        make(seed_id, used_at=1000.0 + age)
    write_plan(create_record("demo").directory, plan_with(seed=oldest))
    assert sandboxes_on_seed(oldest) == ["demo"]
    newest = make(internal_id("new"))
    with use_seed(older):
        os.utime(list_seeds()[0].directory.parent / older / "in-use.lock", (1001.0, 1001.0))
        prune_internal_seeds(keep=newest.seed_id)
        assert ids() == sorted(["web", oldest, older, newest.seed_id, *others[-(KEPT_INTERNAL - 1) :]],
                               key=lambda seed_id: (seed_id.startswith("_"), seed_id))  # fmt: skip


def test_the_logs_of_a_machine_that_fails_on_the_way_to_a_seed_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def fail(record: Record, *_: object, **__: object) -> Iterator[None]:
        (record.directory / "guest.log").write_text("panic")
        raise BootFailed("the guest did not answer", id="vm.boot-failed")
        yield

    monkeypatch.setattr(making, "own_in_thread", fail)
    monkeypatch.setattr(
        making, "load_backend", lambda name: SimpleNamespace(snapshots=True, prepare=lambda *_, **__: plan_with())
    )
    with pytest.raises(BootFailed) as caught:
        making.build_seed("web", parse_spec(name="seed"), None, report=silent)
    kept = home / "s" / "failed" / "_seed-web"
    assert caught.value.__notes__ == [f"the logs of this start are kept in {kept}"]
    assert (kept / "guest.log").read_text() == "panic"
    assert ids() == []
    assert list((home / "s" / "sandboxes").iterdir()) == []


def test_a_sandbox_of_another_version_may_lie_over_any_seed() -> None:
    make("web")
    create_record("old").write("plan.json", {"backend": "vm", "plan": {"seed": "web"}})
    create_record("new").write("spec.json", {"name": "new"})
    assert sandboxes_on_seed("web") == ["old"]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SandboxSpec]]:
    specs: list[SandboxSpec] = []

    def build(seed_id: str, spec: SandboxSpec, source: object, *, disks: Any, fill: Any, report: Any) -> Seed:
        specs.append(spec)
        return make(seed_id, **fill(NO_SANDBOX))

    monkeypatch.setattr(making, "build_seed", build)
    yield specs


def test_what_a_guest_refuses_ends_the_build_with_its_reason(
    built: list[SandboxSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_run", lambda *_, **__: ExecResult(1, b"", b"no such host\n"))
    with pytest.raises(SandboxError, match="the image 'x:1' could not be pulled") as caught:
        make_seed("web", parse_spec(name="seed"), images=["x:1"])
    assert caught.value.details == "no such host"
    assert ids() == []


def test_the_images_are_told_of_and_remembered(built: list[SandboxSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(record: Record, argv: list[str], *, timeout_seconds: float) -> ExecResult:
        ran.append(argv)
        return ExecResult(0, b"x:1\nkata-dind/hello:latest\n", b"")

    monkeypatch.setattr(contents, "_run", run)
    events: list[Event] = []
    seed = make_seed("web", parse_spec(name="seed"), images=["x:1", "kata-dind/hello"], report=events.append)
    assert seed.facts["images"] == ["kata-dind/hello:latest", "x:1"]
    assert ran[0] == ["docker", "pull", "--quiet", "x:1"]
    assert ran[1][:2] == ["sh", "-c"]
    assert [event.message for event in events] == [
        "pulling x:1",
        "pulling x:1: done",
        "pulling kata-dind/hello",
        "pulling kata-dind/hello: done",
    ]


def test_a_clone_of_a_named_seed_has_the_machine_of_that(
    built: list[SandboxSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_run", lambda *_, **__: ExecResult(0, b"", b""))
    make("web", spec=parse_spec(name="seed", memory="1G", size="5G").model_dump(mode="json"))
    record = create_record("demo")
    record.write("spec.json", parse_spec(name="demo", seed="web").model_dump(mode="json"))
    write_plan(record.directory, plan_with(image_id="0123abcd", seed="web"))
    make_seed("mine", parse_spec(name="seed"), from_sandbox="demo")
    record.write("spec.json", parse_spec(name="demo", seed="web", size="9G").model_dump(mode="json"))
    make_seed("other", parse_spec(name="seed"), from_sandbox="demo")
    assert [(spec.memory, spec.image, spec.size) for spec in built] == [
        ("1G", "0123abcd", "5G"),
        ("1G", "0123abcd", "9G"),
    ]


def test_what_was_plugged_into_a_clone_is_in_the_seed_that_is_made_of_it(
    built: list[SandboxSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_run", lambda *_, **__: ExecResult(0, b"", b""))
    make("web", spec=spec_to_json(parse_spec(name="seed", cpus=4, memory="1G", network="none")))
    record = create_record("demo")
    record.write("spec.json", spec_to_json(parse_spec(name="demo", seed="web", memory="2G")))
    write_plan(record.directory, plan_with(image_id="0123abcd", seed="web"))
    make_seed("mine", parse_spec(name="seed"), from_sandbox="demo")
    [spec] = built
    assert (spec.cpus, spec.memory, spec.network) == (4, "2G", "none")


@pytest.mark.parametrize(
    "asked",
    [{"memory": "3072M"}, {"size": "20G"}, {"cpus": 2}, {"network": "none"}, {"accelerator": "tcg"},
     {"accelerator": "auto"}, {"data_root": "block"}, {"image": "dind:28"}, {"image": "0123abcd"}],
    ids=str,
)  # fmt: skip
def test_what_the_sandbox_has_may_be_asked_for(
    built: list[SandboxSpec], monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr(contents, "_run", lambda *_, **__: ExecResult(0, b"", b""))
    record = create_record("demo")
    record.write("spec.json", spec_to_json(parse_spec(name="demo", memory="3G", network="none", image="dind:28")))
    write_plan(record.directory, plan_with(image=PlannedImage("dind:28", "0123abcd")))
    make_seed("mine", parse_spec(name="seed", **asked), from_sandbox="demo")
    [spec] = built
    assert (spec.memory_bytes >> 30, spec.network, spec.image) == (3, "none", "0123abcd")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"memory": "2G"}, "--memory: '2G' is not what the sandbox 'demo' has ('3G'); leave it out"),
        ({"network": "nat"}, "--network: 'nat' is not what the sandbox 'demo' has ('none'); leave it out"),
        ({"accelerator": "kvm"}, "--accel: 'kvm' is not what the sandbox 'demo' has ('tcg'); leave it out"),
        ({"filesystem": "xfs"}, "--filesystem: 'xfs' is not what the sandbox 'demo' has ('ext4'); leave it out"),
        ({"image": "dind:29"}, "--image: 'dind:29' is not what the sandbox 'demo' has ('dind:28'); leave it out"),
    ],
    ids=str,
)
def test_what_differs_from_the_sandbox_is_refused_also_where_it_is_a_default(
    built: list[SandboxSpec], asked: dict[str, Any], message: str
) -> None:
    record = create_record("demo")
    record.write("spec.json", spec_to_json(parse_spec(name="demo", memory="3G", network="none", image="dind:28")))
    write_plan(record.directory, plan_with(image=PlannedImage("dind:28", "0123abcd")))
    with pytest.raises(SpecError) as caught:
        make_seed("mine", parse_spec(name="seed", **asked), from_sandbox="demo")
    assert caught.value.summary == message
    assert built == []


def test_a_seed_that_came_meanwhile_is_refused_and_stays() -> None:
    seed = make("web")
    with pytest.raises(SpecError, match="there is a seed 'web' already"):
        make_seed("web", parse_spec(name="seed"))
    assert load_seed("web") == seed
    remove_seed(seed, references=[])
