"""Runs the tiers in order and says at the end what ran in each; in CI a tier that ran nothing fails the run."""

from __future__ import annotations

import os

import pytest

from tests.tiers import TIERS, Tier, idle, tier_of

RESULTS = pytest.StashKey[dict[str, Tier]]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes room for the results."""
    config.stash[RESULTS] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the quick tiers first."""
    order = {name: place for place, name in enumerate(TIERS)}
    items.sort(key=lambda item: order.get(tier_of(item.nodeid) or "", len(order)))
    for item in items:
        if name := tier_of(item.nodeid):
            config.stash[RESULTS].setdefault(name, Tier(name))


class Counter:
    """Counts reports as they come."""

    def __init__(self, results: dict[str, Tier]) -> None:
        self._results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts a test once: where it is called, or where it fails or is skipped before or after that."""
        name = tier_of(report.nodeid)
        if name is None:
            return
        tier = self._results.setdefault(name, Tier(name))
        if report.failed:
            tier.failed += 1
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            tier.skip(reason.removeprefix("Skipped: "))
        elif report.when == "call":
            tier.passed += 1


def pytest_sessionstart(session: pytest.Session) -> None:
    """Starts counting."""
    session.config.pluginmanager.register(Counter(session.config.stash[RESULTS]))


def idle_tiers(config: pytest.Config) -> list[str]:
    """Tiers that ran nothing though the run was to run them."""
    narrowed = config.option.keyword or config.option.markexpr or config.option.collectonly
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return [] if narrowed else idle(config.stash[RESULTS].values(), whole=whole)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run in CI if a tier ran nothing."""
    if os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK and idle_tiers(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints a line for each tier, with the reasons for what was skipped."""
    results = config.stash[RESULTS]
    if config.option.collectonly or not results:
        return
    terminalreporter.section("tiers")
    for name in TIERS:
        if name in results:
            terminalreporter.line(str(results[name]))
    for name in idle_tiers(config):
        terminalreporter.line(f"{name}: no test ran", red=True)
