"""Records are numbered, kept for a while, and told to those who listen."""

from __future__ import annotations

from aitherd.conductor.records import KEPT, Event, Records


def test_those_after_a_number_come_with_their_numbers() -> None:
    records = Records(lambda: 1.0)
    for number in range(1, 5):
        records.add(Event.READY, f"record {number}")
    assert [(number, record.message) for number, record in records.since(2)] == [(3, "record 3"), (4, "record 4")]
    assert records.since(4) == records.since(99) == ()
    assert records.total == 4
    assert records.counts == {Event.READY: 4}


def test_of_those_that_are_kept_no_more_only_the_numbers_are_missing() -> None:
    records = Records(lambda: 1.0)
    for number in range(1, KEPT + 11):
        records.add(Event.STEP, f"record {number}")
    found = records.since(0)
    assert len(found) == KEPT
    assert [(number, record.message) for number, record in (found[0], found[-1])] == [
        (11, "record 11"),
        (KEPT + 10, f"record {KEPT + 10}"),
    ]


def test_who_listens_is_told_until_he_does_not() -> None:
    records = Records(lambda: 1.0)
    heard: list[int] = []
    end = records.subscribe(lambda: heard.append(records.total))
    records.add(Event.READY, "one")
    end()
    records.add(Event.READY, "two")
    assert heard == [1]
