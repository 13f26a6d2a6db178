"""Waiting lines: who is brought in next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.callers import Caller
from aitherd.core.policy import Policy
from aitherd.core.queue import Line, displaced, order, turns
from aitherd.core.words import Priority

NOW = 1000.0
INTERACTIVE, BATCH = Caller("person"), Caller("captions", Priority.BATCH)
callers = st.builds(Caller, st.sampled_from(["a", "b", "c"]), st.sampled_from(Priority), st.integers(1, 3))
lines = st.lists(
    st.builds(
        lambda model, people, batch, since, seconds: Line(model, people + batch, since, seconds, batch),
        st.sampled_from("abcdefgh"),
        st.integers(0, 50),
        st.integers(0, 50),
        st.floats(NOW - 300, NOW),
        st.floats(0, 120),
    ),
    unique_by=lambda line: line.model,
)


def test_more_requests_go_first_where_loading_takes_as_long() -> None:
    assert order([Line("few", 1, NOW, 5.0), Line("many", 9, NOW, 5.0)], NOW) == ("many", "few")


def test_the_quicker_load_goes_first_where_as_many_wait() -> None:
    assert order([Line("cold", 2, NOW, 60.0), Line("asleep", 2, NOW, 2.0)], NOW) == ("asleep", "cold")


def test_a_wait_within_the_bound_weighs_more_the_longer_it_lasts() -> None:
    assert order([Line("new", 1, NOW, 5.0), Line("old", 1, NOW - 10, 5.0)], NOW) == ("old", "new")


def test_a_line_beyond_the_age_bound_goes_before_any_crowd() -> None:
    assert order([Line("crowd", 500, NOW - 1, 1.0), Line("aged", 1, NOW - 21, 5.0)], NOW) == ("aged", "crowd")


def test_a_slow_load_is_given_its_own_time_before_it_counts_as_overdue() -> None:
    slow, crowd = Line("slow", 1, NOW - 80, 60.0), Line("crowd", 500, NOW, 1.0)
    assert order([slow, crowd], NOW) == ("crowd", "slow")
    assert order([slow, crowd], NOW + 11) == ("slow", "crowd")


def test_a_preload_counts_as_one_request() -> None:
    assert order([Line("preload", 0, NOW, 5.0), Line("two", 2, NOW, 5.0)], NOW) == ("two", "preload")
    assert order([Line("slow", 1, NOW, 9.0), Line("preload", 0, NOW, 5.0)], NOW) == ("preload", "slow")


def test_one_person_who_waits_outweighs_a_few_batch_requests_and_many_of_them_outweigh_one_person() -> None:
    person = Line("person", 1, NOW, 5.0)
    assert order([Line("batch", 3, NOW, 5.0, batch=3), person], NOW) == ("person", "batch")
    assert order([Line("batch", 9, NOW, 5.0, batch=9), person], NOW) == ("batch", "person")


def test_a_batch_request_is_overdue_as_early_as_any_other() -> None:
    aged = Line("aged", 1, NOW - 21, 5.0, batch=1)
    assert order([Line("people", 500, NOW - 1, 1.0), aged], NOW) == ("aged", "people")


def test_in_a_full_line_the_youngest_batch_request_makes_way_for_a_person_and_for_nobody_else() -> None:
    assert displaced([BATCH, INTERACTIVE, BATCH, INTERACTIVE], INTERACTIVE) == 2
    assert displaced([INTERACTIVE, INTERACTIVE], INTERACTIVE) is None
    assert displaced([INTERACTIVE, BATCH], BATCH) is None


@given(st.lists(callers), callers)
def test_nobody_is_displaced_by_one_with_less_right_to_wait(line: list[Caller], newcomer: Caller) -> None:
    at = displaced(line, newcomer)
    if at is None:
        return
    leaves = line[at]
    assert leaves.priority is Priority.BATCH or newcomer.priority is Priority.INTERACTIVE
    assert all(one.name != leaves.name or one.priority is not leaves.priority for one in line[at + 1 :]) or (
        leaves.priority is not newcomer.priority
    )
    if leaves.priority is newcomer.priority:
        assert leaves.name != newcomer.name


@given(st.lists(st.sampled_from([Caller("a"), Caller("b", weight=2), Caller("c")]), min_size=6, max_size=12), st.data())
def test_displacing_comes_to_an_end(line: list[Caller], data: st.DataObject) -> None:
    people = sorted({*line, Caller("d")}, key=lambda one: one.name)
    for _ in range(200):
        moved = False
        for newcomer in people:
            if (at := displaced(line, newcomer)) is not None:
                line = [*line[:at], *line[at + 1 :], newcomer]
                moved = True
        if not moved:
            break
    else:
        raise AssertionError("callers displace each other for ever")
    assert {one.name for one in line} == {one.name for one in people}


def test_one_caller_cannot_fill_a_line_alone() -> None:
    greedy, other, heavy = Caller("greedy"), Caller("other"), Caller("heavy", weight=3)
    assert displaced([greedy] * 4, greedy) is None
    assert displaced([greedy] * 4, other) == 3
    assert displaced([greedy, greedy, other, other], other) is None
    assert displaced([greedy, greedy, heavy, heavy], greedy) is None
    assert displaced([greedy, greedy, heavy, heavy], heavy) == 1


def test_who_waits_for_the_same_model_is_served_by_priority_then_in_turns_then_by_age() -> None:
    a, b, batch = Caller("a"), Caller("b", weight=2), Caller("c", Priority.BATCH)
    assert turns([batch, a, a, a, b, b, b, b]) == (4, 1, 5, 6, 2, 7, 3, 0)
    assert turns([a, b], {"a": 0, "b": 4}) == (0, 1)
    assert turns([a, b], {"a": 2, "b": 1}) == (1, 0)


@given(st.lists(callers))
def test_everybody_is_served_once(line: list[Caller]) -> None:
    assert sorted(turns(line)) == list(range(len(line)))


@given(lines)
def test_each_line_has_its_place_whatever_the_order_it_came_in(lines: list[Line]) -> None:
    assert sorted(order(lines, NOW)) == sorted(line.model for line in lines)
    assert order(lines, NOW) == order(lines[::-1], NOW)


@given(lines)
def test_overdue_lines_come_first_and_in_the_order_of_their_age(lines: list[Line]) -> None:
    policy = Policy()
    since = {
        line.model: line.oldest_since
        for line in lines
        if NOW - line.oldest_since > max(policy.age_bound, policy.age_loads * line.seconds)
    }
    first = order(lines, NOW, policy)[: len(since)]
    assert set(first) == set(since)
    assert [since[model] for model in first] == sorted(since.values())
