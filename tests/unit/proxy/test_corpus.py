"""What a fuzzer has found worth keeping is read as it must be. Fuzzing itself is `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, NAMES
from tests.fuzz.targets import TARGETS


def kept(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_what_must_hold_holds_for_all_that_is_kept(name: str) -> None:
    assert kept(name), "no corpus"
    for path in kept(name):
        try:
            TARGETS[name](path.read_bytes())
        except AssertionError as error:
            raise AssertionError(f"{path}: {error}") from error


def test_every_target_is_run() -> None:
    assert set(NAMES) == set(TARGETS)
