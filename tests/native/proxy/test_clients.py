"""What becomes of a request when its client leaves, dawdles or never stops."""

from __future__ import annotations

import asyncio

import pytest

from aitherd.core.words import Residency
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.scripts import BODY, QUICK, STREAM, for_ever, sending
from tests.native.proxy.wires import PATIENCE, Engine, ok, read_head, read_request, until

# The client.


async def test_a_client_that_leaves_mid_stream_takes_its_engine_connection_with_it(house: House) -> None:
    engine = await house.model("vision", for_ever)
    client = await house.client()
    client.post("/v1/chat/completions", BODY)
    await client.reader.readuntil(b"data: 1\n\n")
    assert house.fleet.models["vision"].in_flight == 1
    client.writer.close()
    async with asyncio.timeout(PATIENCE):
        await engine.gone.wait()
    await until(lambda: house.fleet.models["vision"].in_flight == 0)


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_client_that_leaves_while_waiting_withdraws_its_demand(house: House, pipelined: bool) -> None:
    engine = await house.model("vision", residency=Residency.ABSENT)
    house.fleet.starts["vision"] = asyncio.get_running_loop().create_future
    client = await house.client()
    client.post("/v1/chat/completions", BODY)
    if pipelined:
        client.get("/health")
    await until(lambda: house.fleet.models["vision"].waiting == 1)
    client.writer.close()
    await until(lambda: house.fleet.withdrawn == ["vision"])
    assert engine.connections == 0


async def test_a_slow_reader_holds_little_and_is_cut_in_the_end(house: House) -> None:
    written = 0

    async def flood(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(high=1)
        await read_request(reader)
        writer.write(STREAM)
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            written += 65536

    engine = await house.model("vision", flood)
    await house.open(QUICK)
    client = await house.client(tcp=True, limit=1024)
    client.post("/v1/chat/completions", BODY)
    async with asyncio.timeout(PATIENCE):
        await engine.gone.wait()
    # Everything between the two ends: buffers of the proxy, of the kernel on four sockets, and of this client.
    assert written < 8 << 20
    client.writer.close()


async def test_a_reader_that_is_merely_slow_gets_everything(house: House) -> None:
    answer = bytes(range(256)) * 40_000
    await house.model("vision", sending(ok(answer)))
    client = await house.client(limit=4096)
    client.post("/v1/completions", BODY)
    await client.reader.readuntil(b"\r\n\r\n")
    got = bytearray()
    while len(got) < len(answer):
        got += await client.reader.read(100_000)
        await asyncio.sleep(0.0005)
    assert got == answer
    client.writer.close()


async def test_an_upload_is_read_only_as_fast_as_the_engine_reads_it(house: House) -> None:
    go_on = asyncio.Event()

    async def lazy(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, fields = await read_head(reader)
        await go_on.wait()
        left = int(fields["content-length"])
        while left:
            left -= len(await reader.read(65536))
        writer.write(ok(b"done"))
        await writer.drain()

    await house.model("vision", lazy)
    size = 32 << 20
    async with await house.client() as client:
        client.send(f"POST /upstream/vision/put HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
        sent = 0
        while sent < size:
            client.send(bytes(65536))
            sent += 65536
            if not go_on.is_set():
                try:
                    async with asyncio.timeout(0.3):
                        await client.writer.drain()
                except TimeoutError:
                    assert sent < 4 << 20
                    go_on.set()
            else:
                await client.writer.drain()
        assert go_on.is_set()
        assert (await client.reply()).body == b"done"


async def test_what_is_pipelined_behind_a_slow_upload_is_not_lost(house: House) -> None:
    async def slow(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, fields = await read_head(reader)
        left = int(fields["content-length"])
        while left:
            await asyncio.sleep(0.001)
            left -= len(await reader.read(100_000))
        await asyncio.sleep(0.05)
        writer.write(ok(b"done"))
        await writer.drain()

    await house.model("vision", slow)
    await house.model("chat")
    behind = b'{"model":"chat","x":"' + b"x" * 900_000 + b'"}'
    async with await house.client() as client:
        client.send(f"PUT /upstream/vision/put HTTP/1.1\r\nHost: t\r\nContent-Length: {3 << 20}\r\n\r\n")
        client.send(bytes(3 << 20))
        for _ in range(3):
            client.post("/v1/completions", behind)
            client.get("/health")
        assert (await client.reply()).body == b"done"
        for _ in range(3):
            assert (await client.reply()).body == behind
            assert (await client.reply()).status == 200


@pytest.mark.parametrize("start", [b"", b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"])
async def test_a_head_that_does_not_end_is_cut(house: House, start: bytes) -> None:
    await house.open(QUICK)
    async with await house.client() as client:
        client.send(start + b"GET /health HTTP/1.1\r\nHost")
        if start:
            assert (await client.reply()).status == 200
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (408, "request_timeout")
        assert await client.closed() == b""


async def test_a_body_that_trickles_is_cut_and_never_sent(house: House) -> None:
    engine = await house.model("vision")
    await house.open(QUICK)
    async with await house.client() as client:
        client.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{")
        assert (await client.reply()).status == 408
    assert engine.connections == 0


async def test_an_idle_connection_is_closed_and_a_waiting_one_is_not(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    await house.open(Limits(tick=0.02, keep_alive=0.1, header_timeout=0.1, body_grace=0.1, first_byte_timeout=0.1))
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start
    async with await house.client() as idle, await house.client() as waiting:
        waiting.post("/v1/completions", BODY)
        assert await idle.closed() == b""
        await asyncio.sleep(0.2)
        start.set_result(None)
        assert (await waiting.reply()).status == 200
