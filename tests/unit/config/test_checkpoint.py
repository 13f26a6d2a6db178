"""`checkpoint` in a model file: where cuda-checkpoint may suspend a model, and where that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitherd import config
from tests.unit.config.conftest import Etc


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cuda-checkpoint, installed for this user."""
    path = tmp_path / "bin" / "cuda-checkpoint"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    return path


def test_it_is_off_unless_asked_for(etc: Etc) -> None:
    etc.model()
    assert etc.loaded().checkpoint == ""


def test_without_the_program_it_is_refused(etc: Etc) -> None:
    etc.model(checkpoint="true")
    problem = etc.problem()
    assert problem.key == "checkpoint"
    assert "cuda-checkpoint: no such program" in problem.message
    assert problem.remedy.endswith("or leave checkpoint out")


def test_an_essential_model_never_sleeps(etc: Etc, program: Path) -> None:
    etc.model(checkpoint="true", **{"class": '"essential"'})
    assert "an essential model never sleeps" in str(etc.problem(user=True))


def test_a_driver_that_cannot_do_it_is_told(etc: Etc, program: Path) -> None:
    etc.model(checkpoint="true")
    fleet, problems = etc.load(user=True)
    assert fleet is not None, problems
    assert fleet.models["vision"].checkpoint == str(program)
    assert config.check_driver(fleet, "570.86.10") == config.check_driver(fleet, "") == ()
    (problem,) = config.check_driver(fleet, "550.54.14")
    assert (problem.key, problem.error) == ("checkpoint", True)
    assert "driver 550.54.14 cannot suspend processes" in problem.message
