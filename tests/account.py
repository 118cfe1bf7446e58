"""What a session ran, what it did not run, and why: told at its end, before pytest's closing line.

`--quick` leaves out what is marked `thorough` or `slow`, and `--rest` all other tests.
`--minutes` ends a session in time: what is worth most comes first, and a test that may take longer than what is left is
not begun. It counts as skipped to pytest, and is told apart from what this machine can't run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

BEYOND = ("thorough", "slow")
"""The markers of what `make test` leaves to `make test-all`."""

_ORDER = ("unit", "contract", "webhook", "guest", "containerd", "kube", "vm", "image")
_ONE_TEST_MINUTES = 2.0
"""For a test that is not `slow`, on a busy machine, with the start of what it shares with others."""

_RAN = {"passed": "passed", "failed": "failed", "error": "with an error", "xfailed": "xfailed", "xpassed": "xpassed"}
_NOT_BEGUN = "not begun: "


def add_options(parser: pytest.Parser) -> None:
    """Add the options of this file."""
    group = parser.getgroup("kata-dind")
    group.addoption("--quick", action="store_true", help="leave out what is marked thorough or slow")
    group.addoption("--rest", action="store_true", help="run what --quick leaves out, and no more")
    group.addoption(
        "--minutes",
        type=float,
        metavar="M",
        help="begin no test that may end later than so many minutes from now, and tell which were not begun",
    )


class Account:
    """A plugin that chooses, keeps to the minutes that are given, and counts."""

    def __init__(self, config: pytest.Config) -> None:
        self._quick, self._rest = bool(config.getoption("--quick")), bool(config.getoption("--rest"))
        if self._quick and self._rest:
            raise pytest.UsageError("--quick and --rest leave nothing together; give one of them, or neither")
        self._minutes: float | None = config.getoption("--minutes")
        self._end = None if self._minutes is None else time.monotonic() + 60 * self._minutes
        self._not_begun: Counter[str] = Counter()
        self._left_out = self._left_to_all = 0

    # Last: -k and -m have chosen, and what shares a fixture is side by side, where a stable order leaves it.
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            _expected_minutes(item)  # refuses a marker that says too little, before anything has run
        if self._quick or self._rest:
            left_out = [item for item in items if _is_beyond(item) is self._quick]
            items[:] = [item for item in items if _is_beyond(item) is self._rest]
            config.hook.pytest_deselected(items=left_out)
            self._left_to_all = len(left_out) if self._quick else 0
        # What is quickest comes first, before anything runs beside the tests that the leak check has to look at.
        if self._quick or self._end is not None:
            items.sort(key=_order)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._left_out += len(items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._end is not None and time.monotonic() + 60 * _expected_minutes(item) > self._end:
            self._not_begun[item.nodeid.partition("::")[0]] += 1
            pytest.skip(f"{_NOT_BEGUN}the {self._minutes:g} minutes of this session were used up")

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after all that others have to say
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield
        if terminalreporter.config.option.collectonly:
            return
        terminalreporter.section("what ran")
        for line in self._lines(terminalreporter):
            terminalreporter.write_line(line)
        if self._not_begun:
            terminalreporter.section("NOT RUN, for want of time", sep="!", red=True, bold=True)
            for line in self._lines_of_not_begun():
                terminalreporter.write_line(line)

    def _lines(self, reporter: pytest.TerminalReporter) -> Iterator[str]:
        reports = {kind: reporter.stats.get(kind, []) for kind in _RAN}
        ran = {report.nodeid for kind in _RAN for report in reports[kind]}
        counts = ", ".join(f"{len(reports[kind])} {how}" for kind, how in _RAN.items() if reports[kind])
        yield f"{_tests(len(ran))} ran{f': {counts}' if counts else ''}"
        reasons = Counter(map(_reason, reporter.stats.get("skipped", [])))
        reasons = Counter({reason: count for reason, count in reasons.items() if not reason.startswith(_NOT_BEGUN)})
        yield f"{_tests(reasons.total())} skipped on this machine{':' if reasons else ''}"
        for reason, count in reasons.most_common():
            yield f"  {count:5}  {reason}"
        if self._quick:
            yield f"{_tests(self._left_to_all)} left to `make test-all`"
        if self._left_out > self._left_to_all:
            yield f"{_tests(self._left_out - self._left_to_all)} left out by what was chosen (-m, -k, --rest)"

    def _lines_of_not_begun(self) -> Iterator[str]:
        total = self._not_begun.total()
        yield f"{_tests(total)} not begun, since the {self._minutes:g} minutes of this session were used up:"
        for file, count in self._not_begun.most_common():
            yield f"  {count:5}  {file}"
        yield "`make test-all` runs them"


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _is_beyond(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in BEYOND)


def _order(item: pytest.Item) -> tuple[bool, int]:
    tiers = [number for number, name in enumerate(_ORDER) if item.get_closest_marker(name)]
    return item.get_closest_marker("slow") is not None, next(iter(tiers), -1)


def _expected_minutes(item: pytest.Item) -> float:
    slow = item.get_closest_marker("slow")
    if slow is None:
        return _ONE_TEST_MINUTES
    if "minutes" not in slow.kwargs:
        raise pytest.UsageError(f"{item.nodeid}: say how long it may take: @pytest.mark.slow(minutes=M)")
    return float(slow.kwargs["minutes"])


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    reason = where[2] if isinstance(where, tuple) else str(where)
    return reason.removeprefix("Skipped: ").removeprefix("unconditional skip")
