"""What every test gets: directories of its session's own, `requires`, `--require`, the leak check, logs on failure.

At the end a session tells what ran, what did not, and why (tests/account.py).

A fixture whose value has `kata_dind_logs: list[Path]` gets their ends attached to each failure of a test that uses it.
What a session- or module-scoped fixture starts is shared and no leak of the test that happens to start it first.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from kata_dind.host.directories import cache_directory
from kata_dind.host.process import tail
from tests import account, requirements, users
from tests.leaks import Resource, Surroundings, adopt_orphans, end_processes

_LOG_LINES = 80
_TIERS = ("unit", "guest", "contract", "image", "vm", "containerd", "webhook", "kube")


@dataclass
class Watch:
    """The leak check of one session."""

    grace_seconds: float
    surroundings: Surroundings | None = None
    shared: set[Resource] = field(default_factory=set)
    reported: set[Resource] = field(default_factory=set)


_WATCH = pytest.StashKey[Watch]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="NAME[,NAME]",
        help="fail, instead of skipping, where a test requires one of these and it is missing",
    )
    parser.addoption("--matrix-page", metavar="FILE", help="write the table of tests/vm/test_matrix.py to this page")
    account.add_options(parser)
    parser.addini("leak_grace_seconds", "how long what a test started may take to end after it", default="3")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts us in the background ignores INT, and so would all that the tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A machine that is busy with guests is no bug of what a property test calls.
    hypothesis.settings.register_profile("kata-dind", deadline=None)
    hypothesis.settings.load_profile("kata-dind")
    config.stash[_WATCH] = Watch(grace_seconds=float(config.getini("leak_grace_seconds")))
    config.pluginmanager.register(account.Account(config), "kata-dind-account")
    unknown = requirements.required(config) - requirements.PROBES.keys()
    if unknown:
        known = ", ".join(sorted(requirements.PROBES))
        raise pytest.UsageError(f"--require: {', '.join(sorted(unknown))} is unknown; known are {known}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if tier in _TIERS:
            item.add_marker(tier)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in (name for marker in item.iter_markers("requires") for name in marker.args):
        if name not in requirements.PROBES:
            pytest.fail(f"requires({name!r}): tests/requirements.py has no such probe", pytrace=False)
        if reason := requirements.explain_missing(name):
            requirements.refuse(item.config, name, reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend((f"the end of {path}", tail(path, lines=_LOG_LINES)) for path in _logs(item))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[None]:
    watch = request.config.stash[_WATCH]
    if fixturedef.scope == "function" or watch.surroundings is None:
        return (yield)
    before = watch.surroundings.snapshot()
    try:
        return (yield)
    finally:
        watch.shared |= watch.surroundings.snapshot() - before


@pytest.fixture(scope="session", autouse=True)
def private_directories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directories for this session's sandboxes and temporary files; images stay in the cache that commands use, too.

    A short path: sockets in it must stay below 108 bytes. Open to others, for a root file system is made by them.
    """
    base = tmp_path_factory.getbasetemp()  # first, or it would lie in the directory that we remove
    top = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))
    top.chmod(0o755)
    temporary, state = top / "tmp", top / "state"
    temporary.mkdir()
    temporary.chmod(0o1777)
    state.mkdir(mode=0o700)
    sandboxes = state / "sandboxes"
    sandboxes.mkdir(mode=0o700)
    adopt_orphans()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("KATA_DIND_STATE_DIR", str(state))
        patch.setattr(tempfile, "tempdir", None)
        watch = request.config.stash[_WATCH]
        watch.surroundings = Surroundings((top, base, cache_directory()), (temporary, sandboxes))
        before = watch.surroundings.snapshot()
        yield top
        left = watch.surroundings.left_since(before, watch.reported, grace_seconds=watch.grace_seconds)
        end_processes(left)
    shutil.rmtree(top, ignore_errors=True)
    _fail_for(left)


@pytest.fixture(scope="session")
def ordinary_user(private_directories: Path) -> Iterator[users.OrdinaryUser]:
    """An ordinary user for the session; what it has built for one test is there for the next."""
    with users.ordinary_user(private_directories) as user:
        yield user


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, private_directories: Path) -> Iterator[None]:
    watch = request.config.stash[_WATCH]
    assert watch.surroundings is not None
    before = watch.surroundings.snapshot()
    yield
    left = watch.surroundings.left_since(before, watch.shared, grace_seconds=watch.grace_seconds)
    end_processes(left)
    watch.reported |= {*left}
    _fail_for(left)


@pytest.fixture
def shared_guest_opens(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[None]:
    """For tests whose shared guest opens descriptors as it goes: it closes them at its end."""
    yield
    watch = request.config.stash[_WATCH]
    assert watch.surroundings is not None
    watch.shared |= watch.surroundings.snapshot()


def _fail_for(left: list[Resource]) -> None:
    if left:
        pytest.fail("left behind:\n" + "\n".join(f"  {resource}" for resource in left), pytrace=False)


def _logs(item: pytest.Item) -> list[Path]:
    values = getattr(item, "funcargs", {}).values()
    return [path for value in values for path in getattr(value, "kata_dind_logs", ()) if path.exists()]
