"""A run says what it left out, and in CI does not pass as one if a tier ran nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

PASS = "def test_it() -> None: pass\n"
SKIP = "import pytest\n\ndef test_it() -> None: pytest.skip('no machine here')\n"
BREAK = (
    "import pytest\n\n@pytest.fixture\ndef broken() -> None: raise OSError\n\ndef test_it(broken: None) -> None: ...\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with these tiers' rules and one passing test in each of the tiers that must run."""
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    for name in ("unit", "native", "machine"):
        (tmp_path / "tests" / name).mkdir(parents=True)
        (tmp_path / "tests" / name / "test_one.py").write_text(PASS)
        (tmp_path / "tests" / name / "__init__.py").touch()
    (tmp_path / "tests" / "__init__.py").touch()
    for name in ("conftest.py", "tiers.py"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    return tmp_path


def run(project: Path, *arguments: str, ci: bool = True) -> tuple[int, str]:
    """Runs pytest in the project; returns its status and its output."""
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    if ci:
        environment["CI"] = "true"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_tier_ran(project: Path) -> None:
    status, output = run(project)
    assert status == 0, output
    lines = [line.split() for line in output.splitlines() if "passed," in line]
    assert [(line[0], line[1]) for line in lines] == [("unit", "1"), ("native", "1"), ("machine", "1")]


@pytest.mark.parametrize("ci", [True, False])
def test_a_tier_that_was_skipped_whole_fails_the_run_in_ci(project: Path, ci: bool) -> None:
    (project / "tests" / "machine" / "test_one.py").write_text(SKIP)
    status, output = run(project, ci=ci)
    assert status == (1 if ci else 0), output
    assert "skipped 1: no machine here" in output
    assert "machine: no test ran" in output


def test_a_tier_without_tests_fails_the_run_in_ci(project: Path) -> None:
    shutil.rmtree(project / "tests" / "native")
    status, output = run(project, "-q")
    assert status == 1
    assert "native: no test ran" in output


def test_one_skipped_test_beside_others_is_only_reported(project: Path) -> None:
    (project / "tests" / "machine" / "test_two.py").write_text(SKIP)
    status, output = run(project)
    assert status == 0
    assert "1 passed, 0 failed, 1 skipped" in output


def test_a_part_of_the_tests_is_held_to_that_part(project: Path) -> None:
    shutil.rmtree(project / "tests" / "native")
    assert run(project, "tests/unit")[0] == 0
    assert run(project, "-k", "test_it")[0] == 0


def test_the_tier_that_needs_a_device_may_be_skipped_whole(project: Path) -> None:
    (project / "tests" / "gpu").mkdir()
    (project / "tests" / "gpu" / "__init__.py").touch()
    (project / "tests" / "gpu" / "test_one.py").write_text(SKIP)
    status, output = run(project)
    assert status == 0
    assert "gpu      0 passed, 0 failed, 1 skipped" in output


def test_a_test_that_breaks_before_it_begins_counts_as_failed(project: Path) -> None:
    (project / "tests" / "unit" / "test_one.py").write_text(BREAK)
    status, output = run(project)
    assert status == 1
    assert "unit     0 passed, 1 failed, 0 skipped" in output
