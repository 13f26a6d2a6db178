"""`/events`: how things are, what changes, what is recorded, and what becomes of clients that do not read."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aitherd.conductor.records import Event
from aitherd.core.words import Residency
from aitherd.proxy.limits import KIB, Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import PATIENCE, Client, read_head, until

QUICK = Limits(tick=0.05, event_pause=0.01, event_interval=0.05, comment_interval=0.2)


@dataclass
class Told:
    """One event, or a comment."""

    name: str = ""
    data: Any = None
    id: str = ""
    comments: list[str] = field(default_factory=list)


class Listening:
    """A client in the middle of its stream."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._text = b""

    async def told(self) -> Told:
        """The next block."""
        async with asyncio.timeout(PATIENCE):
            while b"\n\n" not in self._text:
                size = int(await self.client.reader.readline(), 16)
                if not size:
                    raise EOFError
                self._text += await self.client.reader.readexactly(size)
                await self.client.reader.readexactly(2)
        block, _, self._text = self._text.partition(b"\n\n")
        found = Told()
        for line in block.decode().split("\n"):
            key, _, value = line.partition(": ")
            if not key:
                found.comments.append(value)
            elif key == "data":
                found.data = json.loads(value)
            elif key in {"event", "id"}:
                setattr(found, {"event": "name"}.get(key, key), value)
        return found

    async def until(self, name: str, **data: object) -> Told:
        """The next event of a name whose data has these members."""
        while True:
            found = await self.told()
            if found.name == name and data.items() <= found.data.items():
                return found


async def listen(house: House, path: str = "/events", *fields: str) -> Listening:
    client = await house.client()
    client.get(path, *fields)
    line, head = await read_head(client.reader)
    assert "200" in line
    assert head["content-type"].startswith("text/event-stream")
    return Listening(client)


async def test_state_comes_first_and_then_whatever_changes(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    await house.open(QUICK)
    stream = await listen(house)
    assert (await stream.until("health")).data == {"problems": []}
    assert (await stream.until("model")).data["residency"] == "absent"
    device = (await stream.until("device")).data
    assert (device["id"], device["watts"], sum(device["owners"].values())) == ("gpu0", 100.0, device["total"])
    house.fleet.change("vision", residency=Residency.STARTING, stage="loading")
    assert (await stream.until("model", residency="starting")).data["stage"] == "loading"
    house.fleet.broken = ("gpu0 is lost",)
    assert (await stream.until("health")).data == {"problems": ["gpu0 is lost"]}
    house.fleet.watts = 250.0
    assert (await stream.until("device")).data["watts"] == 250.0
    del house.fleet.models["vision"]
    assert await gone(stream) == ["model", "vision"]
    stream.client.writer.close()
    await until(lambda: not house.fleet.listeners)


async def gone(stream: Listening) -> list[str]:
    """What the next event says is gone."""
    while (found := await stream.told()).name != "gone":
        pass
    what: list[str] = found.data
    return what


async def test_records_come_with_ids_from_which_a_client_goes_on(house: House) -> None:
    await house.open(QUICK)
    stream = await listen(house)
    house.records.add(Event.PLAN, "start vision", model="vision", seconds=1.5)
    first = await stream.until("record")
    assert first.data["event"] == "plan"
    assert first.data["fields"] == {"seconds": 1.5}
    stream.client.writer.close()
    house.records.add(Event.STEP, "starting vision", model="vision")
    house.records.add(Event.READY, "vision is ready", model="vision")
    again = await listen(house, "/events", f"Last-Event-ID: {first.id}")
    assert [(await again.until("record")).data["event"] for _ in range(2)] == ["step", "ready"]
    again.client.writer.close()


async def test_a_client_of_an_earlier_daemon_gets_what_there_is_and_is_told(house: House) -> None:
    await house.open(QUICK)
    house.records.add(Event.READY, "vision is ready", model="vision")
    stream = await listen(house, "/events", "Last-Event-ID: 12.700")
    comments = []
    while (found := await stream.told()).name != "record":
        comments += found.comments
    assert "started anew" in comments[0]
    assert found.data["message"] == "vision is ready"
    stream.client.writer.close()


async def test_the_latest_records_may_be_asked_for(house: House) -> None:
    await house.open(QUICK)
    for number in range(5):
        house.records.add(Event.STEP, f"step {number}")
    stream = await listen(house, "/events?records=2")
    assert [(await stream.until("record")).data["message"] for _ in range(2)] == ["step 3", "step 4"]
    stream.client.writer.close()
    async with await house.client() as client:
        client.get("/events?records=many")
        assert (await client.reply()).status == 400


async def test_a_quiet_stream_has_comments(house: House) -> None:
    await house.open(QUICK)
    stream = await listen(house)
    while not (await stream.told()).comments:
        pass
    stream.client.writer.close()


async def test_a_client_that_does_not_read_is_dropped_and_told(house: House) -> None:
    await house.open(Limits(tick=0.05, event_pause=0.001, event_ahead=64 * KIB, high_water=KIB, kernel_buffer=4 * KIB))
    slow = await house.client(limit=KIB)
    slow.get("/events")
    stream = await listen(house)
    await until(lambda: len(house.proxy._context.events) == 2)
    for number in range(200):
        house.records.add(Event.STEP, f"{number} " + "x" * 8192)
        await stream.until("record")
        if len(house.proxy._context.events) == 1:
            break
    else:
        raise AssertionError("it was never dropped")
    rest = await slow.closed()
    assert b": dropped: too slow" in rest
    assert rest.endswith(b"0\r\n\r\n")
    slow.writer.close()
    stream.client.writer.close()


async def test_there_may_be_only_so_many(house: House) -> None:
    await house.open(Limits(tick=0.05, event_listeners=1))
    stream = await listen(house)
    async with await house.client() as client:
        client.get("/events")
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (503, "too_many_listeners")
        assert "retry-after" in reply.fields
    stream.client.writer.close()


async def test_the_end_of_the_daemon_ends_the_stream_at_once(house: House) -> None:
    await house.open(QUICK)
    stream = await listen(house)
    house.proxy.close_listeners()
    await asyncio.wait_for(house.proxy.drain(PATIENCE * 2), PATIENCE)
    assert (await stream.client.closed()).endswith(b"0\r\n\r\n")
    stream.client.writer.close()


async def test_old_clients_and_head_are_answered_as_they_can_read(house: House) -> None:
    await house.model("vision")
    async with await house.client() as client:
        client.get("/events", method="HEAD")
        reply = await client.reply(head_only=True)
        assert (reply.status, reply.fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
        client.get("/v1/models")
        assert (await client.reply()).status == 200
    async with await house.client() as client:
        client.send(b"GET /events HTTP/1.0\r\n\r\n")
        _, fields = await read_head(client.reader)
        assert "transfer-encoding" not in fields
        assert await client.reader.readline() == b"retry: 2000\n"
