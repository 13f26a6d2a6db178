"""One booted machine for all tests that only look or clean up after themselves, and a fresh one for the others."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.machine.vm import Guest, Vm, VmUnavailable

REPOSITORY = Path(__file__).parents[2]
ARTEFACTS = REPOSITORY / "build" / "machine"
TRANSCRIPTS = REPOSITORY / "build" / "transcripts"
"""What a person would have seen, kept for people."""
SUITE = os.environ.get("AITHER_TESTBED_SUITE", "trixie")

PACKAGES = REPOSITORY / "build" / "machine" / "packages"

FAILED = pytest.StashKey[bool]()


def build_package(
    version: str, output: Path = PACKAGES, *, tree: Path = REPOSITORY, suite: str = SUITE, **environment: str
) -> Path:
    """The Debian package of a tree as it is, built for a suite."""
    script = tree / "packaging" / "deb.py"
    done = subprocess.run(
        [sys.executable, str(script), "--suite", suite, "--version", version, "--output", str(output)],
        # One date for all packages of a run, whatever is committed meanwhile.
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def in_guest(path: Path) -> str:
    """Where a guest sees a file of the repository."""
    return f"/mnt/repo/{path.relative_to(REPOSITORY)}"


def machine(name: str, suite: str = SUITE, *, shares: Mapping[str, Path] | None = None) -> Vm:
    """A machine whose console and journal end up in `build/machine/NAME/vm` if a test that uses it fails.

    `shares` maps mount points to directories of this machine, read-only, beside the repository's.
    """
    share = ARTEFACTS / name
    share.mkdir(parents=True, exist_ok=True)
    vm = Vm(suite, share, shares={"/mnt/repo": REPOSITORY, **(shares or {})})
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
def package() -> Path:
    """The package under test."""
    return build_package("1.0.0")


@pytest.fixture(scope="session")
def newer_package() -> Path:
    """A later build of it, to upgrade to."""
    return build_package("1.0.1")


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
