"""One booted machine for all tests that only look or clean up after themselves, and a fresh one for the others."""

import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.machine.vm import Guest, Vm, VmUnavailable

REPOSITORY = Path(__file__).parents[2]
ARTEFACTS = REPOSITORY / "build" / "machine"
SUITE = os.environ.get("AITHER_TESTBED_SUITE", "trixie")

FAILED = pytest.StashKey[bool]()


def machine(name: str, suite: str = SUITE) -> Vm:
    """A machine whose console and journal end up in `build/machine/NAME/vm` if a test that uses it fails."""
    share = ARTEFACTS / name
    share.mkdir(parents=True, exist_ok=True)
    vm = Vm(suite, share, shares={"/mnt/repo": REPOSITORY})
    try:
        vm.recipe.ensure()
    except VmUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no virtual machine: {error}")
    return vm


def keep_if_failed(node: pytest.Item | pytest.Collector, name: str) -> None:
    """Deletes the machine's artefacts unless a test below `node` failed."""
    if not node.stash.get(FAILED, False):
        shutil.rmtree(ARTEFACTS / name, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Marks a failed test and everything it belongs to."""
    report = yield
    if report.failed:
        for node in item.listchain():
            node.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The machine of the session; a test that changes it undoes that, or uses `fresh_guest`."""
    with machine("session") as booted:
        yield booted
    keep_if_failed(request.session, "session")


@pytest.fixture
def fresh_guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A machine of the test's own."""
    name = re.sub(r"[^\w.-]+", "-", request.node.name)
    with machine(name) as booted:
        yield booted
    keep_if_failed(request.node, name)
