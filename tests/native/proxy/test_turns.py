"""A model that is given so many requests at once: callers take turns, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from aitherd.core.callers import Caller, Rule
from aitherd.core.words import Priority
from aitherd.proxy.callers import Callers
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, ask, roads, who
from tests.native.proxy.tiers import Roads, saying
from tests.native.proxy.wires import Client, Engine, ok, read_request, until

__all__ = ["roads"]

KEYS = {"a": "key-a", "b": "key-b", "batch": "key-batch"}
CALLERS: Mapping[str, Rule] = {
    "a": Rule(Caller("a"), key="a"),
    "b": Rule(Caller("b", weight=2), key="b"),
    "batch": Rule(Caller("batch", Priority.BATCH), key="batch"),
    "me": Rule(Caller("me"), uid=os.getuid()),
}


class Desk:
    """An engine that answers when the test says so."""

    def __init__(self) -> None:
        self.served: list[str] = []
        """What was asked for, in the order in which it came."""
        self._gates: dict[str, asyncio.Event] = {}

    async def script(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            name = request.body.decode().partition('"n":"')[2].partition('"')[0]
            gate = self._gates.setdefault(name, asyncio.Event())
            self.served.append(name)
            await gate.wait()
            writer.write(ok(b'{"choices":[]}', "Content-Type: application/json"))
            await writer.drain()

    def answer(self, name: str) -> None:
        self._gates.setdefault(name, asyncio.Event()).set()


async def desk(house: House, concurrency: int, **limits: float) -> Desk:
    """A model before which callers take turns."""
    one = Desk()
    await house.model("vision", one.script)
    house.fleet.change("vision", concurrency=concurrency, max_waiting=4)
    callers = Callers(secret=KEYS.__getitem__)
    callers.apply(CALLERS)
    await house.open(Limits(tick=0.02, **limits), callers=callers)  # type: ignore[arg-type]
    return one


Queue = Callable[..., Awaitable[list[Client]]]


@pytest.fixture
async def queue(house: House) -> AsyncIterator[Queue]:
    """Sends a request for each name, in that order: `a1` is one of the caller a, and `a2s` asks for a stream."""
    opened: list[Client] = []

    async def send(*names: str) -> list[Client]:
        standings = house.proxy._context.callers.standings()
        clients = [await house.client() for _ in names]
        opened.extend(clients)
        for name, client in zip(names, clients, strict=True):
            caller = name.removesuffix("s").rstrip("0123456789")
            before = standings[caller].in_flight if caller in standings else 0
            stream = ',"stream":true' if name.endswith("s") else ""
            body = f'{{"model":"vision","n":"{name}","messages":[]{stream}}}'.encode()
            client.post(CHAT, body, f"Authorization: Bearer key-{caller}")
            await until(lambda c=caller, b=before: c in standings and standings[c].in_flight > b)  # type: ignore[misc]
        return clients

    yield send
    for client in opened:
        client.writer.close()


async def test_callers_take_turns_by_priority_and_weight(house: House, queue: Queue) -> None:
    one = await desk(house, 1)
    clients = await queue("a1", "batch1", "a2", "a3", "b1", "b2")
    await until(lambda: one.served == ["a1"])
    # The line has room for four: the batch request made way for b2.
    reply = await clients[1].reply()
    assert (reply.status, reply.json()["error"]["code"]) == (429, "queue_full")
    order = ["a1", "b1", "b2", "a2", "a3"]
    for number, name in enumerate(order):
        await until(lambda number=number: one.served == order[: number + 1])  # type: ignore[misc]
        one.answer(name)
    for client in (clients[0], *clients[2:]):
        assert (await client.reply()).status == 200


async def test_who_waited_is_told_how_long_and_gets_the_turn_of_one_who_left(house: House, queue: Queue) -> None:
    one = await desk(house, 2)
    clients = await queue("a1", "a2", "a3", "a4")
    await until(lambda: len(one.served) == 2)
    clients[0].writer.close()
    await until(lambda: one.served[2:] == ["a3"])
    clients[3].writer.close()
    await until(lambda: house.proxy.metrics.in_flight == 2)
    one.answer("a2")
    one.answer("a3")
    assert (await clients[1].reply()).fields["x-aither-waited-ms"] == "0"
    assert int((await clients[2].reply()).fields["x-aither-waited-ms"]) > 0
    assert one.served == ["a1", "a2", "a3"]


async def test_a_stream_that_waits_for_its_turn_is_told_so(house: House, queue: Queue) -> None:
    one = await desk(house, 1, comment_interval=0.05)
    clients = await queue("a1", "a2s")
    text = await clients[1].reader.readuntil(b"waiting for vision")
    assert text.startswith(b"HTTP/1.1 200")
    one.answer("a1")
    one.answer("a2s")
    await clients[1].reader.readuntil(b'{"choices":[]}')


async def test_a_turn_that_does_not_come_is_not_waited_for_for_ever(house: House, queue: Queue) -> None:
    one = await desk(house, 1, first_byte_timeout=0.3)
    clients = await queue("a1", "a2")
    assert sorted([(await client.reply()).json()["error"]["code"] for client in clients]) in (
        ["upstream_timeout", "upstream_timeout"],
        ["upstream_timeout", "wait_timeout"],
    )
    assert one.served[0] == "a1"


async def test_a_tier_does_not_wait_for_a_turn_while_another_route_can_answer(house: House, roads: Roads) -> None:
    one = Desk()
    await house.model("vision", one.script)
    house.fleet.change("vision", concurrency=1)
    await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/x")
    async with await house.client() as client:
        client.post(CHAT, b'{"model":"standard","n":"a1","messages":[]}')
        await until(lambda: one.served == ["a1"])
        assert who(await ask(house, messages=[])) == "spark"
        one.answer("a1")
        assert (await client.reply()).fields["x-aither-upstream"] == "vision"
    again = asyncio.ensure_future(ask(house, n="a2", messages=[]))
    await until(lambda: one.served == ["a1", "a2"])
    one.answer("a2")
    assert (await again).fields["x-aither-upstream"] == "vision"


@pytest.mark.parametrize("changed", [3, None])
async def test_a_bound_that_is_raised_or_lifted_holds_from_then_on(
    house: House, queue: Queue, changed: int | None
) -> None:
    one = await desk(house, 1)
    await queue("a1", "a2")
    house.fleet.change("vision", concurrency=changed)
    await asyncio.sleep(1.1)
    await queue("a3")
    await until(lambda: set(one.served) >= ({"a1", "a3"} if changed is None else {"a1"}))
    for name in ("a1", "a2", "a3"):
        one.answer(name)
    await until(lambda: house.proxy.metrics.in_flight == 0)
    assert sorted(one.served) == ["a1", "a2", "a3"]
