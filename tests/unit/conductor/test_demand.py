"""Every waiter ends exactly once: served, refused, out of time or withdrawn."""

import asyncio
from typing import Any

import pytest

from aitherd.conductor import demand
from aitherd.conductor.books import Book
from aitherd.core.callers import Caller
from aitherd.core.residency import Event
from aitherd.core.words import Endpoint, Priority
from aitherd.errors import QueueFull, StartFailed, WaitedTooLong
from tests.unit.conductor.books import Hands, book

CAPTIONS = Caller("captions", Priority.BATCH)


def wait(line: Book, **changes: Any) -> asyncio.Task[Any]:
    values: dict[str, Any] = {"claim": True, "timeout": None, "limit": 3, **changes}
    return asyncio.create_task(demand.wait(line, **values))


def up(line: Book) -> None:
    line.begin(Endpoint(port=1), ())
    line.move(Event.START)
    line.move(Event.UP)


async def test_all_who_wait_are_served_at_once_and_told_how_long_they_waited() -> None:
    hands = Hands()
    line = book(hands)
    first = wait(line)
    await asyncio.sleep(0)
    hands.now += 3.0
    second, preload = wait(line), wait(line, claim=False)
    await asyncio.sleep(0)
    up(line)
    demand.serve(line, "loaded")
    claims = [await first, await second]
    assert [claim.waited for claim in claims] == [3.0, 0.0]
    assert await preload is None
    assert line.in_flight == 2 and not line.waiters
    for claim in claims:
        claim.release()
        claim.release()
    assert line.in_flight == 0 and line.idle.is_set()


async def test_a_full_line_takes_no_more_and_says_when_to_come_back() -> None:
    line = book(Hands())
    waiting = [wait(line) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as full:
        await wait(line)
    assert full.value.retry_after is not None and full.value.status == 429
    demand.refuse(line, StartFailed("no"))
    for task in waiting:
        with pytest.raises(StartFailed):
            await task


async def test_in_a_full_line_a_person_takes_the_place_of_the_youngest_batch_request() -> None:
    line = book(Hands())
    old, young, person = wait(line, caller=CAPTIONS), wait(line, caller=CAPTIONS), wait(line)
    await asyncio.sleep(0)
    second = wait(line)
    with pytest.raises(QueueFull, match="they come first") as full:
        await young
    assert full.value.retry_after is not None and full.value.status == 429
    with pytest.raises(QueueFull):
        await wait(line, caller=CAPTIONS)
    third = wait(line)
    with pytest.raises(QueueFull):
        await old
    with pytest.raises(QueueFull):
        await wait(line)
    up(line)
    demand.serve(line, "loaded")
    for task in (person, second, third):
        (await task).release()


async def test_one_caller_cannot_keep_others_out_of_a_line() -> None:
    line = book(Hands())
    greedy, other = Caller("greedy"), Caller("other")
    waiting = [wait(line, caller=greedy) for _ in range(3)]
    await asyncio.sleep(0)
    late = wait(line, caller=other)
    with pytest.raises(QueueFull, match="3 requests wait"):
        await waiting[2]
    with pytest.raises(QueueFull):
        await wait(line, caller=greedy)
    up(line)
    demand.serve(line, "loaded")
    for task in (*waiting[:2], late):
        (await task).release()


async def test_a_person_is_served_before_a_batch_request_that_came_first() -> None:
    line = book(Hands())
    served: list[str] = []
    batch, person = wait(line, caller=CAPTIONS), wait(line)
    batch.add_done_callback(lambda _: served.append("batch"))
    person.add_done_callback(lambda _: served.append("person"))
    await asyncio.sleep(0)
    up(line)
    demand.serve(line, "loaded")
    for task in (batch, person):
        (await task).release()
    assert served == ["person", "batch"]


async def test_who_waits_too_long_is_told_what_the_model_was_doing() -> None:
    line = book(Hands())
    task = wait(line, timeout=0.01)
    await asyncio.sleep(0)
    line.say("waiting for 4 GiB to come back")
    with pytest.raises(WaitedTooLong, match="waiting for 4 GiB to come back"):
        await task
    assert not line.waiters


async def test_a_demand_that_is_withdrawn_leaves_the_line_and_the_others_wait_on() -> None:
    line = book(Hands())
    leaves, stays = wait(line), wait(line)
    await asyncio.sleep(0)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert len(line.waiters) == 1
    up(line)
    demand.serve(line, "loaded")
    (await stays).release()
    assert line.in_flight == 0


async def test_a_claim_given_to_somebody_who_left_in_the_same_turn_is_not_leaked() -> None:
    line = book(Hands())
    task = wait(line)
    await asyncio.sleep(0)
    up(line)
    demand.serve(line, "loaded")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert line.in_flight == 0 and line.idle.is_set()
