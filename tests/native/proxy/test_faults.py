"""What becomes of a request when its engine or its model lets it down."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aitherd.core.words import Residency
from aitherd.errors import StartFailed
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.scripts import BODY, QUICK, STREAM, for_ever, sending
from tests.native.proxy.wires import PATIENCE, Engine, Script, ok, read_request, until

# The engine.


@pytest.mark.parametrize(
    "answer",
    [
        STREAM,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        STREAM + b"zz\r\nnot a chunk",
    ],
)
async def test_an_engine_that_breaks_off_leaves_an_answer_that_is_not_whole(house: House, answer: bytes) -> None:
    await house.model("vision", sending(answer))
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        reply = await client.reply()
        assert (reply.status, reply.whole) == (200, False)
        assert b"[DONE]" not in reply.body
        assert await client.closed() == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
async def test_an_engine_that_does_not_answer_properly_is_a_502(house: House, answer: bytes) -> None:
    engine = await house.model("vision", sending(answer))
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_failed")
        client.get("/health")
        assert (await client.reply()).status == 200
    # A connection that never served before is not a reason to try again.
    assert engine.connections == 1


async def test_an_engine_that_does_not_listen_is_a_502(house: House) -> None:
    engine = await house.model("vision")
    await engine.close()
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        assert (await client.reply()).status == 502


async def test_a_silent_engine_is_a_504(house: House) -> None:
    await house.model("vision", sending(then=asyncio.Event().wait))
    await house.open(QUICK)
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_deadlines_are_looked_at_however_late_a_connection_is_made(house: House) -> None:
    """The clock that looks at them must not end between the accept and the connection: with no tick at all it would."""
    await house.model("vision", sending(then=asyncio.Event().wait))
    await house.open(replace(QUICK, tick=0.0))
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        assert (await client.reply()).status == 504


async def test_a_stream_that_stalls_is_cut(house: House) -> None:
    engine = await house.model("vision", for_ever)
    await house.open(QUICK)
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY)
        reply = await client.reply()
        assert (reply.body, reply.whole) == (b"data: 1\n\n", False)
    async with asyncio.timeout(PATIENCE):
        await engine.gone.wait()


def one_answer_each(last: bytes) -> Script:
    """Answers one request a connection as if it were to stay; at the next it says `last` and closes it."""

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.requests.append(await read_request(reader))
        writer.write(ok())
        engine.requests.append(await read_request(reader))
        writer.write(last)

    return script


async def test_a_kept_connection_that_turns_out_closed_is_replaced_once(house: House) -> None:
    engine = await house.model("vision", one_answer_each(b""))
    async with await house.client() as client:
        for _ in range(3):
            client.post("/v1/completions", BODY)
            assert (await client.reply()).status == 200
    assert engine.connections == 3


async def test_nothing_is_sent_again_once_the_engine_has_sent_a_byte(house: House) -> None:
    engine = await house.model("vision", one_answer_each(b"H"))
    async with await house.client() as client:
        client.post("/v1/completions", BODY)
        assert (await client.reply()).status == 200
        client.post("/v1/completions", BODY)
        assert (await client.reply()).status == 502
    assert (engine.connections, len(engine.requests)) == (1, 2)


async def test_an_engine_with_a_full_backlog_is_waited_for(house: House) -> None:
    async def slow(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.01)
        writer.write(ok(b"done", "Connection: close"))
        await writer.drain()

    engine = Engine(slow)
    house.engines["vision"] = engine
    await engine.on_socket(house.directory / "vision.sock", backlog=1)
    house.fleet.add("vision", engine.endpoint)

    async def ask() -> int:
        async with await house.client() as client:
            client.post("/v1/completions", BODY)
            return (await client.reply()).status

    assert await asyncio.gather(*(ask() for _ in range(60))) == [200] * 60


# The model.


async def test_a_request_for_a_model_that_is_not_ready_waits_and_says_so(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start
    async with await house.client() as client:
        client.post("/v1/completions", BODY)
        await until(lambda: house.fleet.models["vision"].waiting == 1)
        await asyncio.sleep(0.02)
        start.set_result(None)
        reply = await client.reply()
    assert reply.status == 200
    assert int(reply.fields["x-aither-waited-ms"]) >= 20
    assert reply.fields["x-aither-reason"] == "loaded for the test ? at once"


async def test_many_requests_wait_together_while_another_model_answers(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    await house.model("chat")
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start

    async def ask() -> int:
        async with await house.client() as client:
            client.post("/v1/completions", BODY)
            return (await client.reply()).status

    asking = [asyncio.create_task(ask()) for _ in range(200)]
    await until(lambda: house.fleet.models["vision"].waiting == 200)
    async with await house.client() as client:
        client.post("/v1/completions", b'{"model":"chat"}')
        assert (await client.reply()).status == 200
    start.set_result(None)
    assert await asyncio.gather(*asking) == [200] * 200


async def test_why_a_model_cannot_be_had_reaches_the_client(house: House) -> None:
    engine = await house.model("vision", residency=Residency.ABSENT)
    house.fleet.starts["vision"] = failing(
        StartFailed("vision did not start", remedy="see the journal", retry_after=2.1)
    )
    async with await house.client() as client:
        for _ in range(2):
            client.post("/v1/completions", BODY)
            reply = await client.reply()
            assert (reply.status, reply.fields["retry-after"]) == (503, "3")
            assert reply.json() == {
                "error": {
                    "message": "vision did not start: see the journal",
                    "type": "server_error",
                    "param": None,
                    "code": "engine_start_failed",
                }
            }
    assert engine.connections == 0


async def test_a_streamed_upload_waits_within_bounds_and_is_withdrawn_with_its_client(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    house.fleet.starts["vision"] = asyncio.get_running_loop().create_future
    client = await house.client()
    client.send(f"POST /upstream/vision/put HTTP/1.1\r\nHost: t\r\nContent-Length: {50 << 20}\r\n\r\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            for _ in range(400):
                client.send(bytes(65536))
                await client.writer.drain()
    client.writer.transport.abort()
    await until(lambda: house.fleet.withdrawn == ["vision"])


# The proxy itself.


async def test_draining_lets_requests_end_and_refuses_the_rest(house: House) -> None:
    gate = asyncio.Event()

    async def gated(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if b"hang" in request.body:
            await asyncio.Event().wait()
        await gate.wait()
        writer.write(ok(b"late"))
        await writer.drain()

    await house.model("vision", gated)
    ending, hanging, idle = await house.client(), await house.client(), await house.client()
    ending.post("/v1/completions", BODY)
    hanging.post("/v1/completions", b'{"model":"vision","hang":1}')
    idle.get("/health")
    await idle.reply()
    await until(lambda: house.fleet.models["vision"].in_flight == 2)
    house.proxy.close_listeners()
    draining = asyncio.create_task(house.proxy.drain(0.5))
    assert await idle.closed() == b""
    gate.set()
    reply = await ending.reply()
    assert (reply.body, reply.fields["connection"]) == (b"late", "close")
    assert (await hanging.reply()).json()["error"]["code"] == "shutting_down"
    await draining
    assert house.path.is_socket()
    with pytest.raises(OSError):
        await house.client()
    for client in (ending, hanging, idle):
        client.writer.close()
