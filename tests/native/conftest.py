"""A private service manager for each test that asks for one; what a failed test leaves is kept in `build/native`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.testbed.manager import ManagerUnavailable, UserManager

ARTEFACTS = Path(__file__).parents[2] / "build" / "native"

FAILED = pytest.StashKey[bool]()

StartManager = Callable[[Mapping[str, str]], UserManager]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Marks a failed test, for the fixtures that end after it."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def start_manager(request: pytest.FixtureRequest) -> Iterator[StartManager]:
    """Starts private service managers whose units and clients get the environment given; they end with the test."""
    with ExitStack() as stack:

        def start(environment: Mapping[str, str]) -> UserManager:
            try:
                manager = stack.enter_context(UserManager(environment))
            except ManagerUnavailable as problem:
                if os.environ.get("CI"):
                    raise
                pytest.skip(f"no private service manager: {problem}")
            stack.callback(keep, manager)
            return manager

        def keep(manager: UserManager) -> None:
            if request.node.stash.get(FAILED, False):
                manager.save(ARTEFACTS / re.sub(r"[^\w.-]+", "-", request.node.nodeid))

        yield start


@pytest.fixture
def manager(start_manager: StartManager) -> UserManager:
    """A private service manager with its bus and journal."""
    return start_manager({})
