"""What happens when a route of a tier fails: before the first byte another answers, after it nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aitherd.core.circuit import FAILURES, State
from aitherd.core.retries import Budget
from aitherd.core.routing import Candidate, Decision, Request
from aitherd.core.upstreams import Node, Reach
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, ask, roads, who
from tests.native.proxy.tiers import EVENTS, JSON, Roads, always, saying, silent
from tests.native.proxy.wires import Engine, Script, ok, until

__all__ = ["roads"]

GOOD = b'{"choices":[{"message":{"content":"first"}}]}'


def answer(status: int, body: bytes = b'{"error":{"message":"no"}}', *fields: str) -> bytes:
    return ok(body, *(fields or (JSON,))).replace(b"200 OK", b"%d Because" % status)


FAILURES_OF_AN_UPSTREAM: dict[str, Script] = {
    "it hangs up": always(b""),
    "it hangs up in its head": always(b"HTTP/1.1 200 OK\r\nContent-"),
    "it is silent": silent,
    "it speaks something else": always(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "429": always(answer(429)),
    "500": always(answer(500)),
    "502 with a page": always(answer(502, b"<html>", "Content-Type: text/html")),
    "503 that keeps the connection": always(answer(503), then_close=False),
    "529": always(answer(529)),
    "408": always(answer(408)),
    "401": always(answer(401)),
    "403": always(answer(403)),
    "404": always(answer(404)),
    "an error under a 200": always(ok(b'{"error":{"message":"overloaded"}}', JSON)),
    "an error as the first event": always(
        ok(b': hello\n\nevent: x\ndata: {"error":{"message":"overloaded"}}\n\n', EVENTS)
    ),
    "an event of the kind error": always(ok(b'event: error\r\ndata: {"type":"overloaded"}\r\n\r\n', EVENTS)),
    "JSON that is cut": always(ok(b'{"choices":[{"mess', JSON)),
    "JSON that is shorter than it says": always(ok(GOOD, JSON).replace(b": 45", b": 95")),
    "an empty 200": always(ok(b"", JSON)),
    "a stream without events": always(ok(b": hello\n\n", EVENTS)),
    "chunks that end early": always(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n"
    ),
    "cut JSON that ends with the connection": always(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + GOOD[:9]
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", FAILURES_OF_AN_UPSTREAM)
async def test_the_next_route_answers(house: House, roads: Roads, fails: str, stream: bool) -> None:
    first = await roads.upstream("first", FAILURES_OF_AN_UPSTREAM[fails], first_byte_timeout=0.2)
    second = await roads.upstream("second", saying("second"))
    await roads.open("first/a", "second/b")
    reply = await ask(house, stream=stream)
    assert (reply.status, who(reply), reply.whole) == (200, "second", True)
    assert "first/a: " in reply.fields["x-aither-reason"]
    assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize("fails", FAILURES_OF_AN_UPSTREAM)
async def test_a_model_of_this_machine_that_fails_is_replaced_alike(house: House, roads: Roads, fails: str) -> None:
    local = await house.model("vision", FAILURES_OF_AN_UPSTREAM[fails])
    await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/b", limits=Limits(tick=0.05, first_byte_timeout=0.2))
    assert who(await ask(house)) == "spark"
    assert len(local.requests) == 1


async def test_a_route_that_cannot_be_connected_to_costs_no_try(house: House, roads: Roads) -> None:
    for name in ("a", "b"):
        await (await roads.upstream(name, silent)).close()
    await roads.upstream("c", saying("c"))
    await roads.open("a/x", "b/x", "c/x")
    assert who(await ask(house)) == "c"


async def test_a_request_is_sent_twice_at_most(house: House, roads: Roads) -> None:
    engines = [await roads.upstream(name, always(answer(500 + index))) for index, name in enumerate("abc")]
    await roads.open("a/x", "b/x", "c/x")
    # The last answer is told as it is.
    assert (await ask(house)).status == 501
    assert [len(engine.requests) for engine in engines] == [1, 1, 0]


async def test_when_second_tries_are_used_up_a_failure_is_told(house: House, roads: Roads) -> None:
    await roads.upstream("first", always(answer(500)))
    second = await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    routing.budget = Budget(left=0.5)
    reply = await ask(house)
    assert (reply.status, reply.json(), second.requests) == (500, {"error": {"message": "no"}}, [])


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_what_is_the_client_s_fault_is_told_to_the_client(house: House, roads: Roads, status: int) -> None:
    await roads.upstream("first", always(answer(status)))
    second = await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    for _ in range(FAILURES + 1):
        assert (await ask(house)).status == status
    assert second.requests == []
    assert routing.remotes.by_name["first"].peers[0].circuit.failures == 0


async def test_a_refusal_of_our_key_is_not_shown_to_clients(house: House, roads: Roads) -> None:
    await roads.upstream("cloud", always(answer(401, b'{"error":{"message":"bad key sk-...abcd"}}')), Reach.CLOUD)
    await roads.open("cloud/x")
    reply = await ask(house)
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_failed")
    assert b"abcd" not in reply.body


async def test_an_unjudged_answer_of_another_kind_is_passed_on(house: House, roads: Roads) -> None:
    for body, *fields in ((b"\0\1", "Content-Type: audio/wav"), (b"", "Content-Type: audio/wav"), (b"x",)):
        engine = await roads.upstream("first", always(ok(body, *fields)))
        await roads.open("first/a")
        reply = await ask(house)
        assert (reply.status, reply.body) == (200, body)
        await engine.close()


async def test_after_the_first_byte_nobody_else_is_asked(house: House, roads: Roads) -> None:
    async def breaks(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.requests.append(await asyncio.wait_for(reader.readuntil(b"}"), 5))  # type: ignore[arg-type]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n")
        writer.write(b'data: {"choices":[1]}\n\n')
        await writer.drain()
        await asyncio.sleep(0.05)

    await roads.upstream("first", breaks)
    second = await roads.upstream("second", saying("second"))
    await roads.open("first/a", "second/b")
    reply = await ask(house, stream=True)
    assert (reply.status, reply.whole, reply.body) == (200, False, b'data: {"choices":[1]}\n\n')
    assert second.requests == []


async def test_a_node_that_fails_is_left_alone_and_taken_back(house: House, roads: Roads) -> None:
    broken = True

    async def moody(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (always(answer(500)) if broken else saying("first"))(engine, reader, writer)

    first = await roads.upstream("first", moody)
    await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    for _ in range(10):
        assert who(await ask(house)) == "second"
    assert len(first.requests) == FAILURES
    (peer,) = routing.remotes.by_name["first"].peers
    broken = False
    peer.circuit.until = 0.0
    assert who(await ask(house)) == "first"
    assert peer.circuit.state(0.0) is State.CLOSED
    assert [said.split(" at ")[0] for said in roads.said() if "first" in said] == ["the upstream first"] * 2


async def test_a_half_open_node_gets_one_request_and_a_client_that_leaves_does_not_close_it_for_good(
    house: House, roads: Roads
) -> None:
    first = await roads.upstream("first", silent)
    await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    (peer,) = routing.remotes.by_name["first"].peers
    peer.circuit.opened = True
    async with await house.client() as client:
        client.post(CHAT, b'{"model":"standard"}')
        await until(lambda: len(first.requests) == 1)
        assert [who(await ask(house)) for _ in range(3)] == ["second"] * 3
    await until(lambda: peer.circuit.state(1.0) is State.HALF_OPEN)
    assert (len(first.requests), peer.in_flight) == (1, 0)


async def test_retry_after_is_honoured(house: House, roads: Roads) -> None:
    first = await roads.upstream("first", always(answer(429, b"{}", JSON, "Retry-After: 100")))
    await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    for _ in range(3):
        assert who(await ask(house)) == "second"
    assert len(first.requests) == 1
    (peer,) = routing.remotes.by_name["first"].peers
    assert 90 < peer.circuit.resting - routing.clock() <= 100
    assert not peer.circuit.opened


async def test_a_full_node_is_passed_over_and_nodes_share(house: House, roads: Roads) -> None:
    await roads.upstream("pool", silent, concurrency=1)
    await roads.upstream("other", silent)
    await roads.upstream("last", saying("last"))
    port = roads.upstreams["other"].nodes[0].port
    pool = roads.upstreams["pool"]
    roads.upstreams["pool"] = replace(pool, nodes=(*pool.nodes, Node(False, "127.0.0.1", port, "/v1")))
    await roads.open("pool/a", "last/b")
    async with await house.client() as one, await house.client() as two:
        one.post(CHAT, b'{"model":"standard"}')
        two.post(CHAT, b'{"model":"standard"}')
        await until(lambda: [len(roads.engines[name].requests) for name in ("pool", "other")] == [1, 1])
        assert who(await ask(house)) == "last"


async def test_probes_notice_what_no_request_has_met(house: House, roads: Roads) -> None:
    engine = await roads.upstream("first", saying("first"), probe_interval=0.02)
    await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    (peer,) = routing.remotes.by_name["first"].peers
    port = engine.endpoint.port
    await engine.close()
    await until(lambda: peer.circuit.opened)
    assert who(await ask(house)) == "second"
    # It comes back, and says which models it has.
    listing = ok(b'{"data":[{"id":"other"}]}', JSON)

    async def lists(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(listing)
        writer.close()

    server = await asyncio.start_server(lists, "127.0.0.1", port)
    await until(lambda: peer.circuit.state(0.0) is State.HALF_OPEN)
    await until(lambda: peer.models == frozenset({"other"}))
    assert first_of(routing.decide(routing.named["standard"], Request())).route.upstream == "second"
    server.close()
    await server.wait_closed()


async def test_without_upstreams_nothing_wakes_up(house: House, roads: Roads) -> None:
    before = asyncio.all_tasks()
    await house.model("vision", saying("vision"))
    await roads.open("vision")
    assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("probe")]


async def test_a_kept_connection_that_was_closed_is_no_failure(house: House, roads: Roads) -> None:
    async def once(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.requests.append((await reader.readuntil(b"}")).decode())  # type: ignore[arg-type]
        writer.write(ok(GOOD, JSON))
        await writer.drain()
        await reader.read(1)

    await roads.upstream("first", once)
    second = await roads.upstream("second", saying("second"))
    routing = await roads.open("first/a", "second/b")
    for _ in range(3):
        assert who(await ask(house)) == "first"
    (peer,) = routing.remotes.by_name["first"].peers
    assert (peer.circuit.failures, second.requests) == (0, [])


async def test_an_upstream_whose_key_cannot_be_had_is_not_used_and_says_so(house: House, roads: Roads) -> None:
    cloud = await roads.upstream("cloud", saying("cloud"), Reach.CLOUD, key="missing")
    await roads.upstream("spark", saying("spark"))
    routing = await roads.open("cloud/x", "spark/y")

    def nothing(name: str) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    routing.remotes._secret = nothing
    routing.apply(routing._tiers, {**roads.upstreams, "cloud": replace(roads.upstreams["cloud"], concurrency=9)})
    reply = await ask(house)
    assert who(reply) == "spark"
    assert "the credential missing cannot be read" in reply.fields["x-aither-reason"]
    assert cloud.requests == []


def first_of(outcome: object) -> Candidate:
    assert isinstance(outcome, Decision)
    return outcome.candidates[0]
