"""Residency: the table is the whole truth."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aitherd.core.residency import TABLE, Event, ForbiddenMove, diagram, move
from aitherd.core.words import Residency

FORBIDDEN = [pair for pair in itertools.product(Residency, Event) if pair not in TABLE]


@pytest.mark.parametrize(("residency", "event"), FORBIDDEN)
def test_a_pair_that_is_not_in_the_table_is_refused(residency: Residency, event: Event) -> None:
    with pytest.raises(ForbiddenMove, match=f"{residency} cannot {event}"):
        move(residency, event)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([Event.START, Event.UP, Event.STOP, Event.DOWN], Residency.ABSENT),
        ([Event.START, Event.UP, Event.SLEEP, Event.ASLEEP, Event.WAKE, Event.UP], Residency.READY),
        ([Event.START, Event.UP, Event.SLEEP, Event.KEPT], Residency.READY),
        ([Event.START, Event.DIED, Event.CALM], Residency.ABSENT),
        ([Event.START, Event.DIED, Event.START], Residency.STARTING),
        ([Event.START, Event.DIED, Event.LOST, Event.RETURNED], Residency.ABSENT),
        ([Event.START, Event.STOP, Event.LOST], Residency.QUARANTINED),
        ([Event.ADOPT_READY, Event.STOP, Event.DIED], Residency.FAILED),
        ([Event.ADOPT_ASLEEP, Event.STOP, Event.DOWN], Residency.ABSENT),
        ([Event.ADOPT_STARTING, Event.UP], Residency.READY),
    ],
)
def test_a_life_ends_where_the_table_says(events: list[Event], end: Residency) -> None:
    residency = Residency.ABSENT
    for event in events:
        residency = move(residency, event)
    assert residency is end


@pytest.mark.parametrize("residency", Residency)
def test_every_residency_can_be_reached_from_absent_and_left_for_it(residency: Residency) -> None:
    def reachable(start: Residency) -> set[Residency]:
        found, fresh = {start}, [start]
        while fresh:
            source = fresh.pop()
            fresh += [target for (at, _), target in TABLE.items() if at is source and target not in found]
            found.update(fresh)
        return found

    assert residency in reachable(Residency.ABSENT)
    assert Residency.ABSENT in reachable(residency)


def test_the_diagram_has_one_arrow_for_each_move_and_no_other() -> None:
    first, second, *arrows = diagram().splitlines()
    assert (first, second) == ("stateDiagram-v2", "    [*] --> absent")
    assert arrows == [f"    {source} --> {target}: {event}" for (source, event), target in TABLE.items()]


class Life(RuleBasedStateMachine):
    """Any events in any order, against what must hold of bytes whatever the order."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency.ABSENT
        self.lost = False

    @rule(event=st.sampled_from(Event))
    def happens(self, event: Event) -> None:
        try:
            self.residency = move(self.residency, event)
        except ForbiddenMove:
            return
        if event in (Event.LOST, Event.ADOPT_LOST):
            self.lost = True
        if event is Event.RETURNED:
            self.lost = False

    @invariant()
    def lost_bytes_keep_the_model_in_quarantine_until_they_return(self) -> None:
        assert self.lost == (self.residency is Residency.QUARANTINED)


TestLife = Life.TestCase
