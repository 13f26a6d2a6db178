"""`/health` is green only while every line makes progress, whatever becomes of single requests."""

import asyncio
from typing import Any

from aitherd.conductor import demand
from aitherd.conductor.books import Book
from aitherd.conductor.health import FORGOTTEN, STUCK, find_problems
from aitherd.core.residency import Event
from aitherd.core.words import Endpoint
from aitherd.errors import StartFailed
from tests.unit.conductor.books import Hands, book

BOUND = 60.0 + STUCK
"""The model of these tests may load for a minute."""


def problems(line: Book, hands: Hands) -> tuple[str, ...]:
    return find_problems([line], "", {}, hands.now)


async def wait(line: Book, **changes: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(demand.wait(line, **{"claim": True, "timeout": None, "limit": None, **changes}))
    await asyncio.sleep(0)
    return task


async def gives_up(line: Book) -> None:
    """Somebody waits in vain."""
    await asyncio.wait([await wait(line, timeout=0.0)])


async def test_a_line_that_nobody_serves_is_a_problem_once_its_model_should_be_up() -> None:
    hands = Hands()
    line = book(hands)
    waiting = await wait(line)
    hands.now += BOUND
    assert problems(line, hands) == ()
    hands.now += 1.0
    (said,) = problems(line, hands)
    assert "no request for vision has been served for 2 min" in said and "it is absent" in said
    line.begin(Endpoint(port=1), ())
    line.move(Event.START)
    line.move(Event.UP)
    demand.serve(line, "loaded")
    assert problems(line, hands) == ()
    (await waiting).release()


async def test_requests_that_give_up_one_after_the_other_do_not_hide_that_none_is_served() -> None:
    hands = Hands()
    line = book(hands)
    for _ in range(5):
        await gives_up(line)
        hands.now += BOUND / 4
    assert not line.waiters and problems(line, hands)
    hands.now += FORGOTTEN
    assert problems(line, hands) == ()
    await gives_up(line)
    assert problems(line, hands)


async def test_a_client_that_leaves_and_a_reason_that_is_told_are_no_problem() -> None:
    hands = Hands()
    line = book(hands)
    (await wait(line)).cancel()
    await asyncio.sleep(0)
    hands.now += 10 * BOUND
    left = await wait(line)
    assert problems(line, hands) == ()
    demand.refuse(line, StartFailed("it does not start"))
    hands.now += 10 * BOUND
    assert problems(line, hands) == ()
    await asyncio.wait([left])
    assert isinstance(left.exception(), StartFailed)
