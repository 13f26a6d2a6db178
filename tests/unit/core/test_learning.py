"""Learned footprints and durations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.learning import FREED_PRIOR, LIVES, START_PRIOR, STOP_PRIOR, TIMES, Learned

GIB = 2**30


def lived(*peaks: int) -> Learned:
    learned = Learned()
    for peak in peaks:
        learned.observe_footprint(peak)
        learned.observe_stop(1.0)
    return learned


def test_before_anything_is_measured_what_was_declared_holds() -> None:
    learned = Learned()
    assert learned.footprint(5 * GIB) == 5 * GIB
    assert learned.start_seconds() == START_PRIOR
    assert learned.stop_seconds() == STOP_PRIOR
    assert learned.wake_seconds(1, 3.0) == 3.0
    assert learned.sleep_seconds(1, 4.0) == 4.0
    assert learned.sleep_residue(1, GIB) == GIB
    assert learned.freed_residue() == FREED_PRIOR


def test_more_than_was_declared_counts_at_once() -> None:
    learned = Learned()
    learned.observe_footprint(7 * GIB)
    assert learned.footprint(5 * GIB) == 7 * GIB


def test_less_than_was_declared_counts_once_the_life_is_over() -> None:
    learned = Learned()
    learned.observe_footprint(4 * GIB)
    assert learned.footprint(5 * GIB) == 5 * GIB, "it may still grow"
    learned.observe_stop(1.0)
    assert learned.footprint(5 * GIB) == 4 * GIB


def test_a_life_without_work_does_not_lower_what_is_expected() -> None:
    learned = lived(6 * GIB)
    learned.observe_footprint(GIB)
    learned.observe_stop(1.0, worked=False)
    assert learned.footprint(5 * GIB) == 6 * GIB
    unknown = Learned()
    unknown.observe_footprint(GIB)
    unknown.observe_stop(1.0, worked=False)
    assert unknown.footprint(5 * GIB) == 5 * GIB
    unknown.observe_footprint(7 * GIB)
    unknown.observe_stop(1.0, worked=False)
    assert unknown.footprint(5 * GIB) == 7 * GIB, "more than was declared is not forgotten"


def test_the_highest_measurement_of_a_life_counts_however_often_it_is_measured() -> None:
    learned = Learned()
    for measured in (3 * GIB, 6 * GIB, *(GIB for _ in range(100))):
        learned.observe_footprint(measured)
    learned.observe_stop(1.0)
    assert learned.footprint(GIB) == 6 * GIB


def test_a_footprint_that_shrank_is_believed_after_so_many_lives() -> None:
    assert lived(9 * GIB, *(2 * GIB for _ in range(LIVES - 1))).footprint(0) == 9 * GIB
    assert lived(9 * GIB, *(2 * GIB for _ in range(LIVES))).footprint(0) == 2 * GIB


def test_running_out_of_memory_raises_the_footprint_for_the_next_try() -> None:
    learned = lived(4 * GIB)
    learned.observe_out_of_memory(6 * GIB)
    assert learned.footprint(4 * GIB) == 6 * GIB


def test_nothing_measured_teaches_nothing() -> None:
    assert lived(0).footprint(5 * GIB) == 5 * GIB


def test_one_slow_start_does_not_rule_for_ever() -> None:
    learned = Learned()
    learned.observe_start(300.0)
    assert learned.start_seconds() == 300.0
    for _ in range(TIMES - 1):
        learned.observe_start(10.0)
    assert learned.start_seconds() == 10.0


def test_durations_and_residues_of_sleep_are_kept_by_level() -> None:
    learned = Learned()
    learned.observe_wake(1, 2.0)
    learned.observe_wake(2, 9.0)
    learned.observe_sleep(2, GIB, 5.0)
    assert (learned.wake_seconds(1, 0.0), learned.wake_seconds(2, 0.0)) == (2.0, 9.0)
    assert (learned.sleep_seconds(1, 1.0), learned.sleep_seconds(2, 1.0)) == (1.0, 5.0)
    assert (learned.sleep_residue(1, 0), learned.sleep_residue(2, 0)) == (0, GIB)


sizes = st.integers(0, 80 * GIB)
times = st.floats(0, 3600)
levels = st.integers(1, 3)
lessons = st.lists(
    st.one_of(
        st.tuples(st.just("observe_footprint"), sizes),
        st.tuples(st.just("observe_out_of_memory"), sizes),
        st.tuples(st.just("observe_freed"), sizes),
        st.tuples(st.just("observe_start"), times),
        st.tuples(st.just("observe_stop"), times),
        st.tuples(st.just("observe_wake"), levels, times),
        st.tuples(st.just("observe_sleep"), levels, sizes, times),
    ),
    max_size=60,
)


@given(lessons)
def test_what_was_learned_survives_being_written_down(lessons: list[tuple[Any, ...]]) -> None:
    learned = Learned()
    for method, *values in lessons:
        getattr(learned, method)(*values)
    assert Learned.from_json(json.loads(json.dumps(learned.to_json()))) == learned


@given(lessons)
def test_an_estimate_is_something_that_was_seen(lessons: list[tuple[Any, ...]]) -> None:
    learned = Learned()
    for method, *values in lessons:
        getattr(learned, method)(*values)
    seen = [values[-1] for method, *values in lessons if method == "observe_start"]
    assert learned.start_seconds() in (seen or [START_PRIOR])
    assert learned.footprint(0) <= max(
        [0, *(values[0] for method, *values in lessons if method.endswith(("footprint", "memory")))]
    )


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        [],
        {"peaks": 3},
        {"peaks": [-1]},
        {"peaks": [True]},
        {"peaks": [1.5]},
        {"peak": "7"},
        {"starts": ["soon"]},
        {"starts": [float("nan")]},
        {"stops": [float("inf")]},
        {"stops": [-0.1]},
        {"wakes": []},
        {"wakes": {"0": [1.0]}},
        {"wakes": {"deep": [1.0]}},
        {"wakes": {"1": 1.0}},
        {"asleep": {"1": [0.5]}},
    ],
)
def test_nonsense_is_refused(nonsense: object) -> None:
    with pytest.raises(ValueError, match="not "):
        Learned.from_json(nonsense)


def test_what_an_older_or_newer_version_wrote_is_read() -> None:
    assert Learned.from_json({"starts": [3], "colour": "blue"}) == Learned(starts=[3.0])
