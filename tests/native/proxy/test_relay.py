"""A request for a ready model goes through to its engine and back, in every framing that HTTP/1.1 knows."""

from __future__ import annotations

import asyncio

import pytest

from aitherd.proxy.limits import KIB, Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import Client, Engine, Reply, Script, ok, read_request

BODY = b'{"model":"vision","messages":[]}'


def answering(*pieces: bytes, close: bool = False) -> Script:
    """A script that answers every request with the same bytes, piece by piece."""

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            engine.requests.append(await read_request(reader))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            if close:
                return

    return script


async def test_body_and_answer_arrive_unchanged(house: House) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.post("/v1/chat/completions", BODY, "Content-Type: application/json", "X-Custom: kept")
        reply = await client.reply()
    assert (reply.status, reply.body, reply.whole) == (200, BODY, True)
    request = engine.requests[0]
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.fields["x-custom"] == "kept"
    assert request.fields["host"] == "localhost"
    assert reply.fields["x-aither-upstream"] == "vision"
    assert reply.fields["x-aither-reason"] == "ready"
    assert reply.fields["x-aither-waited-ms"] == "0"


@pytest.mark.parametrize("tcp", [False, True])
async def test_keep_alive_reuses_both_connections(house: House, tcp: bool) -> None:
    engine = await house.model("vision", tcp=tcp)
    async with await house.client(tcp=tcp) as client:
        for _ in range(50):
            client.post("/v1/embeddings", BODY)
            assert (await client.reply()).body == BODY
    assert engine.connections == 1


async def test_a_kept_connection_to_an_engine_is_read_though_its_last_client_was_not_reading(house: House) -> None:
    first, last = b"x" * KIB, b"y" * (200 * KIB)
    asked = 0

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await read_request(reader)
            asked += 1
            if asked > 1:
                writer.write(ok(b"{}"))
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(first) + len(last)) + first)
            await asyncio.sleep(0.1)
            writer.write(last)
            await writer.drain()

    engine = await house.model("vision", script)
    await house.open(Limits(tick=0.05, kernel_buffer=4 * KIB))
    async with await house.client(limit=1) as slow, await house.client() as other:
        slow.post("/v1/completions", BODY)
        await asyncio.sleep(0.5)
        assert (house.proxy.metrics.in_flight, engine.connections) == (0, 1)
        other.post("/v1/completions", BODY)
        assert (await other.reply()).body == b"{}"


async def test_a_client_that_takes_nothing_has_its_next_request_wait(house: House) -> None:
    asked = 0

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await read_request(reader)
            asked += 1
            writer.write(ok(b"y" * (200 * KIB)))
            await writer.drain()

    await house.model("vision", script)
    await house.open(Limits(tick=0.05, kernel_buffer=4 * KIB))
    async with await house.client(limit=4 * KIB) as slow:
        for _ in range(3):
            slow.post("/v1/completions", BODY)
        await asyncio.sleep(0.5)
        assert asked == 1
        for _ in range(3):
            assert len((await slow.reply()).body) == 200 * KIB
    assert asked == 3


async def test_pipelined_requests_are_answered_in_order_one_after_the_other(house: House) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        for number in range(20):
            client.post("/v1/completions", b'{"model":"vision","n":%d}' % number)
            client.get("/health")
        for number in range(20):
            assert (await client.reply()).json()["n"] == number
            assert (await client.reply()).json()["status"] == "ok"
    assert engine.connections == 1


async def test_a_request_body_may_be_chunked_and_arrive_byte_by_byte(house: House) -> None:
    await house.model("vision")
    async with await house.client() as client:
        wire = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire += b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, BODY[:10], len(BODY) - 10, BODY[10:])
        for byte in wire:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.reply()).body == BODY


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 11\r\n", b"hello world"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n"),
        (b"", b"hello world"),
        (b"Connection: close\r\nContent-Length: 11\r\n", b"hello world"),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_answers_of_every_framing(house: House, head: bytes, body: bytes, version: str) -> None:
    ends = b"Length" not in head and b"chunked" not in head
    await house.model(
        "vision",
        answering(b"HTTP/1.1 200 Fine\r\n" + head + b"\r\n" + body[:4], body[4:], close=ends or b"close" in head),
    )
    async with await house.client() as client:
        client.send(f"POST /v1/completions HTTP/{version}\r\nHost: t\r\nContent-Length: {len(BODY)}\r\n\r\n".encode())
        client.send(BODY)
        reply = await client.reply()
        assert (reply.body, reply.whole) == (b"hello world", True)
        if version == "1.0":
            assert "transfer-encoding" not in reply.fields
            assert await client.closed() == b""
        else:
            client.get("/health")
            assert (await client.reply()).status == 200


