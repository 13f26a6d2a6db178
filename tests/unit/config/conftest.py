"""A configuration directory to write into, with a program that its models may run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aitherd.config import Fleet, Model, Problem, check_devices, load

GIB = 2**30


class Etc:
    """One configuration directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models.d"
        self.models.mkdir(parents=True)
        self.program = root / "llama-server"
        self.program.write_text("#!/bin/sh\n")
        self.program.chmod(0o755)

    def settings(self, text: str) -> Path:
        """Writes `aitherd.toml`."""
        path = self.root / "aitherd.toml"
        path.write_text(text)
        return path

    def model(self, name: str = "vision", text: str = "", **keys: str) -> Path:
        """Writes a model file that is in order, but for the keys given as TOML; an empty one is left out."""
        written = {"engine": '"llama-server"', "vram": '"5.2 GiB"', "command": f'["{self.program}"]', **keys}
        lines = [f"{key.replace('_', '-')} = {value}\n" for key, value in written.items() if value]
        path = self.models / f"{name}.toml"
        path.write_text("".join(lines) + text)
        return path

    def load(self, *weaker: Path, user: bool = False) -> tuple[Fleet | None, tuple[Problem, ...]]:
        return load((self.root, *weaker), user=user)

    def fleet(self) -> Fleet:
        """The fleet, which must be in order."""
        fleet, problems = self.load()
        assert fleet is not None, problems
        return fleet

    def loaded(self, name: str = "vision") -> Model:
        return self.fleet().models[name]

    def problem(self, *, user: bool = False) -> Problem:
        """The only problem, which must be an error."""
        fleet, problems = self.load(user=user)
        assert fleet is None
        (problem,) = problems
        assert problem.error
        return problem

    def note(self) -> Problem:
        """The only problem, which must not be an error."""
        fleet, problems = self.load()
        assert fleet is not None, problems
        (problem,) = problems
        return problem

    def devices(self, **totals: int) -> tuple[Problem, ...]:
        """What devices of these sizes say about the fleet."""
        return check_devices(self.fleet(), totals)


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    return Etc(tmp_path / "etc")


@pytest.fixture
def directory(tmp_path: Path) -> Callable[[str], Etc]:
    """Makes further configuration directories by name."""
    return lambda name: Etc(tmp_path / name)
