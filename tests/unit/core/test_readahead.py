"""Whose weights are read ahead, and when nothing is."""

from __future__ import annotations

import pytest

from aitherd.core.readahead import Candidate, Pressure, likely, spare

GIB = 1 << 30
NOW = 10_000.0
CALM = Pressure(0.0, 0.0)


def candidate(model: str, **changes: float) -> Candidate:
    values = {"weights": 5 * GIB, "frequency": 4.0, "last_used": NOW - 600, "start": 20.0, **changes}
    return Candidate(model, int(values.pop("weights")), **values)


def test_who_was_used_more_often_and_later_and_is_slower_to_start_goes_first() -> None:
    plain = candidate("plain")
    for better in ({"frequency": 9.0}, {"last_used": NOW - 60}, {"start": 60.0}):
        assert likely([plain, candidate("better", **better)], NOW) == "better"


def test_nobody_is_likely_who_was_never_used_or_long_ago_or_has_nothing_to_read() -> None:
    assert likely([], NOW) is None
    for hopeless in ({"frequency": 0.0}, {"last_used": NOW - 1e6}, {"weights": 0}):
        assert likely([candidate("a", **hopeless)], NOW) is None


@pytest.mark.parametrize(
    ("pressure", "available", "may"),
    [
        (CALM, 14 * GIB, True),
        # The reserve is left twice.
        (CALM, 13 * GIB - 1, False),
        (Pressure(2.0, 0.0), 14 * GIB, False),
        (Pressure(0.0, 9.0), 14 * GIB, False),
        # A kernel that does not tell.
        (None, 14 * GIB, False),
    ],
)
def test_nothing_is_read_where_somebody_would_notice(pressure: Pressure | None, available: int, may: bool) -> None:
    assert spare(pressure, available, 5 * GIB, 4 * GIB) is may