async def test_http10_keeps_its_connection_when_it_asks_to(house: House) -> None:
    await house.model("vision")
    async with await house.client() as client:
        for _ in range(3):
            client.send(
                f"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {len(BODY)}\r\n\r\n"
            )
            client.send(BODY)
            reply = await client.reply()
            assert (reply.body, reply.fields["connection"]) == (BODY, "keep-alive")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body(house: House, status: bytes) -> None:
    await house.model("vision", answering(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n"))
    async with await house.client() as client:
        for _ in range(2):
            client.get("/upstream/vision/thing")
            reply = await client.reply()
            assert (reply.status, reply.fields["etag"]) == (int(status[:3]), "x")
            assert "transfer-encoding" not in reply.fields
    assert house.engines["vision"].connections == 1


async def test_head_keeps_the_length_and_has_no_body(house: House) -> None:
    await house.model("vision", answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"))
    async with await house.client() as client:
        for _ in range(2):
            client.get("/upstream/vision/big", method="HEAD")
            reply = await client.reply(head_only=True)
            assert reply.fields["content-length"] == "5000"
        client.get("/v1/models", method="HEAD")
        assert (await client.reply(head_only=True)).status == 200
    assert house.engines["vision"].connections == 1


async def test_informational_answers_pass_but_not_the_engines_100(house: House) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    await house.model("vision", answering(early + ok(b"done")))
    async with await house.client() as client:
        client.get("/upstream/vision/")
        hints = await client.reply()
        assert (hints.status, hints.fields["link"]) == (103, "</x>")
        assert (await client.reply()).body == b"done"


async def test_expect_100_continue_is_answered_before_the_body_is_sent(house: House) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.send(
            f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        assert (await client.reply()).status == 100
        client.send(BODY)
        assert (await client.reply()).body == BODY
    assert "expect" not in engine.requests[0].fields


async def test_hop_by_hop_fields_and_credentials_stay_here(house: House) -> None:
    engine = await house.model(
        "vision",
        answering(
            ok(b"{}", "Keep-Alive: timeout=5", "Connection: X-Hop", "X-Hop: 1", "X-Kept: 2", "X-Aither-Reason: lie")
        ),
    )
    async with await house.client() as client:
        client.post(
            "/v1/completions", BODY, "Connection: keep-alive, X-Secret", "X-Secret: 1", "TE: trailers", "Keep-Alive: 5",
            "Proxy-Authorization: x", "Authorization: Bearer sk", "Upgrade: h2c", "X-Kept: 2",
        )  # fmt: skip
        reply = await client.reply()
    sent = engine.requests[0].fields
    assert sent.keys() == {"host", "content-length", "x-kept"}
    assert reply.fields.keys() >= {"x-kept"}
    assert reply.fields.keys().isdisjoint({"keep-alive", "x-hop", "connection"})
    assert reply.fields["x-aither-reason"] == "ready"


async def test_streamed_chunks_come_one_by_one(house: House) -> None:
    gate = asyncio.Semaphore(0)

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await gate.acquire()
        writer.write(b"0\r\n\r\n")
        await gate.acquire()

    await house.model("vision", script)
    async with await house.client(tcp=True) as client:
        client.post("/v1/chat/completions", BODY)
        assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        for number in range(3):
            # The engine sends the next event only after this one has arrived.
            assert await client.reader.readexactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
            gate.release()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        gate.release()


async def test_a_model_asked_for_by_its_own_name_is_called_what_its_engine_knows(house: House) -> None:
    await house.model("vision", serves=("qwen2.5-vl", "eyes"))
    async with await house.client() as client:
        client.post("/v1/completions", b'{"a": [1, 2.50], "model":"x", "model": "vision"}')
        assert (await client.reply()).body == b'{"a":[1, 2.50],"model":"qwen2.5-vl"}'
        client.post("/v1/completions", b'{"model": "eyes", "a": 1}')
        assert (await client.reply()).body == b'{"model": "eyes", "a": 1}'


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its Content-Type."""
    body = b"".join(
        b'--XX\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (name.encode(), b'; filename="a.wav"' if name == "file" else b"", value)
        for name, value in parts
    )
    return body + b"--XX--\r\n", "Content-Type: multipart/form-data; boundary=XX"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("first", ["model", "file"])
async def test_a_form_is_routed_by_its_model_field_and_streamed(house: House, first: str, chunked: bool) -> None:
    engine = await house.model("hearing", serves=("whisper-1",))
    audio = bytes(range(256)) * 8192
    parts = [("model", b"hearing"), ("file", audio)]
    body, content_type = form(*(parts if first == "model" else reversed(parts)))
    async with await house.client() as client:
        if chunked:
            client.send(
                f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: t\r\n{content_type}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            )
            for start in range(0, len(body), 50_000):
                piece = body[start : start + 50_000]
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                await client.writer.drain()
            client.send(b"0\r\n\r\n")
        else:
            client.post("/v1/audio/transcriptions", body, content_type)
        reply = await client.reply()
    assert reply.status == 200
    expected, _ = form(
        *(
            (name, b"whisper-1" if name == "model" else value)
            for name, value in (parts if first == "model" else reversed(parts))
        )
    )
    assert reply.body == expected
    assert ("transfer-encoding" in engine.requests[0].fields) is chunked


async def ask(client: Client, path: str, body: bytes = BODY) -> Reply:
    client.post(path, body)
    return await client.reply()


async def test_every_json_route_goes_through(house: House) -> None:
    engine = await house.model("vision")
    routes = [
        "chat/completions",
        "completions",
        "embeddings",
        "responses",
        "rerank",
        "audio/speech",
        "images/generations",
    ]
    async with await house.client() as client:
        for route in routes:
            assert (await ask(client, f"/v1/{route}")).status == 200
    assert [request.line.split()[1] for request in engine.requests] == [f"/v1/{route}" for route in routes]


async def test_upstream_passes_method_path_query_and_body(house: House) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.send("PUT /upstream/vision/a/b%20c?x=%2F&y HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
        assert (await client.reply()).body == b"abc"
        client.get("/upstream/vision")
        assert (await client.reply()).status == 200
    assert [request.line for request in engine.requests] == ["PUT /a/b%20c?x=%2F&y HTTP/1.1", "GET / HTTP/1.1"]
