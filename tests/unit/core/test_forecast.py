"""When a model could be ready, and who leaves because that is too late."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.forecast import Turn, doubted, hopeless, ready_in
from aitherd.core.policy import Policy

GPU0, GPU1 = frozenset({"gpu0"}), frozenset({"gpu1"})
NOW = 1000.0
POLICY = Policy(doubt=1.0)
turns = st.lists(
    st.builds(
        Turn,
        model=st.sampled_from("abcdef"),
        devices=st.sets(st.sampled_from(["gpu0", "gpu1", "gpu2"])).map(frozenset),
        room=st.floats(0, 60),
        rise=st.floats(0, 60),
        shares=st.booleans(),
    ),
    unique_by=lambda turn: turn.model,
)


def test_those_who_give_way_and_its_own_start_count() -> None:
    assert ready_in([Turn("a", GPU0, room=3.0, rise=20.0)]) == {"a": 23.0}


def test_one_waits_for_those_in_front_on_its_device_and_for_nobody_else() -> None:
    line = [Turn("a", GPU0, 3.0, 20.0), Turn("b", GPU1, 0.0, 5.0), Turn("c", GPU0, 1.0, 4.0)]
    assert ready_in(line) == {"a": 23.0, "b": 5.0, "c": 28.0}


def test_those_that_share_come_up_together_and_who_does_not_comes_up_alone() -> None:
    line = [Turn("a", GPU0, 3.0, 20.0, shares=True), Turn("b", GPU0, 1.0, 5.0, shares=True)]
    assert ready_in(line) == {"a": 23.0, "b": 9.0}
    alone = Turn("c", GPU0, 1.0, 4.0)
    assert ready_in([*line, alone, Turn("d", GPU0, 0.0, 1.0, shares=True)]) == {
        "a": 23.0,
        "b": 9.0,
        "c": 27.0,
        "d": 28.0,
    }


def test_one_that_spans_devices_waits_for_all_of_them() -> None:
    line = [Turn("a", GPU0, 0.0, 20.0), Turn("b", GPU1, 0.0, 5.0), Turn("c", GPU0 | GPU1, 0.0, 4.0)]
    assert ready_in(line)["c"] == 24.0


def test_one_without_a_device_waits_for_nobody() -> None:
    assert ready_in([Turn("a", GPU0, 0.0, 20.0), Turn("b", frozenset(), 0.0, 2.0)])["b"] == 2.0


@given(turns, st.data())
def test_nobody_is_ready_later_because_another_is_quicker_or_goes_away(line: list[Turn], data: st.DataObject) -> None:
    before = ready_in(line)
    assert all(before[turn.model] >= turn.room + turn.rise for turn in line)
    if not line:
        return
    at = data.draw(st.integers(0, len(line) - 1))
    quicker = replace(line[at], rise=data.draw(st.floats(0, line[at].rise)))
    for after in (ready_in([*line[:at], quicker, *line[at + 1 :]]), ready_in([*line[:at], *line[at + 1 :]])):
        assert all(seconds <= before[model] for model, seconds in after.items())


looks = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0, 100)), min_size=1)


@given(looks, st.floats(NOW, NOW + 100))
def test_who_leaves_looked_hopeless_all_the_time_and_long_enough(
    looks: list[tuple[float, float]], deadline: float
) -> None:
    now, since, began = NOW, None, None
    for pause, best in looks:
        now += pause
        late = now + best > deadline
        began = (now if began is None else began) if late else None
        since = doubted(now + best, deadline, since, now)
        assert since == began
        assert hopeless(since, now, POLICY) == (began is not None and now >= began + POLICY.doubt)


def test_who_waits_for_ever_is_never_given_up() -> None:
    assert doubted(1e9, None, None, NOW) is None and not hopeless(None, NOW, POLICY)
