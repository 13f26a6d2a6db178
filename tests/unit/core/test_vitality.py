"""Whom to doubt, and what a canary proves: an engine that is merely busy is neither doubted nor taken for dead."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.vitality import FAILING, PAUSE, STILL, Doubt, Signs, Song, doubt, lies

WELL = Signs(in_flight=0, still=0.0, failed=0, since_song=math.inf)


def test_a_quiet_engine_is_not_doubted() -> None:
    assert doubt(WELL) is Doubt.NONE


@given(in_flight=st.integers(0, 100), failed=st.integers(0, FAILING - 1), since=st.floats(0, 1e9))
def test_an_engine_that_gets_on_is_not_doubted_however_much_it_has_to_do(
    in_flight: int, failed: int, since: float
) -> None:
    assert doubt(Signs(in_flight, still=0.0, failed=failed, since_song=since)) is Doubt.NONE


@pytest.mark.parametrize(
    ("signs", "why"),
    [
        (replace(WELL, in_flight=1, still=STILL), Doubt.STILL),
        (replace(WELL, in_flight=1, still=STILL - 1), Doubt.NONE),
        (replace(WELL, in_flight=0, still=STILL), Doubt.NONE),
        (replace(WELL, failed=FAILING), Doubt.FAILING),
        (replace(WELL, failed=FAILING, since_song=PAUSE - 1), Doubt.NONE),
    ],
)
def test_standing_still_and_failing_in_a_row_raise_doubt_but_not_over_and_over(signs: Signs, why: Doubt) -> None:
    assert doubt(signs) is why


def test_only_who_may_be_broken_by_what_happened_gets_no_requests_meanwhile() -> None:
    assert {why for why in Doubt if why.withholds} == {Doubt.RESUMED, Doubt.HALF_AWAKE}


@pytest.mark.parametrize(
    ("song", "occupied", "moved", "verdict"),
    [
        (Song.SUNG, True, None, False),
        (Song.UNTOLD, False, None, False),
        (Song.FALSE, True, True, True),
        (Song.SILENT, False, None, True),
        # It may have waited for its turn: only counters that stand still tell.
        (Song.SILENT, True, None, False),
        (Song.SILENT, True, True, False),
        (Song.SILENT, True, False, True),
    ],
)
def test_silence_of_a_busy_engine_proves_nothing_unless_its_work_stands_still(
    song: Song, occupied: bool, moved: bool | None, verdict: bool
) -> None:
    assert lies(song, occupied=occupied, moved=moved) is verdict
